"""How far a model's probabilities can be used, on a terminal: calibration errors and the fitted temperature."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from soupkit.cli.console import PlainConsole
    from soupkit.evaluation import Evaluation

_METRICS = {
    "ECE": "ece",
    "NLL": "nll",
    "Brier": "brier",
    "T": "temperature",
    "ECE at T": "ece_at_temperature",
    "NLL at T": "nll_at_temperature",
}
_EXPLAINED = (
    "ECE of 15 bins, NLL in nats, Brier from 0 to 2; T is what the logits are to be divided by, above 1 for a model "
    "that is too sure; at T: of each half of the images at the temperature of the other"
)


def show_calibration(result: "Evaluation", names: dict[str, str], console: "PlainConsole") -> None:
    """Print the calibration of every model on every task that has probabilities; nothing where none has.

    Metrics go across where that fits the terminal, and down otherwise.
    """
    rows = {(r.ref, r.task, r.split) for r in result.reliability}
    if not rows:
        return
    scores = [score for score in result.scores if (score.ref, score.task, score.split) in rows]
    heads = [f"{names[score.ref]}, {score.task}:{score.split}" for score in scores]
    values = [[_shown(score.metrics.get(metric)) for metric in _METRICS.values()] for score in scores]
    across = _filled(("model, task", *_METRICS), zip(heads, *zip(*values, strict=True), strict=True))
    console.print()
    if console.measure(across, options=console.options.update(max_width=10_000)).maximum <= console.width:
        console.print(across)
    else:
        for head, cells in zip(heads, values, strict=True):
            console.print(head, soft_wrap=True)
            console.print(_filled(("", ""), zip(_METRICS, cells, strict=True), header=False))
    console.print(_EXPLAINED, style="dim")


def _filled(heads: tuple[str, ...], rows: "zip[tuple[str, ...]]", *, header: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=header)
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
