"""Scores as a table in the columns of open_clip's results (docs/openclip_results.csv), so that the two line up."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from soupkit.evaluation.known_tasks import KNOWN, find_known
from soupkit.evaluation.task import Score
from soupkit.files import write_whole

AVERAGE = "Average perf. on 38 datasets"
HEADER = ("name", "pretrained", "params (M)", "FLOPs (B)", AVERAGE, *(known.alias for known in KNOWN))


def column_of(task: str) -> str | None:
    """Return the column of a task, its alias in open_clip's table; None for a task that has none."""
    known = find_known(task)
    return None if known is None else known.alias


def average_of_38(scores: Sequence[Score]) -> float | None:
    """Return the plain mean of one model's main metrics on the 38 tasks; None where one is missing."""
    values = {column_of(score.task): score.value for score in scores if score.split == "test"}
    return None if any(k.alias not in values for k in KNOWN) else sum(values[k.alias] for k in KNOWN) / len(KNOWN)


def results_table(scores: Sequence[Score]) -> str:
    """Return a CSV with a row for each model: the header of open_clip's table, and a further column for each task that
    it does not have. Fractions with four digits, as there; a cell without a score is empty."""
    refs = list(dict.fromkeys(score.ref for score in scores))
    others = list(dict.fromkeys(_name(score) for score in scores if _name(score) not in HEADER))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*HEADER, *others], restval="", lineterminator="\n")
    writer.writeheader()
    for ref in refs:
        own = [score for score in scores if score.ref == ref]
        cells = {_name(score): f"{score.value:.4f}" for score in own}
        average = average_of_38(own)
        writer.writerow({"name": ref, AVERAGE: "" if average is None else f"{average:.4f}", **cells})
    return text.getvalue()


def write_results_table(path: Path, scores: Sequence[Score]) -> None:
    """Write the table to `path`. Raises StorageError."""
    write_whole(path, results_table(scores))


def _name(score: Score) -> str:
    column = column_of(score.task) if score.split == "test" else None
    return column or f"{score.task}:{score.split}"
