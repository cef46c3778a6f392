"""How fast is the evaluator, and in how much memory? Beside open_clip's functions and clip-benchmark.

python -m benchmarks.evaluate classifier --classes 50
python -m benchmarks.evaluate growth --classes 50 200 1000
python -m benchmarks.evaluate candidates --work /tmp/soupkit-benchmark
python -m benchmarks.evaluate memory --work /tmp/soupkit-benchmark
python -m benchmarks.evaluate normalisation
python -m benchmarks.evaluate throughput --model ViT-bigG-14 --precision bf16 --device cuda --images 20000
"""

from benchmarks.evaluate import candidates, classifier, growth, memory, normalisation, throughput
from benchmarks.tools.commands import Room

ROOM = Room(
    "evaluate",
    __doc__,
    (
        classifier.SUBJECT,
        growth.SUBJECT,
        candidates.SUBJECT,
        memory.SUBJECT,
        normalisation.SUBJECT,
        throughput.SUBJECT,
    ),
)

if __name__ == "__main__":
    ROOM.run()
