"""The tests of soupkit."""

import os

# Side by side, the processes of the suite share the cores: more threads than cores wait for each other by spinning,
# which doubles the suite's time on two cores. Set before torch is imported, and inherited by every process under test.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
