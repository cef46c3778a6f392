"""Several pools of small fine-tunes of one base, drawn as recipes/sweep.yaml draws them, which have no run in common;
and what soups of theirs get right on images that neither trained nor selected."""

import argparse
import sys
from pathlib import Path

import numpy as np

import soupkit
from benchmarks import ROOT
from benchmarks.search.pool import FASHION_MNIST, make_base, write_task
from soupkit.training import TrainOptions, read_runs

# Of the published training set; no two have an image in common.
SPLITS = {"train": slice(0, 20_000), "val": slice(20_000, 25_000), "test": slice(40_000, 60_000)}

RECIPE = ROOT / "recipes" / "sweep.yaml"
# The recipe's draws for a tower of 0.2 M parameters: rates over more than a decade, from timid to so bold that a run
# leaves its base, and lengths from one to four as there. Pictures of 28 pixels bear milder crops.
_DRAW = (
    "{lr: {log_uniform: [1.0e-4, 4.0e-3]}, weight_decay: {log_uniform: [1.0e-4, 0.6]}, "
    "samples: {int_uniform: [1600, 6400]}, augmentation.scale: {choice: [[0.9, 1.0], [0.7, 1.0], [0.5, 1.0]]}}"
)
_BASE_SAMPLES = 12_000  # so few that fine-tuning still gains


def add_pool_arguments(parser: argparse.ArgumentParser, ingredients: int) -> None:
    """Add which pools there are, of how many ingredients each, and where their images are."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of the sweep that a pool is")
    parser.add_argument("--ingredients", type=int, default=ingredients)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="folder with Fashion-MNIST's four files")


def make_pools(arguments: argparse.Namespace) -> tuple[Path, dict[int, list[Path]]]:
    """Return the task, and the ingredients of each pool by its seed; what is there already is kept."""
    task = write_task(arguments.data, arguments.work / "three-splits", SPLITS)
    base = make_base(task, arguments.work / "base-of-pools", samples=_BASE_SAMPLES, warmup=_BASE_SAMPLES // 10)
    pools = {}
    for seed in arguments.seeds:
        pools[seed] = sweep(task, base, arguments.work / f"pool-{seed}", arguments.ingredients, seed=seed)
        print(f"  pool {seed}: {arguments.ingredients} ingredients", file=sys.stderr)
    return task, pools


def sweep(task: Path, base: Path, folder: Path, count: int, *, seed: int) -> list[Path]:
    """Train `count` runs of the recipe's sweep with another `seed`, on `task` from `base`; those that are there are
    kept. The text tower stays the base's, so that many pools are made in minutes."""
    settings = [
        f"tune.init={base}", f"tune.data={{shards: '{task}:train', balanced: true}}", "tune.batch_size=80",
        "tune.warmup=400", "tune.precision=fp32", "tune.evaluate=null", "tune.lock_text=true",
        f"tune.seed={1000 * seed}", f"tune.sweep.draw={_DRAW}", f"tune.sweep.count={count}", f"tune.sweep.seed={seed}",
    ]  # fmt: skip
    made = []
    for run in read_runs(RECIPE, settings):
        options = TrainOptions(device="cpu", workers=0, threads=1)
        made.append(soupkit.train(run.entry, folder / run.name, options=options).output)
    return made


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
