"""Did a change make soupkit slower? Two versions of it do the same work in turns.

git worktree add /tmp/before v0.1.0
python -m benchmarks.versions ratios --before /tmp/before --work /tmp/soupkit-benchmark
"""

from benchmarks.tools.commands import Room
from benchmarks.versions import ratios

ROOM = Room("versions", __doc__, (ratios.SUBJECT,))

if __name__ == "__main__":
    ROOM.run()
