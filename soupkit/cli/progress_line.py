"""The line of a job at work: its label gives way first, then the bar, and of the figures the share stays longest."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from soupkit.cli.output import clock, count
from soupkit.publishing.short_names import fit_names

_LEAST_LABEL, _LEAST_BAR, _MOST_BAR = 16, 8, 40  # columns


class ProgressLine(ProgressColumn):
    """The only column of a progress: it lays itself out over the whole width. `unit` is what is counted."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> "Line":
        """Return the line of a task."""
        return Line(task, self._unit)


class Line:
    """One task on one line."""

    def __init__(self, task: Task, unit: str) -> None:
        self._task = task
        self._unit = unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the line out: figures as many as fit, in the order of their worth, then the label, then the bar."""
        width = options.max_width
        figures: list[str] = []
        for figure in self._figures():
            if len("  ".join([*figures, figure])) + 2 + _LEAST_LABEL <= width or not figures:
                figures.append(figure)
        shown = "  ".join(figures)
        room = width - len(shown) - 2
        label = self._task.description
        bar = min(_MOST_BAR, room - 2 - min(len(label), max(_LEAST_LABEL, room - 2 - _LEAST_BAR)))
        if bar < _LEAST_BAR or self._task.total is None:
            bar = 0
        name = fit_names([label], max(1, room - (bar + 2 if bar else 0))).names[label]
        grid = Table.grid(padding=(0, 2, 0, 0))
        cells: list[Text | ProgressBar] = [Text(name, no_wrap=True, overflow="ellipsis")]
        if bar:
            total, done = self._task.total, self._task.completed
            cells.append(ProgressBar(total=total, completed=min(done, total or done), width=bar))
        yield _row(grid, [*cells, Text(shown, style="cyan", no_wrap=True)])

    def _figures(self) -> list[str]:
        """Return what is known: the share, how the job stands, the rate, the time left, the amount."""
        task, figures = self._task, []
        if task.total:
            figures.append(f"{100 * min(1.0, task.completed / task.total):3.0f} %")
        else:
            figures.append(count(task.completed, self._unit))
        if task.fields.get("state"):
            figures.append(task.fields["state"])
        if task.speed:
            figures.append(f"{count(task.speed, self._unit)}/s")
        if task.total and task.time_remaining is not None:
            figures.append(f"{clock(task.time_remaining)} left")
        if task.total:
            figures.append(f"of {count(task.total, self._unit)}")
        return figures


def _row(grid: Table, cells: list[Text | ProgressBar]) -> Table:
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    return grid
