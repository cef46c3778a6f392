"""One run in its directory: where each step's result lies, what decides it, and how it is made."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from soupkit.checkpoint.hub import is_hub
from soupkit.checkpoint.partial import partial_path
from soupkit.evaluation import EvaluationOptions, default_cache, evaluate
from soupkit.evaluation.scores_document import SCORES, ScoresDocument
from soupkit.evaluation.tasks import split_name
from soupkit.merging import RunOptions, merge
from soupkit.progress import Progress
from soupkit.publishing.hub.push import PushOptions, publish
from soupkit.publishing.reports.plots import plot_search
from soupkit.publishing.reports.report import make_report
from soupkit.recipe.graph import Step, resolved
from soupkit.search import SearchEntry, greedy_search
from soupkit.training import TrainOptions, train
from soupkit.training.entry import NOT_IDENTITY, TrainEntry

# Raised when a step comes to do something else for the same entry, so that its old results are made anew.
_VERSIONS = {"train": 1, "soup": 1, "evaluate": 1, "report": 1, "push": 2}
_STATE = "run.json"
REPORT, FIGURES = "report.html", "figures"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step. `status` is "done", "unchanged" or "planned"; `output` is None for what is sent."""

    name: str
    status: str
    output: Path | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run works with, none of which decides its results: devices, processes and caches."""

    training: TrainOptions
    evaluation: EvaluationOptions

    @classmethod
    def of(cls, training: TrainOptions | None, evaluation: EvaluationOptions | None, *, fresh: bool) -> "Resources":
        """Fill in the defaults: scores and pixels are kept, devices are chosen."""
        return cls(
            replace(training or TrainOptions(), fresh=fresh), evaluation or EvaluationOptions(cache=default_cache())
        )


class Work:
    """A run in its directory `root`: what each step was made from, as `run.json` remembers it."""

    def __init__(self, root: Path, steps: Sequence[Step], means: Resources, progress: Progress) -> None:
        self.root, self.means, self.progress = root, means, progress
        self.fresh = means.training.fresh
        self.steps = {step.name: step for step in steps}
        self.keys: dict[str, str] = {}
        try:
            state = json.loads((root / _STATE).read_text("utf-8"))
            self.known: dict[str, str] = dict(state["steps"])
            self.begun: dict[str, str] = dict(state.get("begun", {}))
        except (OSError, ValueError, KeyError, TypeError):
            self.known, self.begun = {}, {}

    def place(self, name: str) -> Path | None:
        """Return where the result of a step lies; None for what is sent elsewhere."""
        kind, _, member = name.partition(".")
        if member:
            return self.root / kind / member
        if kind == "push":
            folder = getattr(self.steps[name].entry, "folder", None)
            return self.root / folder if folder is not None else None
        return {"evaluate": self.root / SCORES, "report": self.root / REPORT}.get(kind)

    def entry(self, step: Step) -> dict[str, Any]:
        """Return what the step's entry says, with the places of the steps that it names."""
        places = {name: place for name in step.needs if (place := self.place(name)) is not None}
        return resolved(step.entry, places)

    def _key(self, step: Step) -> str:
        """Name what decides the step's result: its version, its entry, the files it names, and its needs' keys.

        Other steps count by their keys, not by where they lie: the directory of a run may be moved.
        """
        files = [stamp for stamp in _inputs(self._foreign(self.entry(step))) if stamp]
        entry = step.entry.model_dump(mode="json")
        if step.name.startswith("train."):
            entry = {k: v for k, v in entry.items() if k not in NOT_IDENTITY}
        parts = [_VERSIONS[step.name.split(".")[0]], entry, files, [self.keys[n] for n in step.needs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _foreign(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the entry without what other steps have made: their keys speak for it."""

        def ours(value: Any) -> bool:
            return isinstance(value, str) and self.root in Path(value).parents

        kept = {
            k: [v for v in value if not ours(v)] if isinstance(value, list) else value for k, value in entry.items()
        }
        return {k: None if ours(value) else value for k, value in kept.items()}

    def outlook(self, step: Step) -> str:
        """Say what `do` would do: "unchanged" or "planned". Steps are asked after those that they need."""
        key = self.keys[step.name] = self._key(step)
        place = self.place(step.name)
        there = place is None or place.exists()
        return "unchanged" if not self.fresh and self.known.get(step.name) == key and there else "planned"

    def do(self, step: Step) -> StepResult:
        """Run `step`, unless what decides it has not changed. Raises what its command raises."""
        started = time.perf_counter()
        if (unchanged := self.begin(step)) is not None:
            return unchanged
        entry, kind = self.entry(step), step.name.split(".")[0]
        does: dict[str, Callable[[dict[str, Any], Path | None], None]] = {
            "train": self._train,
            "soup": self._soup,
            "evaluate": self._evaluate,
            "report": self._report,
            "push": self._push,
        }
        does[kind](entry, self.place(step.name))
        return self.end(step, time.perf_counter() - started)

    def begin(self, step: Step) -> StepResult | None:
        """Return the result of a step that has not changed; make room for any other, and return None."""
        if self.outlook(step) == "unchanged":
            self.progress.note(f"{step.name}: unchanged")
            return StepResult(step.name, "unchanged", self.place(step.name), 0.0)
        self.progress.note(f"{step.name}:")
        key = self.keys[step.name]
        if self.known.pop(step.name, key) != key or self.begun.get(step.name, key) != key:
            self._make_room(step, self.place(step.name))
        self.begun[step.name] = key
        self._remember()
        return None

    def end(self, step: Step, seconds: float) -> StepResult:
        """Remember what a step that is done was made from."""
        self.known[step.name] = self.begun.pop(step.name)
        self._remember()
        return StepResult(step.name, "done", self.place(step.name), seconds)

    def _remember(self) -> None:
        _write(self.root / _STATE, {"schema": 1, "steps": self.known, "begun": self.begun})

    def _make_room(self, step: Step, place: Path | None) -> None:
        """Make room for a step whose entry has changed since it was done or begun.

        A soup is soon made again and is removed; a training may have cost days and is kept under another name.
        """
        if place is None or not step.name.startswith(("soup.", "train.")):
            return
        for old in (place, partial_path(place)):
            if step.name.startswith("soup."):
                shutil.rmtree(old, ignore_errors=True)
            elif old.exists():
                n = next(n for n in range(1, 10_000) if not old.with_name(f"{old.name}.old{n}").exists())
                old.rename(old.with_name(f"{old.name}.old{n}"))
                self.progress.note(f"{step.name} is another run now; the old one is kept as {old.name}.old{n}")

    def _train(self, entry: dict[str, Any], place: Path | None) -> None:
        assert place is not None
        train(TrainEntry.model_validate(entry), place, options=self.means.training, progress=self.progress)

    def _soup(self, entry: dict[str, Any], place: Path | None) -> None:
        assert place is not None
        if "search" not in entry:
            merge(
                entry["ingredients"], place, method=entry["method"], weights=entry["weights"], base=entry["base"],
                parameters=entry["parameters"], dtype=entry["dtype"], model=entry["model"],
                preprocess=entry["preprocess"], options=RunOptions(fresh=self.fresh), progress=self.progress,
            )  # fmt: skip
            return
        search = SearchEntry.model_validate(entry).options()
        greedy_search(
            entry["ingredients"], place, tasks=entry["task"], report_tasks=entry["report_task"], search=search,
            evaluation=replace(self.means.evaluation, limit=entry["limit"]), data_root=_path(entry["data_root"]),
            fresh=self.fresh, picture=plot_search, progress=self.progress,
        )  # fmt: skip

    def _evaluate(self, entry: dict[str, Any], place: Path | None) -> None:
        assert place is not None
        result = evaluate(
            entry["refs"], entry["tasks"], data_root=_path(entry["data_root"]),
            options=replace(self.means.evaluation, limit=entry["limit"]), progress=self.progress,
        )  # fmt: skip
        ScoresDocument.of(result, entry["limit"], timed=False).write(place)

    def _report(self, entry: dict[str, Any], place: Path | None) -> None:
        assert place is not None
        own = [p for p in (self.root / SCORES, *sorted(self.root.glob("soup/*/search.json"))) if p.is_file()]
        make_report(
            [Path(p) for p in entry["inputs"]] or own, place, title=entry["title"],
            held_out=entry["held_out"], difference=entry["difference"], only=entry["only"],
            png=self.root / FIGURES if entry["png"] else None, fresh=True, progress=self.progress,
        )  # fmt: skip

    def _push(self, entry: dict[str, Any], place: Path | None) -> None:
        fields = {k: v for k, v in entry.items() if k not in ("soup", "repo", "folder")}
        report = self.steps.get("report")
        drawn = report is not None and getattr(report.entry, "png", False)
        options = PushOptions(
            **fields, folder=place,
            scores=self.root / SCORES if "evaluate" in self.steps else None,
            figures=self.root / FIGURES if drawn else None,
        )  # fmt: skip
        result = publish(entry["soup"], entry["repo"], options=options, progress=self.progress)
        self.progress.note(f"{result.folder or result.pull_request or result.url}: {result.status}")


def _inputs(entry: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield a stamp of each local file or folder that an entry names: weights, configs, data sets, training data."""
    for ref in [*entry.get("ingredients", []), *entry.get("refs", []), entry.get("base"), entry.get("init")]:
        if ref and not is_hub(ref):
            yield _stamp(Path(ref) if Path(ref).exists() else Path(ref.rpartition("@")[0] or ref))
    for key in ("model", "preprocess"):
        if isinstance(entry.get(key), str) and entry[key].endswith(".json"):
            yield _stamp(Path(entry[key]))
    for path in entry.get("inputs", []):
        yield _stamp(Path(path))
    for task in (*entry.get("tasks", []), *entry.get("task", []), *entry.get("report_task", [])):
        yield _stamp(Path(split_name(task)[0]))
    for source in entry.get("data", []):
        shards = source.get("shards") or []
        patterns = [shards] if isinstance(shards, str) else shards
        found = [Path(shard) for pattern in patterns for shard in _expanded(pattern)]
        # Sizes alone: data that was copied to another disk is no reason to train for days again.
        yield [[path.name, path.stat().st_size] for path in (*found, Path(source.get("csv") or "")) if path.is_file()]


def _expanded(pattern: str) -> Iterator[str]:
    try:
        yield from braceexpand(pattern)
    except ValueError:  # the training itself will say so
        yield pattern


def _stamp(path: Path) -> list[Any]:
    """Name what lies at `path` by size and time, without reading it; nothing where nothing is."""
    files = [path] if path.is_file() else sorted(path.glob("*"))
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _write(path: Path, document: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
    partial.replace(path)
