"""Time draws from the order over many shards of 10,000 samples, and measure what memory the order takes."""

import argparse
import resource

import numpy as np

from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from soupkit.training.order import order_of

_DRAWS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=200_000)


def orders(arguments: argparse.Namespace) -> list[str]:
    """Draw a million samples."""
    before = peak()
    order = order_of(np.full(arguments.shards, 10_000), None, 0, share=1.0, balanced=False, block=16)
    order(0)
    seconds = timed(lambda: [order(k) for k in range(_DRAWS)])
    return [
        f"## {len(order):,} samples in {arguments.shards:,} shards",
        "",
        machine(),
        "",
        "| draws/s | memory, MB |",
        "|---|---|",
        f"| {_DRAWS / seconds:,.0f} | {(peak() - before) / 1e6:.1f} |",
    ]


def peak() -> float:
    """Return the most memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


SUBJECT = Subject("orders", __doc__, add_arguments, orders)
