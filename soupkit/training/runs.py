"""The runs of a file: what each takes over from the one it starts from, and the several that a sweep stands for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from soupkit.errors import UsageError
from soupkit.schema import Document, KeyPath
from soupkit.training.entry import TrainEntry
from soupkit.training.sweep import SweepEntry, changed

# A run or a sweep, and what of it when not its final weights: ${train.x}@ema.
RUN_REFERENCE = re.compile(r"\$\{train\.([^}@]+)\}(@.+)?")
_NAME = re.compile(r"[\w-]{1,100}")  # it is the name of a directory
_NAME_HINT = "up to a hundred letters, digits, '_' and '-'"
_MOST_NAMES = 100_000  # that `${train.SWEEP}` stands for in one recipe
# What a run does not take over from the one it starts from.
_OWN = ("init", "stop_at", "snapshots", "schedule", "continued_from", "head")


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a file: its name (empty where the file holds one entry alone), the run it starts from, if any, and the
    sweep that it belongs to, if any."""

    name: str
    entry: TrainEntry
    parent: str | None = None
    sweep: str | None = None


@dataclass(slots=True)
class _Raw:
    """A run as the file says it: its settings, the path of keys that leads to them, and the sweep that it belongs to.

    `inside` reaches into settings that may be another run's (`augmentation.scale`). `elsewhere` says of the settings
    that a sweep or --set gave it where they stand.
    """

    fields: dict[str, Any]
    key_path: KeyPath
    sweep: str | None = None
    inside: dict[str, Any] = field(default_factory=dict)
    elsewhere: dict[str, KeyPath | str] = field(default_factory=dict)

    def set(self, key: str, value: Any) -> None:
        if "." in key:
            self.inside[key] = value
        else:
            self.fields[key] = value


def read_runs(path: Path, settings: Sequence[str] = ()) -> list[Run]:
    """Return the runs of the recipe at `path`, each after the run it starts from.

    What a run that starts from another (`init: ${train.x}`) does not say, it takes from that run. An entry with a
    `sweep` is several runs, called NAME-01 or NAME-VARIANT. `settings` are `key=value` or `NAME.key=value`, NAME being
    a run or a sweep, and count before the file. Raises UsageError, with the line.

    >>> [(run.name, run.parent) for run in read_runs(Path("recipe.yaml"), ["a.lr=1e-4"])]
    [('stage1', None), ('a', 'stage1'), ('b', 'stage1'), ('c', 'stage1')]
    """
    return runs_of(Document(path), settings)


def runs_of(document: Document, settings: Sequence[str] = ()) -> list[Run]:
    """Return the runs of a recipe that has been read, as `read_runs` does."""
    raw = _raw_runs(document)
    later = []
    for key, value in map(_parse, settings):
        those, inner = _named(raw, key)
        if inner.partition(".")[0] != "sweep":
            later.append((key, value))  # it may name a run that is still to be made
            continue
        for one in those:
            if "sweep" in one.fields or inner == "sweep":
                one.fields = changed(one.fields, {inner: value})
        if not any("sweep" in one.fields for one in those):
            raise UsageError("there is no sweep to change", f"--set {key}", "it changes runs that have a sweep")
    raw = _expand(document, raw)
    for key, value in later:
        _apply(raw, key, value)
    return _resolve(document, raw)


def _raw_runs(document: Document) -> dict[str, _Raw]:
    """Return the runs of a recipe by name, as the file says them; one entry alone has an empty name."""
    data: Any = document.data
    named = isinstance(data, dict) and isinstance(data.get("train"), dict)
    if isinstance(data, dict) and "train" in data and not named:
        document.refuse(
            "train should be a map from names to runs", ("train",), hint="as in train: {a: {model: ..., data: ...}}"
        )
    raw: dict[str, _Raw] = {}
    for name, fields in (data["train"] if named else {"": data}).items():
        key_path: KeyPath = ("train", name) if named else ()
        if named and not _NAME.fullmatch(name):
            document.refuse(f"{name!r:.100} is no name for a run", key_path, hint=_NAME_HINT)
        if not isinstance(fields, dict):
            document.refuse("a run should be a map of its settings", key_path, hint="docs/training.md lists them")
        raw[name] = _Raw(dict(fields), key_path)
    return raw


def _expand(document: Document, raw: dict[str, _Raw]) -> dict[str, _Raw]:
    """Put the runs of each sweep in its place."""
    runs: dict[str, _Raw] = {}
    for name, one in raw.items():
        if "sweep" not in one.fields:
            runs[name] = one
            continue
        fields = {k: v for k, v in one.fields.items() if k != "sweep"}
        key_path = (*one.key_path, "sweep")
        sweep = document.validate(SweepEntry, one.fields["sweep"], key_path)
        try:
            seed = int(fields.get("seed", 0))
        except (TypeError, ValueError):
            document.refuse("seed: should be a whole number", (*one.key_path, "seed"), hint="as in seed: 1")
        for i, (suffix, changes) in enumerate(sweep.runs(seed)):
            member = f"{name}-{suffix}" if name else suffix
            if member in raw or member in runs:
                what = f"{member!r} is a run of the sweep {name!r} and stands here too"
                document.refuse(what, ("train", member), hint="call one of the two something else")
            if isinstance(sweep.variants, dict):
                where: KeyPath = (*key_path, "variants", suffix)
            else:
                where = (*key_path, "variants", i) if sweep.variants else (*key_path, "draw")
            runs[member] = _Raw(dict(fields), one.key_path, name, dict(one.inside))
            for key, value in changes.items():
                runs[member].set(key, value)
                runs[member].elsewhere[key.partition(".")[0]] = where
    return runs


def _resolve(document: Document, raw: dict[str, _Raw]) -> list[Run]:
    """Check every run, with what it takes over, after the one that it starts from."""
    settings: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    for name in raw:
        for member in _line_of(document, raw, name):
            if member in runs:
                continue
            one, parent = raw[member], _parent_of(raw[member])
            fields = one.fields if parent is None else _taken_over(one.fields, settings[parent], runs[parent].entry)
            settings[member] = changed(fields, one.inside)
            entry = document.validate(TrainEntry, settings[member], one.key_path, elsewhere=one.elsewhere)
            runs[member] = Run(member, entry, parent, one.sweep)
    return list(runs.values())


def _parent_of(one: _Raw) -> str | None:
    reference = RUN_REFERENCE.fullmatch(str(one.fields.get("init", "")))
    return reference[1] if reference else None


def _line_of(document: Document, raw: dict[str, _Raw], name: str) -> list[str]:
    """Return the runs that lead to a run, from the first on, and the run itself."""
    line = [name]
    while (parent := _parent_of(raw[line[-1]])) is not None:
        if parent in line or parent not in raw:
            _refuse_parent(document, raw, line[-1], parent)
        line.append(parent)
    return line[::-1]


def _taken_over(own: dict[str, Any], parents: dict[str, Any], parent: TrainEntry) -> dict[str, Any]:
    """Return a run's own settings, and from its parent those that it does not name."""
    fields = {**{k: v for k, v in parents.items() if k not in _OWN}, **own}
    if fields.get("schedule") == "continued":
        begun = (parent.continued_from or 0) if parent.schedule == "continued" else 0
        fields.setdefault("continued_from", begun + parent.steps * parent.batch_size)
    elif "warmup" not in own:
        fields.pop("warmup", None)
    return fields


def _refuse_parent(document: Document, raw: dict[str, _Raw], name: str, parent: str) -> None:
    members = [n for n, one in raw.items() if one.sweep == parent]
    if members:
        problem, hint = f"starts from {parent!r}, which is a sweep", f"name one of its runs: {', '.join(members)}"
    else:
        problem = "starts from itself" if parent in raw else f"starts from {parent!r}, which is no run here"
        hint = f"runs: {', '.join(raw)}"
    document.refuse(f"{name or 'the run'} {problem}", (*raw[name].key_path, "init"), hint=hint)


def select_runs(runs: Sequence[Run], name: str | None) -> list[Run]:
    """Return the run called `name`, or all of the sweep of that name, after the runs that they start from; all without
    a name. Raises UsageError for a name that is not there."""
    if name is None:
        return list(runs)
    by_name = {run.name: run for run in runs}
    todo = [run for run in runs if name in (run.name, run.sweep)]
    if not todo:
        names = ", ".join(n for n in by_name if n) or "one entry without a name"
        raise UsageError(f"the recipe has no run {name!r}", "--run", f"it has {names}")
    wanted: set[str] = set()
    while todo:
        run = todo.pop()
        wanted.add(run.name)
        if run.parent is not None:
            todo.append(by_name[run.parent])
    return [run for run in runs if run.name in wanted]


def expand_sweeps(value: Any, runs: Sequence[Run]) -> Any:
    """Return a recipe's section with `${train.SWEEP}` replaced, in every list, by the references of its runs
    (and `${train.SWEEP}@ema` by those of their averages)."""
    members, left = sweeps_of(runs), _MOST_NAMES

    def expand(item: Any) -> list[Any]:
        reference = RUN_REFERENCE.fullmatch(item) if isinstance(item, str) else None
        if reference is None or reference[1] not in members:
            return [walk(item)]
        nonlocal left
        left -= len(members[reference[1]])
        if left < 0:
            what = f"references to sweeps stand for more than {_MOST_NAMES:,} runs"
            raise UsageError(what, item, "name a sweep once in each list")
        return [f"${{train.{name}}}{reference[2] or ''}" for name in members[reference[1]]]

    def walk(inner: Any) -> Any:
        if isinstance(inner, list):
            return [one for item in inner for one in expand(item)]
        return {k: walk(v) for k, v in inner.items()} if isinstance(inner, dict) else inner

    return walk(value)


def sweeps_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the names of the runs of every sweep."""
    members: dict[str, list[str]] = {}
    for run in runs:
        if run.sweep:
            members.setdefault(run.sweep, []).append(run.name)
    return members


def parent_reference(run: Run, directory: Path) -> str:
    """Return what a run starts from when the runs of its file lie in `directory`."""
    reference = RUN_REFERENCE.fullmatch(run.entry.init or "")
    assert reference is not None and run.parent is not None
    return f"{directory / run.parent}{reference[2] or ''}"


def _parse(text: str) -> tuple[str, Any]:
    """Return the key and the value of `key=value`. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not key=value", "--set", "write it as lr=1e-3, data.share=0.5 or RUN.lr=1e-3")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"the value of {key} cannot be read: {value:.100}", "--set", "quote it for the shell"
        ) from error


def _named(raw: dict[str, _Raw], key: str) -> tuple[list[_Raw], str]:
    """Return the runs that NAME.key speaks of, and the key: the run or the sweep called NAME, else all of them."""
    first, _, rest = key.partition(".")
    named = [one for name, one in raw.items() if rest and first in (name, one.sweep)]
    return (named, rest) if named else (list(raw.values()), key)


def _apply(raw: dict[str, _Raw], key: str, value: Any) -> None:
    """Set `key`, or NAME.key, in every run, in one, or in those of one sweep."""
    named, inner = _named(raw, key)
    first, dot, _ = inner.partition(".")
    if dot and inner == key and first not in TrainEntry.model_fields:
        names = ", ".join(dict.fromkeys(n for name, one in raw.items() for n in (one.sweep, name) if n))
        hint = f"the runs are {names}" if names else "docs/training.md lists the settings"
        raise UsageError(f"{first!r} is no setting, and no run here", f"--set {key}", hint)
    for one in named:
        # A run that takes the whole of a setting from another takes it as it is changed there.
        if not (dot and inner == key and _parent_of(one) is not None and first not in one.fields):
            one.set(inner, value)
            one.elsewhere[first] = f"--set {key}"
