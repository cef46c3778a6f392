"""Does the trainer make soups? Stage 1, its fine-tunes and their soups with several sets of seeds, scored.

python -m benchmarks.soups digits --seeds 5 --work /tmp/soupkit-soups
python -m benchmarks.soups fashion --seeds 5 --minutes 6 --work /tmp/soupkit-soups
python -m benchmarks.soups converged --seeds 3 --work /tmp/soupkit-soups
python -m benchmarks.soups classification --seeds 3 --work /tmp/soupkit-soups
python -m benchmarks.soups scenes --work .
"""

from benchmarks.soups import classification, scenes, study
from benchmarks.tools.commands import Room

ROOM = Room("soups", __doc__, (*study.SUBJECTS, classification.SUBJECT, scenes.SUBJECT))

if __name__ == "__main__":
    ROOM.run()
