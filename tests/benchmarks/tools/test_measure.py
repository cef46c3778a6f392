"""What a command took is measured over all of its processes."""

import sys

from benchmarks.tools.measure import measure


def test_memory_of_a_process_and_its_children_is_measured() -> None:
    child = "x = bytearray(200_000_000); import time; time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = measure([sys.executable, "-c", code + "; print('{\"merge\": 1.5}')"])
    assert run.merge == 1.5 and run.process > 0.5
    assert run.anonymous > 200_000_000 and run.resident > run.anonymous


def test_what_forks_share_counts_once() -> None:
    fill = "x = bytearray(200_000_000); x[::4096] = b'x' * len(x[::4096])"
    code = f"import os, time; {fill}; pid = os.fork(); time.sleep(0.5); pid and os.waitpid(pid, 0)"
    run = measure([sys.executable, "-c", code + "; pid and print('{\"merge\": 1.5}')"])
    assert 200_000_000 < run.anonymous < 300_000_000 and run.resident > 400_000_000
