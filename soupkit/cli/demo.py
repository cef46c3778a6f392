"""`soupkit demo`: the whole job in miniature, on the handwritten digits that the package ships."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson

if TYPE_CHECKING:
    from soupkit.evaluation import Score
    from soupkit.merging import MergeResult

RECIPE = Path(__file__).parents[1] / "data" / "digits.yaml"

HELP = """\
Make a soup from nothing, in one to two minutes: train a small CLIP on the shipped handwritten digits, fine-tune it
three ways, inspect, compare and merge the three checkpoints, and score each of them and the soup on held-out digits.

[bold]Example[/bold]:

    soupkit demo
    soupkit demo -o my-demo --json

The four trainings are those of recipes/digits.yaml. Interrupted, the same command goes on where it stopped. Everything
stays in the output directory.
"""


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where everything goes.")] = Path(
        "soupkit-demo"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train everything anew.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no decoded images and no scores.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.checkpoint import compare
    from soupkit.cli.output import print_json, say, terminal_progress
    from soupkit.cli.train import train_runs
    from soupkit.training import TrainOptions, read_runs

    names = [run.name for run in read_runs(RECIPE)]
    if dry_run:
        say(f"would train {', '.join(names)} into {output}, merge the last {len(names) - 1} and score all of them")
        return
    started = time.perf_counter()
    progress = terminal_progress()
    # One thread computes a model this small as fast as two, and leaves the other core to decode images.
    options = TrainOptions(device="cpu", workers=1, threads=1, fresh=fresh)
    trained = train_runs(RECIPE, output, None, [], options, progress)
    models = [trained[name].output for name in names]
    stage1, *ingredients = models
    comparison = compare(ingredients, weights=True, base=stage1)
    say(f"each of them is {comparison.architectures[0]}")
    say(comparison.lineage or "")
    soup = _merge(ingredients, output / "soup")
    from soupkit.cli.evaluate import cache_directory
    from soupkit.evaluation import EvaluationOptions, evaluate

    caching = EvaluationOptions(cache=cache_directory(None, no_cache))
    scores = evaluate([*models, soup.output], ["digits"], options=caching, progress=progress).scores
    if as_json:
        document = {
            "output": str(soup.output),
            "fingerprint": soup.fingerprint,
            "scores": [asdict(score) for score in scores],
            "seconds": time.perf_counter() - started,
        }
        print_json("demo", document)
    else:
        _show([*names, "soup"], scores, soup.output)


def _merge(ingredients: list[Path], output: Path) -> "MergeResult":
    """Merge the ingredients. A soup of an earlier demo is replaced when its ingredients were trained anew."""
    from soupkit.cli.output import terminal_progress
    from soupkit.errors import StorageError
    from soupkit.merging import RunOptions, merge

    try:
        return merge(ingredients, output, progress=terminal_progress())
    except StorageError:
        return merge(ingredients, output, options=RunOptions(fresh=True), progress=terminal_progress())


def _show(names: list[str], scores: Sequence["Score"], soup: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    best = max(s.value for s in scores)
    table = Table(
        "model", "zero-shot accuracy", "95 % interval", title=f"{scores[0].n} held-out handwritten digits",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for name, score in zip(names, scores, strict=True):
        style = "bold" if score.value == best else ""
        table.add_row(
            name, f"{100 * score.value:.1f} %", f"{100 * score.low:.1f} to {100 * score.high:.1f}", style=style
        )
    console.print(table)
    ingredients = [s.value for s in scores[1:-1]]
    gain = [100 * (scores[-1].value - v) for v in (max(ingredients), sum(ingredients) / len(ingredients))]
    console.print(f"the soup against its best ingredient: {gain[0]:+.1f} points; against their mean: {gain[1]:+.1f}")
    console.print(f"it opens with open_clip.create_model_and_transforms('local-dir:{soup}')", soft_wrap=True)
