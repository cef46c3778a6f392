"""Fine-tune classifiers as the model-soups paper did, in miniature; score their soups and the way back to zero-shot.

Fashion-MNIST at 28 pixels: a CLIP on a tenth of the training images, its zero-shot classifier, a random sweep of
fine-tunes by cross-entropy that begin there (examples/model_soups.yaml), their uniform and greedy soup, and the curve
of WiSE-FT from the zero-shot classifier to the uniform soup. The greedy soup and the best ingredient are chosen on
10,000 images of the training file; all of them are scored on the 10,000 of the test file.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soupkit
from benchmarks import ROOT
from benchmarks.soups.scenes import Garments, add_data_argument, find_source, png_of, read_garments, write_task
from benchmarks.soups.table import Gain, gain_over, interval, mean_interval, rows_of_seeds
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from soupkit.evaluation import EvaluationOptions, Score
from soupkit.training import TrainOptions, read_runs

RECIPE = ROOT / "examples" / "model_soups.yaml"
_TEMPLATES = ("a photo of a {c}.", "a picture of a {c}.", "one {c}.", "a {c} in a shop.")
_POINTS = 6
_BASE = "zeroshot"


@dataclass(frozen=True, slots=True)
class Seeds:
    """What came of one set of seeds: scores on the test images by model, the curve's by alpha, and the greedy soup's
    gain over the ingredient that is best on the images it was chosen on."""

    number: int
    scores: dict[str, Score]
    curve: dict[float, float]
    gain: Gain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, default=3, help="how many sets of seeds")
    parser.add_argument("--count", type=int, default=4, help="how many fine-tunes each")
    parser.add_argument("--samples", type=int, default=4_000, help="how many of them each sees; the CLIP sees as many")


def run(arguments: argparse.Namespace) -> list[str]:
    """Train and score every set of seeds, and return the tables."""
    data = make_garments(find_source(arguments.data), arguments.work / "garments")
    sets = []
    for number in range(1, arguments.seeds + 1):
        started = time.process_time()
        sets.append(one_set(number, data, arguments))
        print(f"seeds {number}: {time.process_time() - started:.0f} s of the processor", file=sys.stderr, flush=True)
    return [
        f"## {RECIPE.name} on Fashion-MNIST: {len(sets)} sets of seeds, split `test`",
        "",
        f"{arguments.samples:,} samples for the CLIP and for each fine-tune. {machine()}.",
        "",
        *accuracy_table(sets),
        "",
        *curve_table(sets),
    ]


def make_garments(source: Path, folder: Path) -> Path:
    """Write the task in CLIP_benchmark's layout, with a split for training; kept when it is there."""
    if (folder / "done").is_file():
        return folder
    images, labels = read_garments(source, "train")
    cut = len(images) * 5 // 6
    parts: dict[str, Garments] = {
        "train": (images[:cut], labels[:cut]), "val": (images[cut:], labels[cut:]),
        "test": read_garments(source, "t10k"),
    }  # fmt: skip
    write_task(folder, {split: _plain(garments) for split, garments in parts.items()}, _TEMPLATES)
    (folder / "done").touch()
    return folder


def _plain(garments: Garments) -> Iterator[tuple[bytes, int]]:
    for pixels, label in zip(*garments, strict=True):
        yield png_of(pixels), int(label)


def one_set(number: int, data: Path, arguments: argparse.Namespace) -> Seeds:
    """Train one set of seeds, or go on with it, and score everything that comes of it."""
    directory, samples = arguments.work / f"seeds-{number}", arguments.samples
    vision = "clip.model.model_cfg.vision_cfg"
    settings = [
        f"clip.data.shards={data}:train", f"zeroshot.data.shards={data}:train",
        f"{vision}.image_size=28", f"{vision}.patch_size=7",
        *(f"{run}.samples={samples}" for run in ("clip", "tune")),
        *(f"{run}.warmup={samples // 10}" for run in ("clip", "tune")),
        f"tune.sweep.count={arguments.count}", f"tune.sweep.seed={number}",
        *(f"{run}.seed={100 * number}" for run in ("clip", "zeroshot", "tune")),
    ]  # fmt: skip
    options = TrainOptions(device="cpu", workers=0, threads=1)
    runs = read_runs(RECIPE, settings)
    for one in runs:
        parent = {} if one.parent is None else {"init": str(directory / one.parent)}
        print(f"seeds {number}: {one.name}", file=sys.stderr, flush=True)
        soupkit.train(one.entry.model_copy(update=parent), directory / one.name, options=options)
    ingredients = [directory / one.name for one in runs if one.sweep]
    evaluation = EvaluationOptions(cache=arguments.work / "cache", device="cpu")
    soupkit.merge(ingredients, directory / "uniform")
    soupkit.search(ingredients, directory / "greedy", tasks=[f"{data}:val"], evaluation=evaluation)
    chosen = soupkit.evaluate(ingredients, [f"{data}:val"], options=evaluation).scores
    best = max(chosen, key=lambda score: score.value).ref
    models = [directory / "greedy", directory / _BASE, *ingredients, directory / "uniform"]
    scored = soupkit.evaluate(models, [f"{data}:test"], options=evaluation)
    curve = soupkit.interpolate(
        directory / _BASE, [directory / "uniform"], tasks=[f"{data}:test"], points=_POINTS, evaluation=evaluation
    )
    [pair] = [pair for pair in scored.pairs if pair.second == best]
    scores = {Path(score.ref).name: score for score in scored.scores}
    gain = gain_over(Path(best).name, pair.only_first, pair.only_second, scores["greedy"].n, pair.p)
    points = {point.alpha: 100 * point.scores[0].value for point in curve.document.points}
    return Seeds(number, scores, points, gain)


def accuracy_table(sets: list[Seeds]) -> list[str]:
    """Return the accuracies of all models, and what the greedy soup gains."""
    first = sets[0].scores
    models = [_BASE, *sorted(name for name in first if name.startswith("tune-")), "uniform", "greedy"]
    lines = [
        f"### Accuracy on {first[_BASE].n:,} images, % (95 % intervals)",
        "",
        f"| seeds | {' | '.join(models)} | greedy less the ingredient that is best on `val` | McNemar's p |",
        "|" + "---|" * (len(models) + 3),
    ]
    return [*lines, *rows_of_seeds([(s.number, [s.scores[model] for model in models], s.gain) for s in sets])]


def curve_table(sets: list[Seeds]) -> list[str]:
    """Return the curve from the zero-shot classifier (alpha 0) to the uniform soup (alpha 1)."""
    alphas = list(sets[0].curve)
    lines = [
        "### From the zero-shot classifier (alpha 0) to the uniform soup (1): accuracy, %",
        "",
        f"| seeds | {' | '.join(f'{alpha:g}' for alpha in alphas)} |",
        "|" + "---|" * (len(alphas) + 1),
    ]
    for one in sets:
        lines.append(f"| {one.number} | {' | '.join(f'{one.curve[alpha]:.1f}' for alpha in alphas)} |")
    means = [interval(*mean_interval([one.curve[alpha] for one in sets]), sign="") for alpha in alphas]
    return [*lines, f"| mean | {' | '.join(means)} |"]


SUBJECT = Subject("classification", __doc__, add_arguments, run, needs_work=True)
