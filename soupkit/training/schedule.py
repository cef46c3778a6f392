"""The learning rate as a function of the samples that were seen."""

import math
from dataclasses import dataclass

from soupkit.training.entry import TrainEntry


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up over `warmup` samples to `lr`, then half a cosine to 0 at `total`, or `constant`.

    `offset` is where on the schedule the run begins; `batch` the samples of a step. The values are those of open_clip's
    `cosine_lr` and `const_lr`, which count steps.
    """

    lr: float
    warmup: int
    total: int
    batch: int
    offset: int = 0
    constant: bool = False

    def __call__(self, samples: int) -> float:
        """Return the rate of the step that begins after `samples` samples of this run."""
        position = self.offset + samples
        if position < self.warmup:
            return self.lr * min(1.0, (position + self.batch) / self.warmup)
        if self.constant:
            return self.lr
        done = (position - self.warmup) / max(1, self.total - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def highest(self, steps: int) -> int:
        """Return before which of a run's samples, of `steps` steps, the rate is highest."""
        end = (self.warmup - self.offset) // self.batch  # the rate rises until here, and falls from here on
        return max((min(max(0, end + i), steps - 1) * self.batch for i in (-1, 0, 1)), key=self)


def schedule_of(entry: TrainEntry) -> Schedule:
    """Return the schedule of a run; a continued one begins where the run before ended."""
    offset = (entry.continued_from or 0) if entry.schedule == "continued" else 0
    length = -(-entry.samples // entry.batch_size) * entry.batch_size
    return Schedule(
        entry.lr, entry.warmup, offset + length, entry.batch_size, offset, constant=entry.schedule == "constant"
    )
