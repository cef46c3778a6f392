"""`soupkit run`: a recipe from its ingredients to a published soup."""

from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson

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

Everything lies in runs/NAME (or -o): train/NAME, soup/NAME, scores.json, report.html. Interrupted, the same command
goes on; a step runs again when its inputs, its options or soupkit's version of it have changed. A step that fails
stops the run.
"""


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, YAML.")],
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STEP", help="train.NAME, soup.NAME, evaluate, report or push."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where everything goes [default: runs/NAME]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps; do nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make everything anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import print_json, terminal_progress
    from soupkit.recipe.run import run as run_recipe

    result = run_recipe(recipe, output, until=until, dry_run=dry_run, fresh=fresh, progress=terminal_progress())
    if as_json:
        steps = [
            {"name": s.name, "status": s.status, "output": str(s.output) if s.output else None, "seconds": s.seconds}
            for s in result.steps
        ]
        document = {"name": result.name, "output": str(result.output), "steps": steps, "seconds": result.seconds}
        print_json("run", document)
        return
    for step in result.steps:
        typer.echo(f"{step.name}: {step.status}" + (f", {step.output}" if step.output else ""))
