"""`soupkit interpolate`: the curve between a base and its fine-tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, DocumentFile, ReportTask, complete_tasks
from soupkit.cli.scoring import Scoring, scores

if TYPE_CHECKING:
    from soupkit.search.interpolation_document import InterpolationDocument

HELP = """\
Score the models between a base and its fine-tune (WiSE-FT): base + alpha (fine-tune - base) for alpha from 0 to 1. With
several fine-tunes their mean is the far end.

[bold]Example[/bold]: the best alpha on the digits' validation images, and the curve on the test images beside it:

    cd soupkit-demo/train
    soupkit interpolate stage1 a --task digits --report-task digits --plot curve.svg

--task chooses the best alpha, on split val unless one is named; --report-task only reports, on test. The model of any
alpha is written by `soupkit merge REF --base BASE --method interpolate --param alpha=A -o DIR`, bit for bit what was
scored here. Scores are kept in the cache: the same command goes on where it was interrupted.
"""


@scores
def interpolate(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that was fine-tuned.", show_default=False)],
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="Its fine-tunes.", show_default=False)],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="What chooses alpha.", autocompletion=complete_tasks),
    ] = None,
    report_task: ReportTask = None,
    points: Annotated[int, typer.Option("--points", metavar="N", help="Values of alpha, 0 and 1 among them.")] = 11,
    output: DocumentFile = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the curve: PNG, SVG or PDF.")
    ] = None,
    *,
    scoring: Scoring,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import check_file, finished, first_rank, print_json, say, write_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.publishing.reports.plots import plot_interpolation
    from soupkit.publishing.reports.style import check_format
    from soupkit.search import interpolate as run_interpolation

    check_file(output)
    if plot is not None:
        check_file(plot, "--plot")
        check_format(plot)
    result = run_interpolation(
        base,
        refs,
        tasks=task or [],
        report_tasks=report_task or [],
        points=points,
        evaluation=scoring.evaluation,
        data_root=scoring.data_root,
        model=scoring.model,
        preprocess=scoring.preprocess,
        progress=terminal_progress(),
    )
    if not first_rank():
        return
    for note in result.notes:
        say(note)
    document = {**result.document.to_dict(), "seconds": result.seconds}
    if output is not None:
        write_json(output, "interpolate", document)
    if plot is not None:
        plot_interpolation({"schema": 1, "command": "interpolate", **document}, plot)
    if as_json:
        print_json("interpolate", document)
    else:
        _show(result.document)
        alpha = f"alpha={result.document.best_alpha:.3g}"
        merging = ["merge", *refs, "--base", base, "--method", "interpolate", "--param", alpha, "-o", "soup"]
        finished("curve", output or plot or "above", "soupkit", *merging)


def _show(document: "InterpolationDocument") -> None:
    from rich.text import Text

    from soupkit.cli.output import plain_console
    from soupkit.cli.search_output import in_percent, measured
    from soupkit.cli.tables import show_in_parts

    console, points = plain_console(), document.points
    rows = []
    for point in points:
        cells = [f"{point.alpha:.3g}", *(in_percent(s) for s in point.scores)]
        rows.append([Text(cell, style="bold" if point.alpha == document.best_alpha else "") for cell in cells])
    show_in_parts(console, ["alpha", *(f"{s.task_and_split}\n{measured(s)}" for s in points[0].scores)], rows)
    console.print("± is half of the 95 % interval", style="dim")
    console.print(f"best alpha on {document.task}: {document.best_alpha:.3g}")
