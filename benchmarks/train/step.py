"""Time whole optimizer steps of one pass, against open_clip's own loop.

The same model, batches in memory, AdamW, float32; nothing reads data. Ratios are taken round by round. `--clock
processor` with OMP_NUM_THREADS=1 is for a machine that has other work to do too.
"""

import argparse

from benchmarks.tools.commands import Subject
from benchmarks.train.optimizer_steps import add_step_arguments, table


def step(arguments: argparse.Namespace) -> list[str]:
    """Compare whole steps of one pass."""
    return table(arguments, "## An optimizer step, one pass", "open_clip's loop", 1)


SUBJECT = Subject("step", __doc__, add_step_arguments, step)
