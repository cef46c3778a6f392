"""What does a greedy search cost? Images per rejected trial on simulated pools; time and memory on a real one.

python -m benchmarks.search simulated
python -m benchmarks.search pool --work DIR
python -m benchmarks.search real --work DIR
python -m benchmarks.search memory --work DIR
python -m benchmarks.search alike
python -m benchmarks.search arithmetic --work DIR
"""

from benchmarks.search import alike, arithmetic, memory, pool, real, simulated
from benchmarks.tools.commands import Room

ROOM = Room(
    "search",
    __doc__,
    (simulated.SUBJECT, pool.SUBJECT, real.SUBJECT, memory.SUBJECT, alike.SUBJECT, arithmetic.SUBJECT),
)

if __name__ == "__main__":
    ROOM.run()
