"""`soupkit run`: a recipe from its ingredients to a published soup."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, Device, NoCache, Rate, Threads, Workers, WorldSize
from soupkit.cli.scoring import cache_directory
from soupkit.errors import UsageError

if TYPE_CHECKING:
    from soupkit.recipe.run import RunResult

HELP = """\
Run a recipe: trainings, soups and searches, their evaluation, a report, a push. What has not changed is not done again.

[bold]Example[/bold]: `recipe.yaml`, and how it is run:

    version: 1
    name: three
    soup:
      uniform: {ingredients: \\[runs/a, runs/b, runs/c]}
      greedy: {ingredients: \\[runs/a, runs/b, runs/c], search: greedy, task: "digits:val"}
    evaluate: {refs: \\[runs/a, runs/b, runs/c, "${soup.uniform}", "${soup.greedy}"], tasks: \\["digits:test"]}
    report: {}
    push: {soup: "${soup.greedy}", repo: me/three, license: mit}

    soupkit run recipe.yaml --dry-run
    soupkit run recipe.yaml --until evaluate
    soupkit run recipe.yaml --jobs 3
    soupkit run recipes/vit-bigg-14-laion2b.yaml --dry-run --world-size 500 --rate 150

Everything lies in runs/NAME (or -o): train/NAME, soup/NAME, scores.json, report.html. Interrupted, the same command
goes on; a step runs again when its inputs, its options or soupkit's version of it have changed. With --jobs N up to N
trainings that do not need each other go on side by side, each a process with its share of the cores or a GPU of its
own. A step that fails stops the run: nothing is begun after it, trainings beside it are let finish.

`push: {..., folder: hub}` lays the repository out in a folder instead of sending it. A dry run says what each step
costs: steps, memory and operations of trainings, images and prompts of evaluations, bytes of merges.
"""


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, YAML.")],
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STEP", help="train.NAME, soup.NAME, evaluate, report or push."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where everything goes \\[default: runs/NAME]")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="Trainings side by side, each a process of its own.")
    ] = 1,
    device: Device = "auto",
    workers: Workers = None,
    threads: Threads = None,
    no_cache: NoCache = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps and what they cost; do nothing.")] = False,
    world_size: WorldSize = None,
    rate: Rate = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make everything anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.progress import terminal_progress
    from soupkit.evaluation import EvaluationOptions
    from soupkit.recipe.run import run_recipe
    from soupkit.training import TrainOptions

    if not dry_run and (world_size is not None or rate is not None):
        raise UsageError("belong to --dry-run", "--world-size and --rate", "a training's share of GPUs is torchrun's")
    result = run_recipe(
        recipe, output, until=until, jobs=jobs, dry_run=dry_run, fresh=fresh, progress=terminal_progress(),
        training=TrainOptions(device, workers, threads, cache_directory(None, no_cache)),
        evaluation=EvaluationOptions(device=device, cache=cache_directory(None, no_cache)),
        world_size=world_size or 1, rate=None if rate is None else rate * 1e12,
    )  # fmt: skip
    show(result, as_json, world_size or 1, rate)


def show(result: "RunResult", as_json: bool, world: int = 1, rate: float | None = None) -> None:
    """Say what was done, or would be and what it costs: one document for machines, lines for people."""
    from soupkit.cli.output import finished, print_json, print_line
    from soupkit.cli.run_cost import cost_lines, total_line

    if as_json:
        print_json("run", result.document())
        return
    for step in result.steps:
        print_line(f"{step.name}: {step.status}" + (f", {step.output}" if step.output else ""))
        if step.name in result.costs:
            for line in cost_lines(step, result.costs[step.name], world):
                print_line(line)
    if total := total_line(list(result.costs.values()), world, rate):
        print_line(total)
    soups = [step.output for step in result.steps if step.name.startswith("soup.") and step.output is not None]
    if soups and not result.costs:
        finished("recipe", result.output, "soupkit", "push", soups[-1], "ORG/NAME", "--license", "LICENSE", "--dry-run")
