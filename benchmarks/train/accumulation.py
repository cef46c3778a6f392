"""Time whole optimizer steps over 8 micro-batches, against open_clip's own loop with `--accum-freq 8`.

The same model, batches in memory, AdamW, float32; nothing reads data. Ratios are taken round by round. `--clock
processor` with OMP_NUM_THREADS=1 is for a machine that has other work to do too.
"""

import argparse

from benchmarks.tools.commands import Subject
from benchmarks.train.optimizer_steps import add_step_arguments, table

MICRO_BATCHES = 8


def accumulation(arguments: argparse.Namespace) -> list[str]:
    """Compare whole steps over 8 micro-batches."""
    title = f"## An optimizer step over {MICRO_BATCHES} micro-batches"
    return table(arguments, title, f"open_clip's loop, `--accum-freq {MICRO_BATCHES}`", MICRO_BATCHES)


SUBJECT = Subject("accumulation", __doc__, add_step_arguments, accumulation)
