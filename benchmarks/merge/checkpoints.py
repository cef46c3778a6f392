"""Make synthetic checkpoints of any open_clip architecture, to try things on: random weights around a shared base."""

import argparse

from benchmarks.tools.commands import Subject
from benchmarks.tools.synthetic import make_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="any open_clip architecture")
    parser.add_argument("--count", type=int, default=3, help="how many")
    parser.add_argument("--dtype", default="bfloat16", help="torch's name of it")


def checkpoints(arguments: argparse.Namespace) -> list[str]:
    """Make them, and return where they are."""
    made = make_checkpoints(arguments.model, arguments.count, arguments.dtype, arguments.work)
    return [f"- `{path}`" for path in made]


SUBJECT = Subject("checkpoints", __doc__, add_arguments, checkpoints, needs_work=True)
