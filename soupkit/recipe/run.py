"""`run`: the steps of a recipe in their order, each skipped when what decides its result has not changed."""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint.hub import is_hub
from soupkit.checkpoint.partial import partial_path
from soupkit.errors import StorageError
from soupkit.evaluation import EvaluationOptions, default_cache, evaluate
from soupkit.merging import RunOptions, merge
from soupkit.progress import SILENT, Progress
from soupkit.publishing.plots import plot_search
from soupkit.publishing.push import PushOptions, push
from soupkit.publishing.report import make_report
from soupkit.recipe.graph import Step, read_recipe, resolved
from soupkit.search import SearchOptions, greedy_search
from soupkit.training import TrainOptions, train
from soupkit.training.entry import NEUTRAL, TrainEntry

# Raised when a step comes to do something else for the same entry, so that its old results are made anew.
_VERSIONS = {"train": 1, "soup": 1, "evaluate": 1, "report": 1, "push": 1}
_STATE = "run.json"
_SCORES = "scores.json"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step. `status` is "done", "unchanged" or "planned"; `output` is None for a push."""

    name: str
    status: str
    output: Path | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a recipe: its steps in the order in which they ran."""

    name: str
    output: Path
    steps: tuple[StepResult, ...]
    seconds: float


def run(
    recipe: Path,
    output: Path | None = None,
    *,
    until: str | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> RunResult:
    """Run the steps of `recipe` (those that `until` needs) into `output`, by default `runs/NAME`.

    A step whose inputs, options and version have not changed is skipped; one that was interrupted goes on; `fresh`
    makes all anew. A step that fails stops the run; what was finished before stays.

    Raises UsageError for a recipe that does not fit; StorageError when another run works in `output`; and whatever the
    steps raise.
    """
    started = time.perf_counter()
    graph = read_recipe(recipe)
    steps = graph.until(until)
    root = output or Path("runs") / graph.name
    if dry_run:
        work = _Work(root, False, SILENT)
        results = [StepResult(s.name, work.outlook(s), work.place(s.name), 0.0) for s in steps]
        return RunResult(graph.name, root, tuple(results), time.perf_counter() - started)
    with _held(root):
        work = _Work(root, fresh, progress)
        results = [work.do(step) for step in steps]
    return RunResult(graph.name, root, tuple(results), time.perf_counter() - started)


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Hold `root` for one run. Raises StorageError when another has it, or it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", root, "choose another -o") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError("another run works here", root, "wait for it, or choose another -o") from None
        yield


class _Work:
    """One run in its directory: what each step was made from, as `run.json` remembers it."""

    def __init__(self, root: Path, fresh: bool, progress: Progress) -> None:
        self.root, self.fresh, self.progress = root, fresh, progress
        self.keys: dict[str, str] = {}
        try:
            known = json.loads((root / _STATE).read_text("utf-8"))
            self.known: dict[str, str] = dict(known["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            self.known = {}

    def place(self, name: str) -> Path | None:
        kind, _, member = name.partition(".")
        if member:
            return self.root / kind / member
        return {"evaluate": self.root / _SCORES, "report": self.root / "report.html"}.get(kind)

    def _entry(self, step: Step) -> dict[str, Any]:
        places = {name: place for name in step.needs if (place := self.place(name)) is not None}
        return resolved(step.entry, places)

    def _key(self, step: Step) -> str:
        """Name what decides the step's result: its version, its entry, the files it names, and its needs' keys."""
        entry = self._entry(step)
        named = [
            *entry.get("ingredients", []),
            *entry.get("refs", []),
            entry.get("base"),
            entry.get("init"),
            *entry.get("inputs", []),
        ]
        files = [_stamp(Path(ref)) for ref in named if ref and not is_hub(ref) and not self._is_ours(ref)]
        if step.name.startswith("train."):
            entry = {k: v for k, v in entry.items() if k not in NEUTRAL}
        parts = [_VERSIONS[step.name.split(".")[0]], entry, files, [self.keys[n] for n in step.needs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _is_ours(self, ref: str) -> bool:
        return self.root in Path(ref).parents

    def outlook(self, step: Step) -> str:
        """Say what `do` would do: "unchanged" or "planned"."""
        key = self.keys[step.name] = self._key(step)
        place = self.place(step.name)
        there = place is None or place.exists()
        return "unchanged" if not self.fresh and self.known.get(step.name) == key and there else "planned"

    def do(self, step: Step) -> StepResult:
        """Run `step`, unless what decides it has not changed. Raises what its command raises."""
        started = time.perf_counter()
        place = self.place(step.name)
        if self.outlook(step) == "unchanged":
            self.progress.note(f"{step.name}: unchanged")
            return StepResult(step.name, "unchanged", place, 0.0)
        self.progress.note(f"{step.name}:")
        kind = step.name.split(".")[0]
        entry = self._entry(step)
        if step.name in self.known:
            self._clear(step, place)
        does: dict[str, Callable[[], None]] = {
            "train": lambda: self._train(step, entry),
            "soup": lambda: self._soup(step, entry),
            "evaluate": lambda: self._evaluate(entry),
            "report": lambda: self._report(entry),
            "push": lambda: self._push(entry),
        }
        does[kind]()
        self.known[step.name] = self.keys[step.name]
        self._remember()
        return StepResult(step.name, "done", place, time.perf_counter() - started)

    def _remember(self) -> None:
        _write(self.root / _STATE, {"schema": 1, "steps": self.known})

    def _clear(self, step: Step, place: Path | None) -> None:
        """Make room for a step whose entry has changed: begun anew, it can then be interrupted and go on.

        A soup is soon made again and is removed; a trained run may have cost days and is kept under another name.
        """
        del self.known[step.name]
        self._remember()
        if step.name.startswith("soup.") and place is not None:
            for old in (place, partial_path(place)):
                shutil.rmtree(old, ignore_errors=True)

        if step.name.startswith("train.") and place is not None and place.exists():
            n = next(n for n in range(1, 10_000) if not place.with_name(f"{place.name}.old{n}").exists())
            place.rename(place.with_name(f"{place.name}.old{n}"))
            self.progress.note(f"{step.name} is another run now; the old one is kept as {place.name}.old{n}")

    def _train(self, step: Step, entry: dict[str, Any]) -> None:
        place = self.place(step.name)
        assert place is not None
        train(TrainEntry.model_validate(entry), place, options=TrainOptions(fresh=self.fresh), progress=self.progress)

    def _soup(self, step: Step, entry: dict[str, Any]) -> None:
        place = self.place(step.name)
        assert place is not None
        if "search" not in entry:
            options = RunOptions(fresh=self.fresh)
            merge(
                entry["ingredients"], place, method=entry["method"], weights=entry["weight"], base=entry["base"],
                parameters=entry["param"], dtype=entry["dtype"], model=entry["model"], preprocess=entry["preprocess"],
                options=options, progress=self.progress,
            )  # fmt: skip
            return
        search = SearchOptions(
            entry["search"], entry["orders"], entry["stopping"], entry["error_rate"], entry["accept"], entry["seed"],
            entry["keep_going"],
        )  # fmt: skip
        greedy_search(
            entry["ingredients"], place, tasks=entry["task"], report_tasks=entry["report_task"], search=search,
            fresh=self.fresh, picture=plot_search, progress=self.progress,
        )  # fmt: skip

    def _evaluate(self, entry: dict[str, Any]) -> None:
        options = EvaluationOptions(cache=default_cache(), limit=entry["limit"])
        root = Path(entry["data_root"]) if entry["data_root"] else None
        result = evaluate(entry["refs"], entry["tasks"], data_root=root, options=options, progress=self.progress)
        document = {
            "schema": 1,
            "command": "evaluate",
            "scores": [asdict(s) for s in result.scores],
            "pairs": [asdict(p) for p in result.pairs],
            "limit": options.limit,
            "notes": list(result.notes),
        }
        _write(self.root / _SCORES, document)

    def _report(self, entry: dict[str, Any]) -> None:
        own = [p for p in (self.root / _SCORES, *sorted(self.root.glob("soup/*/search.json"))) if p.is_file()]
        make_report(
            [Path(p) for p in entry["inputs"]] or own, self.root / "report.html", title=entry["title"],
            held_out=entry["held_out"], difference=entry["difference"], only=entry["only"],
            png=self.root / "figures" if entry["png"] else None, fresh=True, progress=self.progress,
        )  # fmt: skip

    def _push(self, entry: dict[str, Any]) -> None:
        fields = {k: v for k, v in entry.items() if k not in ("soup", "repo")}
        scores = self.root / _SCORES
        options = PushOptions(**fields, scores=scores if scores.is_file() else None)
        result = push(entry["soup"], entry["repo"], options=options, progress=self.progress)
        self.progress.note(f"{result.pull_request or result.url}: {result.status}")


def _stamp(path: Path) -> list[Any]:
    """Name the files at `path` by size and time, without reading them."""
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    return [str(path), [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]]


def _write(path: Path, document: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
    partial.replace(path)
