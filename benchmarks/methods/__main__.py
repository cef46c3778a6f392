"""Which merge method is worth trying? Pools of small models, every method with its defaults and with chosen parameters.

python -m benchmarks.methods digits --seeds 5 --work /tmp/soupkit-methods
python -m benchmarks.methods fashion --seeds 5 --work /tmp/soupkit-methods --data DIR
python -m benchmarks.methods tasks --seeds 5 --work /tmp/soupkit-methods --data DIR
"""

from benchmarks.methods import study
from benchmarks.tools.commands import Room

ROOM = Room("methods", __doc__, study.SUBJECTS)

if __name__ == "__main__":
    ROOM.run()
