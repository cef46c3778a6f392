"""What is compared with what: the shifts of the scatter, two models by short names, the models that are shown."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from statistics import fmean

from soupkit.errors import UsageError
from soupkit.publishing.reports.plots import Point
from soupkit.publishing.reports.report_inputs import Results

_IMAGENET = {"imagenet", "imagenet1k"}
_SHIFTS = {"imagenetv2", "imagenetr", "imagenetsketch", "imageneta", "objectnet"}


def _plain(task: str) -> str:
    return re.sub(r"[^a-z0-9]", "", task.split(":")[0].rpartition("/")[2].lower())


def is_shift(task: str) -> bool:
    """Whether a task is one of the five natural shifts of ImageNet, whatever its spelling."""
    return _plain(task) in _SHIFTS


def task_names(results: Results) -> list[str]:
    """Return the tasks, with their splits, in the order in which they were read."""
    return list(dict.fromkeys(score.task_and_split for score in results.scores))


def models(results: Results) -> list[str]:
    """Return the models that have scores, in the order in which they were read."""
    return list(dict.fromkeys(score.ref for score in results.scores))


def keep_only(results: Results, patterns: Sequence[str]) -> None:
    """Leave out the scores of models that fit none of `patterns` (shell style). Raises UsageError for an idle one."""
    for pattern in patterns:
        if not any(fnmatchcase(ref, pattern) for ref in models(results)):
            raise UsageError(f"no model is called {pattern}", "--only", _some(models(results)))
    if patterns:
        results.scores = [s for s in results.scores if any(fnmatchcase(s.ref, p) for p in patterns)]
        kept = set(models(results))
        results.pairs = [p for p in results.pairs if {p.first, p.second} <= kept]
        results.differing = [p for p in results.differing if {p.first, p.second} <= kept]
        results.classes = [c for c in results.classes if c.ref in kept]
        results.reliability = [r for r in results.reliability if r.ref in kept]


def find_model(results: Results, name: str) -> str:
    """Return the model that `name` means: exactly, as the part before `/`, or as a part that only one has."""
    refs = models(results)
    for fits in (
        [ref for ref in refs if ref == name],
        [ref for ref in refs if name in (ref.split("/")[0], ref.rpartition("/")[2])],
        [ref for ref in refs if name in ref],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise UsageError(f"{name} may be {len(fits)} models", "--difference", _some(fits))
    raise UsageError(f"no model is called {name}", "--difference", _some(refs))


def find_task(results: Results, name: str, option: str) -> str:
    """Return the task that `name` means, with or without its split. Raises UsageError."""
    names = task_names(results)
    fits = [p for p in names if p == name] or [p for p in names if p.rpartition(":")[0] == name]
    if len(fits) != 1:
        raise UsageError(f"{name} is {'no' if not fits else 'more than one'} task here", option, _some(fits or names))
    return fits[0]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"there are {shown}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def scatter_points(results: Results, held_out: str | None) -> tuple[list[Point], str, list[str]]:
    """Return the points of the scatter, the task across and the tasks whose mean goes up; no points where it has none.

    Across: `held_out`, or else ImageNet. Up: the mean of the ImageNet shifts that are there, or, when `held_out` is
    given and none is, of all other tasks. A model that lacks one of these scores is left out.
    """
    names = task_names(results)
    across = find_task(results, held_out, "--held-out") if held_out else None
    across = across or next((p for p in names if _plain(p) in _IMAGENET), None)
    up = [p for p in names if is_shift(p) and p != across]
    if held_out and not up:
        up = [p for p in names if p != across]
    if across is None or not up:
        return [], "", []
    values = {(s.ref, s.task_and_split): s.value for s in results.scores}
    points = [
        Point(ref, values[ref, across], fmean(values[ref, p] for p in up), results.role(ref))
        for ref in models(results)
        if all((ref, p) in values for p in (across, *up))
    ]
    return (points, across, up) if len(points) > 1 else ([], "", [])


def differences(results: Results, first: str, second: str) -> dict[str, float]:
    """Return `first` minus `second` for each task that both were scored on; fractions. Raises UsageError for none."""
    of = {ref: {s.task_and_split: s.value for s in results.scores if s.ref == ref} for ref in (first, second)}
    shared = {p: of[first][p] - of[second][p] for p in of[first] if p in of[second]}
    if not shared:
        raise UsageError("have no task in common", f"{first}, {second}", "evaluate both on one task")
    return shared
