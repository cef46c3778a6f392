"""Sets of seeds of a recipe, trained, merged and scored: does a soup beat the best of its ingredients, and by how much?

For every set a soup is compared with the best of its ingredients, chosen with hindsight, on the same images. Ctrl-C and
the like lose little: the same command goes on.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import soupkit
from benchmarks import ROOT
from benchmarks.soups.scenes import add_data_argument, find_source, make_scenes
from benchmarks.soups.table import Gain, Seed, gain_over, tables
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from soupkit.evaluation import Evaluation, EvaluationOptions
from soupkit.schema import Document
from soupkit.training import Run, TrainOptions, read_runs
from soupkit.training.entry import DataEntry
from soupkit.training.runs import RUN_REFERENCE

DIGITS = """Train recipes/digits.yaml with several sets of seeds; `soupkit demo` trains it with the set number 0.

Number 0 is also the set that the settings were chosen with."""
FASHION = """Train the larger recipes/fashion-mnist.yaml with several sets of seeds.

Its data are made here from Debian's package dataset-fashion-mnist or from --data DIR. Set number 0 is the one that the
settings were chosen with."""
CONVERGED = """Train Fashion-MNIST with a stage 1 of 240,000 samples and three fine-tunes of different seeds alone.

The fine-tunes have one length and one constant rate. Set number 0 is the one that the settings were chosen with."""


@dataclass(frozen=True, slots=True)
class Study:
    """What is trained and what it is scored on, under its name on the command line.

    `minutes` is what the recipe as it is takes for one set of seeds.

    `changes` are settings that differ from the recipe's; `only` are the runs taken from it, where that is not all.
    """

    name: str
    text: str
    recipe: Path
    minutes: float
    tasks: tuple[str, ...]
    changes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def needs_scenes(self) -> bool:
        """Whether its data are those of Fashion-MNIST."""
        return any(task.startswith("fashion-mnist/") for task in self.tasks)


STUDIES = (
    Study("digits", DIGITS, ROOT / "recipes" / "digits.yaml", 2, ("digits",)),
    Study("fashion", FASHION, ROOT / "recipes" / "fashion-mnist.yaml", 6, ("fashion-mnist/single",)),
    Study(
        "converged",
        CONVERGED,
        ROOT / "recipes" / "fashion-mnist.yaml",
        6,
        ("fashion-mnist/single",),
        changes=(
            "stage1.samples=240e3",
            "stage1.warmup=14400",
            *(f"{run}.{one}" for run in "def" for one in ("lr=1e-3", "samples=9.6e3", "warmup=960")),
        ),
        only=("stage1", "d", "e", "f"),
    ),
)


def add_arguments(parser: argparse.ArgumentParser, study: Study) -> None:
    if study.needs_scenes:
        add_data_argument(parser)
    parser.add_argument("--seeds", type=int, default=5, help="how many sets of seeds")
    parser.add_argument("--first", type=int, default=1, help="number of the first set")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"what a set takes on one core, roughly, {study.minutes:g} by default; lengths and warm-ups are those of "
        "the recipe in that proportion",
    )
    parser.add_argument("--split", default="test", help="val is for choosing settings")


def run(study: Study, arguments: argparse.Namespace) -> list[str]:
    """Train, merge and score every set of seeds, and return the tables."""
    if study.needs_scenes:
        make_scenes(find_source(arguments.data), arguments.work / "fashion-mnist")
    minutes = arguments.minutes or study.minutes
    directory = arguments.work / f"{study.name}-{minutes:g}-minutes"
    runs = runs_of(study, minutes / study.minutes)
    soups = soups_of(study.recipe, list(runs))
    seeds = []
    for number in range(arguments.first, arguments.first + arguments.seeds):
        started = time.process_time()
        seeds.append(one_seed(study, runs, soups, number, directory / f"seeds-{number}", arguments))
        print(f"seeds {number}: {time.process_time() - started:.0f} s of the processor", file=sys.stderr, flush=True)
    steps = ", ".join(f"{name} {run.entry.steps * run.entry.batch_size:,}" for name, run in runs.items())
    title = f"## {study.recipe.name}: {len(seeds)} sets of seeds, split `{arguments.split}`"
    return [title, "", f"Samples: {steps}. {machine()}.", "", *tables(seeds)]


def runs_of(study: Study, factor: float) -> dict[str, Run]:
    """Return the recipe's runs, `factor` times as long."""
    settings = [
        f"{run.name}.{key}={max(1, round(factor * length))}"
        for run in read_runs(study.recipe, study.changes)
        for key in ("samples", "warmup", "stop_at")
        if (length := getattr(run.entry, key))
    ]
    runs = read_runs(study.recipe, [*study.changes, *settings])
    return {run.name: run for run in runs if not study.only or run.name in study.only}


def soups_of(recipe: Path, runs: list[str]) -> dict[str, list[str]]:
    """Return the ingredients of every soup that the recipe lists; without any, of the soup of all fine-tunes."""
    listed = {
        name: [m[1] for ref in entry["ingredients"] if (m := RUN_REFERENCE.fullmatch(ref))]
        for name, entry in Document(recipe).data.get("soup", {}).items()
        if "search" not in entry
    }
    return {name: names for name, names in listed.items() if set(names) <= set(runs)} or {"soup": runs[1:]}


def one_seed(
    study: Study, runs: dict[str, Run], soups: dict[str, list[str]], number: int, directory: Path,
    arguments: argparse.Namespace,
) -> Seed:  # fmt: skip
    """Train one set of seeds, or go on with it, and score everything that comes of it."""
    # One thread computes models this small as fast as two; several sets of seeds can run side by side.
    options = TrainOptions(device="cpu", workers=0, threads=1)
    work, base = arguments.work, next(iter(runs))
    for name, run in runs.items():
        own = {"seed": run.entry.seed + 100 * number, "data": _located(run.entry.data, work)}
        if run.parent is not None:
            own["init"] = str(directory / run.parent)
        print(f"seeds {number}: {name}", file=sys.stderr, flush=True)
        soupkit.train(run.entry.model_copy(update=own), directory / name, options=options)
    tasks = [f"{task if task == 'digits' else work / task}:{arguments.split}" for task in study.tasks]
    caching = EvaluationOptions(cache=work / "cache", device="cpu")
    scores, gains = {}, {}
    for soup, names in soups.items():
        soupkit.merge([directory / name for name in names], directory / f"soup-{soup}")
        models = {soup: directory / f"soup-{soup}", **{name: directory / name for name in (base, *names)}}
        evaluated = soupkit.evaluate(list(models.values()), tasks, options=caching)
        called = {str(path): name for name, path in models.items()}
        for score in evaluated.scores:
            scores[Path(score.task).name, called[score.ref]] = score
        for task in {score.task for score in evaluated.scores}:
            gains[Path(task).name, soup] = _gain(task, evaluated, called, names)
    return Seed(number, base, scores, gains, soups)


def _gain(task: str, evaluated: Evaluation, called: dict[str, str], names: list[str]) -> Gain:
    """Compare the soup, which was scored first, with the best of its ingredients on one task."""
    ingredients = [s for s in evaluated.scores if s.task == task and called[s.ref] in names]
    best = max(ingredients, key=lambda score: score.value)
    [pair] = [p for p in evaluated.pairs if p.task == task and p.second == best.ref]
    return gain_over(called[best.ref], pair.only_first, pair.only_second, best.n, pair.p)


def _located(sources: list[DataEntry], work: Path) -> list[DataEntry]:
    """Return the source with the path of its shards below `work`, where they were made."""
    (data,) = sources
    assert isinstance(data.shards, str)
    if not data.shards.endswith(".tar"):
        return sources
    return [data.model_copy(update={"shards": str(work / data.shards)})]


SUBJECTS = tuple(
    Subject(study.name, study.text, partial(add_arguments, study=study), partial(run, study), needs_work=True)
    for study in STUDIES
)
