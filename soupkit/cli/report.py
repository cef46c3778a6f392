"""`soupkit report`: scores, searches and soups as one page that can be sent to anyone."""

import time
from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson

HELP = """\
Put results on one HTML page: models and tasks with intervals, the scatter of a soup paper, the search in order, the
interpolation curve, two models' difference per task. The page needs no network; phones and dark mode are thought of.

[bold]Example[/bold]: a soup directory and the scores of everything; open_clip's table, for two of its models:

    soupkit evaluate runs/a runs/b soups/greedy --task imagenet-shift -o scores.json
    soupkit report soups/greedy scores.json -o report.html --png figures
    soupkit report openclip_results.csv --difference ViT-bigG-14 ViT-H-14

[bold]Inputs[/bold], as many as you like:

    DIR      a soup, a search or an interpolation: soup.json, scores.json, search.json, interpolation.json
    .json    what evaluate -o, search --json and interpolate --json write
    .csv     columns name, pretrained and one per task, as open_clip's openclip_results.csv; fractions
    .jsonl   model_name and a number per task, as the *_results.jsonl of model-soups

The scatter shows ImageNet, or the task of --held-out, against the mean of ImageNet's shifts (or of all other tasks).
"""


def report(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT...", help="Directories and files.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="The page's title.")] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="DIR", help="Also write the figures as PNG, for a model card.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option("--held-out", metavar="TASK", help="Across in the scatter \\[default: ImageNet]")
    ] = None,
    difference: Annotated[
        tuple[str, str] | None,
        typer.Option("--difference", metavar="A B", help="Two models, task by task; short names will do."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Models to show, as `ViT-*`; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import finished, print_json, print_line, say
    from soupkit.cli.progress import terminal_progress
    from soupkit.publishing.reports.report import make_report

    started = time.monotonic()
    result = make_report(
        inputs or [],
        output,
        title=title,
        held_out=held_out,
        difference=difference or (),
        only=only or [],
        png=png,
        dry_run=dry_run,
        fresh=fresh,
        progress=terminal_progress(),
    )
    for note in result.notes:
        say(note)
    if as_json:
        print_json(
            "report",
            {
                "output": str(result.output),
                "pngs": [str(p) for p in result.pngs],
                "written": [str(p) for p in result.written],
                "models": list(result.models),
                "tasks": list(result.tasks),
                "figures": list(result.figures),
                "notes": list(result.notes),
                "dry_run": dry_run,
                "seconds": time.monotonic() - started,
            },
        )
        return
    for path in (result.output, *result.pngs):
        state = "would be written" if dry_run else "written" if path in result.written else "is there already"
        print_line(f"{path}: {state}")
    shown = ", ".join(result.figures) or "none"
    print_line(f"models: {len(result.models)}, tasks: {len(result.tasks)}, figures: {shown}")
    if not dry_run:
        finished("report", result.output, "xdg-open", result.output)
