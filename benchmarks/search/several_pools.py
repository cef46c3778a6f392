"""Several pools of small fine-tunes of one base, which have no run in common, and what soups of theirs get right on
images that neither trained nor selected."""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.search.pool import FASHION_MNIST, fine_tunes, make_base, write_task

# Of the published training set; no two have an image in common.
SPLITS = {"train": slice(0, 20_000), "val": slice(20_000, 25_000), "test": slice(40_000, 60_000)}


def add_pool_arguments(parser: argparse.ArgumentParser, ingredients: int) -> None:
    """Add how many pools there are, of how many ingredients each, and where their images are."""
    parser.add_argument("--pools", type=int, default=5)
    parser.add_argument("--ingredients", type=int, default=ingredients)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="folder with Fashion-MNIST's four files")


def make_pools(arguments: argparse.Namespace) -> tuple[Path, list[list[Path]]]:
    """Return the task, and the ingredients of each pool; what is there already is kept."""
    task = write_task(arguments.data, arguments.work / "three-splits", SPLITS)
    base = make_base(task, arguments.work / "base-of-pools")
    pools = []
    for number in range(arguments.pools):
        folder, first = arguments.work / f"pool-{number + 1}", 1000 * number + 1
        pools.append(fine_tunes(task, base, folder, arguments.ingredients, first_seed=first, quick=True))
        print(f"  pool {number + 1}: {arguments.ingredients} ingredients", file=sys.stderr)
    return task, pools


def held_out_hits(soup: Path, task: Path, cache: Path) -> np.ndarray:
    """Return what `soup` gets right of the images of split `test`, bool [N]."""
    from soupkit.checkpoint.architecture import architecture_of
    from soupkit.checkpoint.reference import open_checkpoint
    from soupkit.evaluation.evaluator import Evaluator
    from soupkit.evaluation.options import EvaluationOptions
    from soupkit.evaluation.outcomes import Hits
    from soupkit.evaluation.tasks import open_tasks

    with open_checkpoint(soup) as checkpoint:
        config = architecture_of(checkpoint).config
        assert config is not None
        options = EvaluationOptions(device="cpu", cache=cache)
        files = checkpoint.tokenizer_files
        with Evaluator(config, open_tasks([f"{task}:test"]), options, tokenizer_files=files, where=soup) as evaluator:
            evaluator.load(checkpoint)
            (outcome,) = evaluator.outcomes()
    assert isinstance(outcome, Hits)
    return outcome.top1
