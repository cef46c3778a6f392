"""`soupkit search`: the best soup of some ingredients, found with far less evaluation."""

from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from soupkit.cli.help import HelpCommand
from soupkit.cli.options import AsJson, ReportTask, complete_strategies, complete_tasks
from soupkit.cli.scoring import Scoring, scores
from soupkit.errors import UsageError

HELP = """\
Find which ingredients make the best soup. Ingredients are sorted by their score and added in turn; each one with which
the score does not fall stays (the greedy soup). A trial ends as soon as it is certain to be rejected, so the soup is
the one that a full search finds, for a fraction of the images.

[bold]Example[/bold]: select on the digits' validation images, report on its test images:

    cd soupkit-demo/train
    soupkit search a b c --task digits --report-task digits -o greedy
    soupkit search a b c --task digits --report-task digits --strategy weights --block 'visual.*' -o mixed

[bold]Strategies[/bold]:

{strategies}

[bold]Stopping rules[/bold], for scores that are sums of hits (accuracy, recall by class, means over several tasks):

    exact       a trial ends when no outcome of the images left could make it accepted
    sequential  also on strong evidence: a candidate as good as the soup is turned away with a chance of --error-rate
    likely      also when those left are unlikely to make up for what was lost where the soup is least sure
    none        every trial sees every image

[bold]A score of your own[/bold]: a command gets the soup's directory, and the last line that it prints is a number, or
JSON: {"value": 0.8, "hits": \\[0, 1, ...]}. Any checkpoints that can be merged will do:

    soupkit search a b c --score 'python evaluate.py {model}' --score-file evaluate.py -o best
    soupkit search a b c --score './loss.sh {model}' --minimize --strategy weights -o best

With --task too, the mean over the tasks and --score-weight times the answer are added. An answer is kept: no soup is
asked about twice, but the first one. What the command prints is in DIR/score-output.

A mixture that CMA-ES asks for is always scored on every image: it is ranked among others.

--task selects, on split val unless one is named, and may be given several times: the mean counts. --report-task only
reports. DIR holds the soup, search.json and a picture of the search. Interrupted at any moment, the same command goes
on; no image is scored again for the same weights. `soupkit greedy-search` is this command under its first name.
"""


def full_help() -> str:
    """Return the help with a line for each strategy, which only a call for help loads."""
    from soupkit.search.strategies.table import as_help

    return HELP.replace("{strategies}", as_help().replace("[", "\\["))


class SearchCommand(HelpCommand):
    """The command, whose strategies and their options are read from the table when they are asked for."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the command, those of soupkit's own strategies after `--strategy`."""
        params = super().get_params(ctx)
        at = next(i for i, p in enumerate(params) if p.name == "strategy") + 1
        return [*params[:at], *_strategy_options(), *params[at:]]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the strategies' options that were given come to it as those of `--option` do."""
        from soupkit.search.strategies.table import own_options

        given = [*(ctx.params["option"] or [])]
        for name in own_options():
            value = ctx.params.pop(name)
            given += [f"{name}={v}" for v in (value if isinstance(value, list | tuple) else [value]) if v is not None]
        ctx.params["option"] = given
        return super().invoke(ctx)


COMMAND_CLASS = SearchCommand
EARLIER_NAMES = ("greedy-search",)  # what the command was called first


def _strategy_options() -> list[Any]:
    """Return an option of the command for each option of soupkit's own strategies, as Typer makes them."""
    from soupkit.search.strategies.table import own_options

    shown = []
    for name, (option, strategies) in own_options().items():
        default = "" if option.default in (None, ()) else f" \\[default: {option.default}]"
        bounds = f", {option.bounds}" if option.bounds else ""
        declared = typer.Option(
            option.option, metavar=option.metavar or "|".join(option.choices),
            help=f"{', '.join(strategies)}: {option.help}{bounds}{default}", rich_help_panel="The strategy's own",
        )  # fmt: skip
        kind: Any = list[str] if option.several else str
        shown.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]))

    def options(**_: Any) -> None: ...

    options.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command()(options)
    return list(get_command(app).params)


@scores
def search(
    ctx: typer.Context,
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Ingredients.", show_default=False)] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="What to select on.", autocompletion=complete_tasks),
    ] = None,
    report_task: ReportTask = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REF", help="The model that was fine-tuned."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Select by this metric of --task, not the main one.")
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", metavar="COMMAND", help="Select by what a command says of {model}.")
    ] = None,
    minimize: Annotated[
        bool, typer.Option("--minimize/--maximize", help="Whether a low or a high answer of --score is good.")
    ] = False,
    score_file: Annotated[
        list[Path] | None,
        typer.Option("--score-file", metavar="FILE", help="A file that --score depends on."),
    ] = None,
    score_timeout: Annotated[
        float | None, typer.Option("--score-timeout", metavar="SECONDS", help="When a command of --score is stopped.")
    ] = None,
    score_retries: Annotated[
        int, typer.Option("--score-retries", metavar="N", help="How often a command that failed is asked again.")
    ] = 1,
    score_weight: Annotated[
        float, typer.Option("--score-weight", metavar="W", help="How much --score counts beside the mean of --task.")
    ] = 1.0,
    score_key: Annotated[
        str | None,
        typer.Option("--score-key", metavar="NAME", help="Which of the named numbers that --score answers counts."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Directory of the soup.")] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="NAME", help="How to search.", autocompletion=complete_strategies)
    ] = "greedy",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the strategy, also of another package's."),
    ] = None,
    stopping: Annotated[
        str | None,
        typer.Option(
            "--stopping",
            metavar="exact|sequential|likely|none",
            help="When a trial ends: exact, and likely with --proxy, unless it is said.",
            show_default=False,
        ),
    ] = None,
    error_rate: Annotated[
        float, typer.Option("--error-rate", metavar="E", help="Of sequential: chance of a wrong rejection, per trial.")
    ] = 0.05,
    accept: Annotated[
        str, typer.Option("--accept", metavar="ge|gt", help="Keep what does not lower, or only what raises the score.")
    ] = "ge",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="For random orders and draws.")] = 0,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out ingredients with NaN.")] = False,
    least_cosine: Annotated[
        float | None,
        typer.Option("--least-cosine", metavar="C", help="Leave out whose task vector points elsewhere (with --base)."),
    ] = None,
    *,
    builder: Annotated[
        str | None, typer.Option("--builder", metavar="MODULE:FUNCTION", help="Makes a classifier of bare weights.")
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option("--label-map", metavar="FILE", help="Outputs of a head, a line per class.")
    ] = None,
    scoring: Scoring,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan; score and write nothing.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; replace a soup that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import finished, first_rank, print_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.cli.search_output import result_fields, show_plan, show_search
    from soupkit.evaluation.heads import HeadOptions
    from soupkit.publishing.reports.plots import plot_search
    from soupkit.search.custom_score import CustomScore
    from soupkit.search.options import SearchOptions
    from soupkit.search.run_search import run_search

    if output is None:
        raise UsageError("is missing", "-o", "name the directory that the soup is written to")
    how = SearchOptions(
        strategy, stopping=stopping, error_rate=error_rate, accept=accept, seed=seed, keep_going=keep_going,
        least_cosine=least_cosine, metric=metric,
        **_own_options(option or []),
    )  # fmt: skip
    custom = None
    if score is not None:
        files = tuple(score_file or ())
        custom = CustomScore(score, minimize, files, score_timeout, score_retries, score_weight, key=score_key)
    result = run_search(
        refs or [],
        output,
        base=base,
        tasks=task or [],
        report_tasks=report_task or [],
        score=custom,
        options=how,
        evaluation=scoring.evaluation,
        data_root=scoring.data_root,
        head=HeadOptions(scoring.model, builder, scoring.preprocess, label_map),
        dry_run=dry_run,
        fresh=fresh,
        picture=plot_search,
        progress=terminal_progress(),
    )
    if not first_rank():
        return
    if as_json:
        print_json(ctx.info_name or "search", result_fields(result))
    elif result.plan is not None:
        show_plan(result.plan)
    else:
        show_search(result)
        finished("soup", output, "soupkit", "push", output, "ORG/NAME", "--license", "LICENSE", "--dry-run")


def _own_options(given: list[str]) -> dict[str, Any]:
    """Return what `--option KEY=VALUE` gives, several values of one key as a list. Raises UsageError."""
    values: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError("is not of the form KEY=VALUE", f"--option {text}", "for example --option budget=50")
        values.setdefault(key, []).append(value)
    return {key: value[0] if len(value) == 1 else value for key, value in values.items()}
