"""A recipe as a graph of steps: sections checked by their floors' schemas, `${...}` as edges, an order to run in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from soupkit.errors import UsageError
from soupkit.evaluation.entry import EvaluateEntry
from soupkit.merging.entry import SoupEntry
from soupkit.publishing.entry import PushEntry, ReportEntry
from soupkit.recipe.references import references_in
from soupkit.recipe.steps import EvaluateStep, MergeStep, PushStep, ReportStep, SearchStep, Step, TrainStep
from soupkit.schema import Document, Entry
from soupkit.search.entry import SearchEntry
from soupkit.training.runs import Run, expand_sweeps, runs_of, sweeps_of

_SECTIONS = ("version", "name", "train", "soup", "evaluate", "report", "push")
_NAME = re.compile(r"[\w-]{1,100}")  # it is the name of a directory
_NAME_HINT = "up to a hundred letters, digits, '_' and '-'"


@dataclass(frozen=True, slots=True)
class Graph:
    """A recipe's name, its steps in an order in which each comes after what it needs, and the steps of its sweeps."""

    name: str
    steps: tuple[Step[Any], ...]
    sweeps: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def until(self, name: str | None) -> tuple[Step[Any], ...]:
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


@dataclass(frozen=True, slots=True)
class _Declared:
    """A step as the file declares it: its kind, its checked entry, the keys that lead to it, its parent run."""

    kind: type[Step[Any]]
    entry: Entry
    key_path: tuple[str, ...]
    parent: str | None = None


def read_recipe(path: Path) -> Graph:
    """Read a recipe. Raises UsageError, with the line, for keys and values that do not fit, for `${...}` that names no
    step, and for steps that need each other."""
    document = Document(path)
    data = _sections(document)
    name = data.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        document.refuse("name should be a word", ("name",), hint="letters, digits, '_', '-' and, but first, '.'")
    runs = runs_of(document) if "train" in data else []
    data = {**data, **{k: expand_sweeps(data[k], runs) for k in ("soup", "evaluate", "report") if k in data}}
    steps = dict([*_trainings(document, runs), *_soups(document, data.get("soup", {})), *_singles(document, data)])
    if not steps:
        document.refuse("has no step", (), hint="give train, soup, evaluate, report or push")
    needs = {step: _needs(document, step, declared, steps) for step, declared in steps.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        document.refuse(f"steps need each other: {cycle}", steps[error.args[1][0]].key_path, hint="break the cycle")
    sweeps = {f"train.{s}": tuple(f"train.{n}" for n in names) for s, names in sweeps_of(runs).items()}
    return Graph(name, tuple(steps[s].kind(s, steps[s].entry, needs[s]) for s in order), sweeps)


def _sections(document: Document) -> dict[str, Any]:
    """Return the sections of a recipe, of the version that is read here."""
    data = document.data
    if not isinstance(data, dict):
        document.refuse(f"should be a map with the keys {', '.join(_SECTIONS)}", ())
    for key in data:
        if key not in _SECTIONS:
            document.refuse(
                f"there is no section {key!r}", (str(key),), hint=f"the sections are {', '.join(_SECTIONS)}"
            )
    if data.get("version") != 1:
        what = f"is of version {data.get('version')}; this soupkit reads version 1"
        document.refuse(what, ("version",), hint="write version: 1")
    return data


def _trainings(document: Document, runs: list[Run]) -> Iterator[tuple[str, _Declared]]:
    for run in runs:
        key_path = ("train", run.name)
        if not run.name:
            document.refuse("train should be a map from names to runs", ("train",), hint="give the run a name")
        parent = f"train.{run.parent}" if run.parent is not None else None
        yield f"train.{run.name}", _Declared(TrainStep, run.entry, key_path, parent)


def _soups(document: Document, soups: Any) -> Iterator[tuple[str, _Declared]]:
    if not isinstance(soups, dict):
        document.refuse("should be a map of named soups", ("soup",), hint="as in soup: {uniform: {ingredients: [...]}}")
    for name, entry in soups.items():
        key_path = ("soup", str(name))
        if not _NAME.fullmatch(str(name)):
            document.refuse(f"{name!r} is no name for a soup", key_path, hint=_NAME_HINT)
        if isinstance(entry, dict) and "search" in entry:
            yield f"soup.{name}", _Declared(SearchStep, document.validate(SearchEntry, entry, key_path), key_path)
        else:
            yield f"soup.{name}", _Declared(MergeStep, document.validate(SoupEntry, entry, key_path), key_path)


def _singles(document: Document, data: Mapping[str, Any]) -> Iterator[tuple[str, _Declared]]:
    """Yield the sections that are one step each, in an order that is always the same."""
    kinds: list[tuple[type[Step[Any]], type[Entry]]] = [
        (EvaluateStep, EvaluateEntry),
        (ReportStep, ReportEntry),
        (PushStep, PushEntry),
    ]
    for kind, schema in kinds:
        section = kind.section
        if section in data:
            key_path = (section,)
            entry = document.validate(schema, data[section], key_path)
            if isinstance(entry, PushEntry) and entry.folder is not None and ".." in entry.folder.parts:
                document.refuse("leads out of the run's directory", ("push", "folder"), hint="name it without ..")
            yield section, _Declared(kind, entry, key_path)


def _needs(document: Document, step: str, declared: _Declared, steps: Mapping[str, _Declared]) -> tuple[str, ...]:
    """Return the steps whose results a step uses."""
    if declared.parent is not None:  # a run needs the run that it starts from
        return (declared.parent,)
    needs = references_in(declared.entry.model_dump(mode="json"))
    for name in needs:
        if name not in steps or "." not in name:
            weights = [s for s in steps if "." in s]
            what, hint = f"${{{name}}} names no step", f"the steps are {', '.join(weights) or 'none'}"
            document.refuse(what, declared.key_path, hint=hint)
    if declared.kind is ReportStep:
        needs += [s for s in steps if s.startswith("soup.") or s == "evaluate"]
    if declared.kind is PushStep:  # the card tells the scores and shows the figures
        needs += [s for s in ("evaluate", "report") if s in steps]
    return tuple(needs)
