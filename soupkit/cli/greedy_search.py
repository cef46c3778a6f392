"""`soupkit greedy-search`: the best soup of some ingredients, found with far less evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson, ReportTask
from soupkit.cli.scoring import Scoring, scores
from soupkit.errors import UsageError

HELP = """\
Find which ingredients make the best soup. Ingredients are sorted by their score and added in turn; each one with which
the score does not fall stays (the greedy soup). A trial ends as soon as it is certain to be rejected, so the soup is
the one that a full search finds, for a fraction of the images.

[bold]Example[/bold]: select on the digits' validation images, report on its test images:

    cd soupkit-demo/train
    soupkit greedy-search a b c --task digits --report-task digits -o greedy
    soupkit greedy-search a b c --task digits --report-task digits --strategy weights --block 'visual.*' -o mixed

[bold]Strategies[/bold]:

    greedy      add in the order of the scores; --orders K tries K - 1 random orders as well, the best soup wins
    backward    start from all, drop what hurts
    swap        greedy, then exchange members while the score rises
    weights     mixing weights by CMA-ES, from the greedy soup: one per ingredient, or per ingredient and --block
    experts     group tasks by how the ingredients' scores on them correlate, mix the best ingredient of each group

[bold]Stopping rules[/bold], for scores that are sums of hits (accuracy, recall by class, means over several tasks):

    exact       a trial ends when no outcome of the images left could make it accepted
    sequential  also on strong evidence: a candidate as good as the soup is turned away with a chance of --error-rate
    none        every trial sees every image

A mixture that CMA-ES asks for is always scored on every image: it is ranked among others.

--task selects, on split val unless one is named, and may be given several times: the mean counts. --report-task only
reports. DIR holds the soup, search.json and a picture of the search. Interrupted at any moment, the same command goes
on; no image is scored again for the same weights.
"""


@scores
def greedy_search(
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Ingredients.", show_default=False)] = None,
    task: Annotated[list[str] | None, typer.Option("--task", metavar="TASK", help="What to select on.")] = None,
    report_task: ReportTask = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Directory of the soup.")] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="greedy|backward|swap|weights|experts", help="How to search.")
    ] = "greedy",
    orders: Annotated[int, typer.Option("--orders", metavar="K", min=1, help="Greedy searches to make.")] = 1,
    stopping: Annotated[
        str, typer.Option("--stopping", metavar="exact|sequential|none", help="When a trial ends.")
    ] = "exact",
    error_rate: Annotated[
        float, typer.Option("--error-rate", metavar="E", help="Chance of a wrong rejection, per trial.")
    ] = 0.05,
    accept: Annotated[
        str, typer.Option("--accept", metavar="ge|gt", help="Keep what does not lower, or only what raises the score.")
    ] = "ge",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="For random orders and draws.")] = 0,
    budget: Annotated[
        int, typer.Option("--budget", metavar="N", help="Mixtures that weights or experts try, at most.")
    ] = 100,
    block: Annotated[
        list[str] | None,
        typer.Option("--block", metavar="PATTERN", help="weights: tensors with weights of their own, such as visual.*"),
    ] = None,
    correlation: Annotated[
        float, typer.Option("--correlation", metavar="R", help="experts: tasks that correlate so much are a group.")
    ] = 0.5,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out ingredients with NaN.")] = False,
    *,
    scoring: Scoring,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan; score and write nothing.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; replace a soup that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import first_rank, print_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.cli.search_output import show_plan, show_search
    from soupkit.publishing.reports.plots import plot_search
    from soupkit.search import SearchOptions
    from soupkit.search import greedy_search as run_search

    if output is None:
        raise UsageError("no output given", "-o", "name the directory that the soup is written to")
    result = run_search(
        refs or [],
        output,
        tasks=task or [],
        report_tasks=report_task or [],
        search=SearchOptions(
            strategy, orders, stopping, error_rate, accept, seed, keep_going, budget, tuple(block or ()), correlation
        ),
        evaluation=scoring.evaluation,
        data_root=scoring.data_root,
        model=scoring.model,
        preprocess=scoring.preprocess,
        dry_run=dry_run,
        fresh=fresh,
        picture=plot_search,
        progress=terminal_progress(),
    )
    if not first_rank():
        return
    if as_json:
        fields = {k: v for k, v in result.document.items() if k not in ("schema", "settings")}
        print_json(
            "greedy-search", {**fields, "status": result.status, "output": str(output), "seconds": result.seconds}
        )
    elif result.status == "planned":
        show_plan(result.document)
    else:
        show_search(result)
