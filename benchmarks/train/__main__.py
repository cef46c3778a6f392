"""How fast is the trainer, and what does its loss hold? Beside open_clip's loss and its trainer's own loop.

python -m benchmarks.train loss --batch 16384 --width 1024
python -m benchmarks.train step --batches 256 512 1024
python -m benchmarks.train accumulation --batches 512 1024 2048 4096
python -m benchmarks.train trainer --workers 1 2 default --work /tmp/soupkit-benchmark
python -m benchmarks.train cuda --model ViT-bigG-14 --batch 64
python -m benchmarks.train shards --shards 20 --samples 10000
python -m benchmarks.train orders --shards 200000
"""

from benchmarks.tools.commands import Room
from benchmarks.train import accumulation, cuda, loss, orders, shards, step, trainer

ROOM = Room(
    "train",
    __doc__,
    (
        loss.SUBJECT,
        step.SUBJECT,
        accumulation.SUBJECT,
        trainer.SUBJECT,
        cuda.SUBJECT,
        shards.SUBJECT,
        orders.SUBJECT,
    ),
)

if __name__ == "__main__":
    ROOM.run()
