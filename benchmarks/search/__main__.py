"""What does a greedy search cost? Images per rejected trial on simulated pools; time and memory on a real one.

python -m benchmarks.search simulated
python -m benchmarks.search pool --work DIR
python -m benchmarks.search real --work DIR
python -m benchmarks.search memory --work DIR
python -m benchmarks.search alike
python -m benchmarks.search arithmetic --work DIR
python -m benchmarks.search proxy --work DIR
python -m benchmarks.search learned --work DIR
"""

from benchmarks.search import alike, arithmetic, learned, memory, pool, proxy, real, simulated
from benchmarks.tools.commands import Room

ROOM = Room(
    "search",
    __doc__,
    tuple(each.SUBJECT for each in (simulated, pool, real, memory, alike, arithmetic, proxy, learned)),
)

if __name__ == "__main__":
    ROOM.run()
