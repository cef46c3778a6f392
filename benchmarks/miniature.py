"""Does the trainer make soups? Stage 1, its fine-tunes and their soups with several sets of seeds, scored.

    python -m benchmarks.miniature digits --seeds 5 --work /tmp/soupkit-miniature
    python -m benchmarks.miniature fashion --seeds 5 --minutes 6 --work /tmp/soupkit-miniature
    python -m benchmarks.miniature converged --seeds 3 --work /tmp/soupkit-miniature
    python -m benchmarks.miniature data --work .

`digits`: recipes/digits.yaml, which `soupkit demo` trains with the set of seeds number 0. `fashion`: the larger
recipes/fashion-mnist.yaml, whose data (`data` makes them alone) come from Debian's package dataset-fashion-mnist or
--data DIR. `converged`: the same with a stage 1 of 240,000 samples, and three fine-tunes of one length at one constant
rate, which differ in their seeds alone. Sets of seeds are numbered from --first, 1 by default: number 0 is the one that
the settings were chosen with. `--minutes` is roughly what a set takes on one core; lengths and warm-ups are those of
the recipe in that proportion. Scores are those of the held-out split `test`; `--split val` is for choosing settings.

For every set a soup is compared with the best of its ingredients, chosen with hindsight, on the same images. Ctrl-C and
the like lose little: the same command goes on. Prints Markdown; `--output` also saves it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soupkit
from benchmarks.machine import machine
from benchmarks.miniature_data import find_source, make_scenes
from benchmarks.miniature_table import Gain, Seed, gain_over, tables
from soupkit.evaluation import Evaluation, EvaluationOptions
from soupkit.schema import Document
from soupkit.training import Run, TrainOptions, read_runs
from soupkit.training.entry import DataEntry
from soupkit.training.runs import RUN_REFERENCE

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Study:
    """What is trained and what it is scored on; `minutes` is what the recipe as it is takes for one set of seeds.

    `changes` are settings that differ from the recipe's; `only` are the runs taken from it, where that is not all.
    """

    recipe: Path
    minutes: float
    tasks: tuple[str, ...]
    changes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


STUDIES = {
    "digits": Study(ROOT / "recipes" / "digits.yaml", 2, ("digits",)),
    "fashion": Study(ROOT / "recipes" / "fashion-mnist.yaml", 6, ("fashion-mnist/single",)),
    "converged": Study(
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
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*STUDIES, "data"])
    parser.add_argument("--work", type=Path, required=True, help="directory for data, runs and soups")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four files")
    parser.add_argument("--seeds", type=int, default=5, help="how many sets of seeds")
    parser.add_argument("--first", type=int, default=1, help="number of the first set")
    parser.add_argument("--minutes", type=float, help="of one core for each set; 2 for digits, 6 for others")
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    if given.what != "digits":
        make_scenes(find_source(given.data), given.work / "fashion-mnist")
    if given.what == "data":
        return
    try:
        text = "\n".join(run(STUDIES[given.what], given)) + "\n"
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    print(text)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text)


def run(study: Study, arguments: argparse.Namespace) -> list[str]:
    """Train, merge and score every set of seeds, and return the tables."""
    minutes = arguments.minutes or study.minutes
    place = arguments.work / f"{arguments.what}-{minutes:g}-minutes"
    runs = runs_of(study, minutes / study.minutes)
    soups = soups_of(study.recipe, list(runs))
    found = []
    for number in range(arguments.first, arguments.first + arguments.seeds):
        started = time.process_time()
        found.append(one_seed(study, runs, soups, number, place / f"seeds-{number}", arguments))
        print(f"seeds {number}: {time.process_time() - started:.0f} s of the processor", file=sys.stderr, flush=True)
    steps = ", ".join(f"{name} {run.entry.steps * run.entry.batch_size:,}" for name, run in runs.items())
    title = f"## {study.recipe.name}: {len(found)} sets of seeds, split `{arguments.split}`"
    return [title, "", f"Samples: {steps}. {machine()}.", "", *tables(found)]


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
    study: Study, runs: dict[str, Run], soups: dict[str, list[str]], number: int, place: Path,
    arguments: argparse.Namespace,
) -> Seed:  # fmt: skip
    """Train one set of seeds, or go on with it, and score everything that comes of it."""
    # One thread computes models this small as fast as two; several sets of seeds can run side by side.
    options = TrainOptions(device="cpu", workers=0, threads=1)
    work, base = arguments.work, next(iter(runs))
    for name, run in runs.items():
        own = {"seed": run.entry.seed + 100 * number, "data": _located(run.entry.data, work)}
        if run.parent is not None:
            own["init"] = str(place / run.parent)
        print(f"seeds {number}: {name}", file=sys.stderr, flush=True)
        soupkit.train(run.entry.model_copy(update=own), place / name, options=options)
    tasks = [f"{task if task == 'digits' else work / task}:{arguments.split}" for task in study.tasks]
    caching = EvaluationOptions(cache=work / "cache", device="cpu")
    scores, gains = {}, {}
    for soup, names in soups.items():
        soupkit.merge([place / name for name in names], place / f"soup-{soup}")
        models = {soup: place / f"soup-{soup}", **{name: place / name for name in (base, *names)}}
        found = soupkit.evaluate(list(models.values()), tasks, options=caching)
        called = {str(path): name for name, path in models.items()}
        for score in found.scores:
            scores[Path(score.task).name, called[score.ref]] = score
        for task in {score.task for score in found.scores}:
            gains[Path(task).name, soup] = _gain(task, found, called, names)
    return Seed(number, base, scores, gains, soups)


def _gain(task: str, found: Evaluation, called: dict[str, str], names: list[str]) -> Gain:
    """Compare the soup, which was scored first, with the best of its ingredients on one task."""
    ingredients = [s for s in found.scores if s.task == task and called[s.ref] in names]
    best = max(ingredients, key=lambda score: score.value)
    [pair] = [p for p in found.pairs if p.task == task and p.second == best.ref]
    return gain_over(called[best.ref], pair.only_first, pair.only_second, best.n, pair.p)


def _located(sources: list[DataEntry], work: Path) -> list[DataEntry]:
    """Return the source with the path of its shards below `work`, where they were made."""
    (data,) = sources
    assert isinstance(data.shards, str)
    if not data.shards.endswith(".tar"):
        return sources
    return [data.model_copy(update={"shards": str(work / data.shards)})]


if __name__ == "__main__":
    main()
