"""`soupkit demo`: the whole job in miniature, on the handwritten digits that the package ships."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, NoCache
from soupkit.cli.scoring import cache_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from soupkit.evaluation import Score
    from soupkit.recipe.run import RunResult

RECIPE = Path(__file__).parents[1] / "data" / "digits.yaml"
SOUPS = {"uniform": "uniform soup", "greedy": "greedy soup"}

HELP = """\
Make a soup from nothing, in one to two minutes: train a small CLIP on the shipped handwritten digits, fine-tune it
three ways, average the three, search for the best average, score all of them on held-out digits, draw a report, and lay
out the repository that `soupkit push` would send to the Hub.

[bold]Example[/bold]:

    soupkit demo
    soupkit demo -o my-demo --json

It is `soupkit run` on recipes/digits.yaml. Interrupted, the same command goes on where it stopped. Everything stays in
the output directory: train/stage1, train/a, ..., soup/uniform, soup/greedy, scores.json, report.html, and hub, the
repository. Nothing leaves this machine.
"""


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where everything goes.")] = Path(
        "soupkit-demo"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps and what they cost; do nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make everything anew.")] = False,
    no_cache: NoCache = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import print_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.cli.run import show
    from soupkit.evaluation import EvaluationOptions
    from soupkit.evaluation.scores_document import SCORES, read_scores_document
    from soupkit.recipe.run import run_recipe
    from soupkit.search.document import read_search
    from soupkit.training import TrainOptions

    cache = cache_directory(None, no_cache)
    result = run_recipe(
        RECIPE, output, dry_run=dry_run, fresh=fresh, progress=terminal_progress(),
        # One thread computes a model this small as fast as two, and leaves the other core to decode images.
        training=TrainOptions(device="cpu", workers=1, threads=1, cache=cache),
        evaluation=EvaluationOptions(device="cpu", cache=cache),
    )  # fmt: skip
    if dry_run:
        show(result, as_json)
        return
    scores = {Path(score.ref).name: score for score in read_scores_document(output / SCORES).scores}
    search = read_search(output / "soup" / "greedy")
    assert search is not None  # the recipe has just written it
    if as_json:
        print_json(
            "demo", {**result.document(), "scores": [asdict(s) for s in scores.values()], "selected": search.selected}
        )
    else:
        _show(scores, search.selected, result)


def _show(scores: "dict[str, Score]", selected: tuple[str, ...], result: "RunResult") -> None:
    """Say what each model scores, what the search gained, and where everything is."""
    from soupkit.cli.output import finished, plain_console

    console = plain_console()
    show_scores(scores)
    ingredients = {name: s.value for name, s in scores.items() if name not in ("stage1", *SOUPS)}
    first = max(ingredients, key=ingredients.__getitem__)
    soup = scores["greedy"].value
    gained = [f"{100 * (soup - other):+.1f}" for other in (ingredients[first], scores["uniform"].value)]
    chosen = ", ".join(Path(ref).name for ref in selected)
    every = ", all of them" if len(selected) == len(ingredients) else ""
    console.print(
        f"the search chose {chosen}{every}: {gained[0]} points against the best ingredient ({first}), {gained[1]} "
        "against the uniform soup",
        soft_wrap=True,
    )
    hub, report = result.output / "hub", result.output / "report.html"
    console.print(f"{hub} is what the Hub would hold: open_clip loads it as local-dir:{hub}; {report} is the report")
    soup_directory = result.output / "soup" / "greedy"
    finished("demo", result.output, "soupkit", "push", soup_directory, "ORG/NAME", "--license", "mit", "--dry-run")


def show_scores(scores: "Mapping[str, Score]") -> None:
    """Print a line for each model: its accuracy, with the interval."""
    from rich.table import Table

    from soupkit.cli.output import plain_console

    best = max(s.value for s in scores.values())
    n = next(iter(scores.values())).n
    table = Table(
        "model", "zero-shot accuracy", "95 % interval", title=f"{n} held-out handwritten digits",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for name, score in scores.items():
        value, low, high = (f"{100 * share:.1f}" for share in (score.value, score.low, score.high))
        style = "bold" if score.value == best else ""
        table.add_row(SOUPS.get(name, name), f"{value} %", f"{low} to {high}", style=style)
    plain_console().print(table)
