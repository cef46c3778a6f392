"""Scores on a terminal of any width: models down and tasks across where that fits, else turned, else task by task."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from soupkit.cli.calibration_table import show_calibration
from soupkit.cli.tables import NAME_WIDTHS, fits, show_legend, table_of
from soupkit.publishing.short_names import FittedNames, fit_names

if TYPE_CHECKING:
    from soupkit.cli.console import PlainConsole
    from soupkit.evaluation import Evaluation
    from soupkit.evaluation.task import Pair, Score

_MOST_COLUMNS = 4  # tasks; more of them are rows
_TaskKey = tuple[str, str]  # a task and its split


@dataclass(frozen=True)
class Scores:
    """What a table shows. `pairs` are the tests against the first model, where they are shown."""

    refs: list[str]
    tasks: list[_TaskKey]
    scores: dict[tuple[str, _TaskKey], "Score"]
    pairs: dict[tuple[str, _TaskKey], "Pair"]

    def value(self, ref: str, task: _TaskKey) -> Text:
        """Return a score in percent with half of its 95 % interval; the best of a task in bold."""
        score = self.scores[ref, task]
        best = max(self.scores[r, task].value for r in self.refs)
        half = max(score.high - score.value, score.value - score.low)
        style = "bold" if len(self.refs) > 1 and score.value == best else ""
        return Text.assemble((f"{100 * score.value:.2f}", style), f" ±{100 * half:.1f}")

    def p(self, ref: str, task: _TaskKey) -> str:
        """Return the p-value of a model against the first one."""
        pair = self.pairs.get((ref, task))
        return f"{pair.p:.2g}" if pair is not None else ""

    def has_pairs(self, task: _TaskKey) -> bool:
        """Whether models are compared on a task."""
        return any(key == task for _, key in self.pairs)

    def measured(self, task: _TaskKey) -> str:
        """Say in what and on how many images a task is scored."""
        score = self.scores[self.refs[0], task]
        return f"{score.metric} %, n={score.n:,}"


def show_scores(result: "Evaluation", console: "PlainConsole", *, every_pair: bool = False) -> None:
    """Print a table of models and tasks that fits the terminal, and the p-values of McNemar's exact test against the
    first model: of two models, and of more with `every_pair`."""
    refs = list(dict.fromkeys(score.ref for score in result.scores))
    tasks = list(dict.fromkeys((score.task, score.split) for score in result.scores))
    compared = result.pairs if len(refs) == 2 or every_pair else ()
    scores = Scores(
        refs,
        tasks,
        {(s.ref, (s.task, s.split)): s for s in result.scores},
        {(p.second, (p.task, p.split)): p for p in compared},
    )
    names, tables = _fitting(scores, console)
    for i, table in enumerate(tables):
        if i:
            console.print()
        console.print(table)
    show_legend(console, names)
    _show_averages(result, names, console)
    console.print(_explained(scores, names.names[refs[0]]), style="dim")
    show_calibration(result, names.names, console)


def _show_averages(result: "Evaluation", names: FittedNames, console: "PlainConsole") -> None:
    """Print each model's mean over the literature's 38 tasks, where all of them were scored."""
    from soupkit.evaluation.results_table import average_of_38

    for ref, name in names.names.items():
        mean = average_of_38([score for score in result.scores if score.ref == ref])
        if mean is not None:
            console.print(f"average of 38 tasks: {100 * mean:.2f} %, {name}", soft_wrap=True)


def _explained(scores: Scores, first: str) -> str:
    words = "± is half of the 95 % interval"
    return f"{words}; p is of McNemar's exact test against {first}" if scores.pairs else words


def _fitting(scores: Scores, console: "PlainConsole") -> tuple[FittedNames, list[Table]]:
    """Return the first layout whose widest table fits, with the names that it uses; the last one where none does."""
    names, tables = FittedNames({}, {}), []
    for width in NAME_WIDTHS:
        names = fit_names(scores.refs, width)
        across = [[_models_down(scores, names)]] if len(scores.tasks) <= _MOST_COLUMNS else []
        for tables in (*across, [_tasks_down(scores, names)]):
            if fits(console, *tables):
                return names, tables
    for width in (max(NAME_WIDTHS[-1], console.width - 24), NAME_WIDTHS[-1]):
        names = fit_names(scores.refs, width)
        tables = [_one_task(scores, task, names) for task in scores.tasks]
        if fits(console, *tables):
            break
    return names, tables


def _models_down(scores: Scores, names: FittedNames) -> Table:
    heads = ["model"]
    for task in scores.tasks:
        heads.append(f"{task[0]}:{task[1]}\n{scores.measured(task)}")
        heads += ["\np"] if scores.has_pairs(task) else []
    table = table_of(heads)
    for ref in scores.refs:
        cells = [cell for task in scores.tasks for cell in _cells(scores, ref, task)]
        table.add_row(names.names[ref], *cells)
    return table


def _cells(scores: Scores, ref: str, task: _TaskKey) -> Iterator[Text | str]:
    yield scores.value(ref, task)
    if scores.has_pairs(task):
        yield scores.p(ref, task)


def _tasks_down(scores: Scores, names: FittedNames) -> Table:
    pairs = [ref for ref in scores.refs if any(key == ref for key, _ in scores.pairs)]
    heads = ["task", "measured"]
    for ref in scores.refs:
        heads += [names.names[ref], *(["p"] if ref in pairs else [])]
    table = table_of(heads)
    for task in scores.tasks:
        cells: list[Text | str] = []
        for ref in scores.refs:
            cells += [scores.value(ref, task), *([scores.p(ref, task)] if ref in pairs else [])]
        table.add_row(f"{task[0]}:{task[1]}", scores.measured(task), *cells)
    return table


def _one_task(scores: Scores, task: _TaskKey, names: FittedNames) -> Table:
    heads = ["model", "", *(["p"] if scores.has_pairs(task) else [])]
    table = table_of(heads, title=f"{task[0]}:{task[1]}, {scores.measured(task)}")
    table.show_header = scores.has_pairs(task)
    for ref in scores.refs:
        table.add_row(names.names[ref], *_cells(scores, ref, task))
    return table
