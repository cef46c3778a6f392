"""How fast is a merge, and in how much memory? soupkit, its peers and the floor, side by side.

python -m benchmarks.merge speed ViT-bigG-14 --work /tmp/soupkit-benchmark
python -m benchmarks.merge methods ViT-bigG-14 --work /tmp/soupkit-benchmark
python -m benchmarks.merge memory ViT-B-32:3 ViT-bigG-14:3 ViT-bigG-14:8 --work /tmp/soupkit-benchmark
python -m benchmarks.merge llm 3B --work /tmp/soupkit-benchmark
python -m benchmarks.merge logits 1B --work /tmp/soupkit-benchmark
python -m benchmarks.merge device ViT-bigG-14 --work /tmp/soupkit-benchmark
python -m benchmarks.merge checkpoints ViT-B-32 --work /tmp/soupkit-benchmark
"""

from benchmarks.merge import checkpoints, device, llm, logits, memory, methods, speed
from benchmarks.tools.commands import Room

_SUBJECTS = (
    speed.SUBJECT, methods.SUBJECT, memory.SUBJECT, llm.SUBJECT, logits.SUBJECT, device.SUBJECT, checkpoints.SUBJECT,
)  # fmt: skip
ROOM = Room("merge", __doc__, _SUBJECTS)

if __name__ == "__main__":
    ROOM.run()
