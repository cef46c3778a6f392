"""A recipe as a graph of steps: sections checked by their floors' schemas, `${...}` as edges, an order to run in."""

import re
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from soupkit.errors import UsageError
from soupkit.evaluation.entry import EvaluateEntry
from soupkit.merging.entry import SoupEntry
from soupkit.publishing.entry import PushEntry, ReportEntry
from soupkit.schema import Document, Entry
from soupkit.search.entry import SearchEntry
from soupkit.training.runs import expand_sweeps, read_runs, sweeps_of

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_SECTIONS = ("version", "name", "train", "soup", "evaluate", "report", "push")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name (`soup.greedy`, `evaluate`), what its section says, and the steps whose results it uses."""

    name: str
    entry: Entry
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A recipe's name, its steps in an order in which each comes after what it needs, and the steps of its sweeps."""

    name: str
    steps: tuple[Step, ...]
    sweeps: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def until(self, name: str | None) -> tuple[Step, ...]:
        """Return the steps up to `name`, a step or a sweep: itself and what it needs. Raises UsageError for one that is
        not there."""
        if name is None:
            return self.steps
        by_name = {s.name: s for s in self.steps}
        wanted, todo = set(), [*self.sweeps.get(name, (name,))]
        if todo[0] not in by_name:
            raise UsageError(f"the recipe has no step {name!r}", "--until", f"it has {', '.join(by_name)}")
        while todo:
            wanted.add(step := todo.pop())
            todo += by_name[step].needs
        return tuple(s for s in self.steps if s.name in wanted)


def read_recipe(path: Path) -> Graph:
    """Read a recipe. Raises UsageError, with the line, for keys and values that do not fit, for `${...}` that names no
    step, and for steps that need each other."""
    document = Document(path)
    data = document.data
    if not isinstance(data, dict):
        document.refuse(f"should be a map with the keys {', '.join(_SECTIONS)}", ())
    for key in data:
        if key not in _SECTIONS:
            document.refuse(
                f"there is no section {key!r}", (str(key),), hint=f"the sections are {', '.join(_SECTIONS)}"
            )
    if data.get("version") != 1:
        document.refuse(f"is of version {data.get('version')}; this soupkit reads version 1", ("version",))
    name = data.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        document.refuse("name should be a word", ("name",), hint="letters, digits, '.', '_' and '-'")
    steps: dict[str, tuple[Entry, tuple[str, ...]]] = {}
    own: dict[str, tuple[str, ...]] = {}  # a run needs the run that it starts from
    runs = read_runs(path) if "train" in data else []
    data = {**data, **{k: expand_sweeps(data[k], runs) for k in ("soup", "evaluate", "report") if k in data}}
    for run in runs:
        if not re.fullmatch(r"[\w-]+", run.name):
            document.refuse(f"{run.name!r} is no name for a run", ("train", run.name), hint="letters, digits, '_', '-'")
        steps[f"train.{run.name}"] = run.entry, ("train", run.name)
        own[f"train.{run.name}"] = (f"train.{run.parent}",) if run.parent is not None else ()
    soups = data.get("soup", {})
    if not isinstance(soups, dict):
        document.refuse("should be a map of named soups", ("soup",))
    for soup, entry in soups.items():
        schema = SearchEntry if isinstance(entry, dict) and "search" in entry else SoupEntry
        if not re.fullmatch(r"[\w-]+", str(soup)):
            document.refuse(f"{soup!r} is no name for a soup", ("soup", str(soup)), hint="letters, digits, '_' and '-'")
        steps[f"soup.{soup}"] = document.validate(schema, entry, ("soup", str(soup))), ("soup", str(soup))
    singles: dict[str, type[Entry]] = {"evaluate": EvaluateEntry, "report": ReportEntry, "push": PushEntry}
    for section in (s for s in singles if s in data):  # in an order that is always the same
        steps[section] = document.validate(singles[section], data[section], (section,)), (section,)
    if not steps:
        document.refuse("has no step", (), hint="give train, soup, evaluate, report or push")
    needs = {s: own.get(s) or _needs(document, s, entry, place, steps) for s, (entry, place) in steps.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        document.refuse(f"steps need each other: {cycle}", steps[error.args[1][0]][1], hint="break the cycle")
    sweeps = {f"train.{s}": tuple(f"train.{n}" for n in names) for s, names in sweeps_of(runs).items()}
    return Graph(name, tuple(Step(s, steps[s][0], needs[s]) for s in order), sweeps)


def _needs(
    document: Document, step: str, entry: Entry, place: tuple[str, ...], steps: dict[str, Any]
) -> tuple[str, ...]:
    found = list(dict.fromkeys(_REFERENCE.findall(str(entry.model_dump(mode="json")))))
    for name in found:
        if name not in steps or "." not in name:
            weights = [s for s in steps if "." in s]
            document.refuse(f"${{{name}}} names no step", place, hint=f"there is {', '.join(weights) or 'none'}")
    if step == "report":
        found += [s for s in steps if s.startswith("soup.") or s == "evaluate"]
    if step == "push":  # the card tells the scores and shows the figures
        found += [s for s in ("evaluate", "report") if s in steps]
    return tuple(found)


def resolved(entry: Entry, places: dict[str, Path]) -> dict[str, Any]:
    """Return what `entry` says, with each `${step}` replaced by the directory where that step's result is."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _REFERENCE.sub(lambda m: str(places[m[1]]), value)
        if isinstance(value, list):
            return [walk(v) for v in value]
        return {k: walk(v) for k, v in value.items()} if isinstance(value, dict) else value

    return walk(entry.model_dump(mode="json"))
