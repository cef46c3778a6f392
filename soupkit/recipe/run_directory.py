"""One run in its directory: which steps are done, made from what, and which are begun.

RUN/run.json        what each step was made from (`RunState`)
RUN/train/NAME      trainings
RUN/soup/NAME       soups, merged or searched for
RUN/scores.json, report.html, figures/
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soupkit.checkpoint.partial import partial_path
from soupkit.files import read_bytes, write_whole
from soupkit.progress import Progress
from soupkit.recipe.inputs import Stamps
from soupkit.recipe.steps import Making, MergeStep, Resources, SearchStep, Step, TrainStep

_STATE = "run.json"


class RunState(BaseModel):
    """What `run.json` holds: by the names of steps, the keys of what they were made from (`steps`), or are being made
    from (`begun`)."""

    model_config = ConfigDict(frozen=True)

    schema_: int = Field(default=1, alias="schema")
    steps: dict[str, str]
    begun: dict[str, str] = Field(default_factory=dict)


def read_state(root: Path) -> RunState:
    """Return what is remembered in `root`: nothing where there is no file, or none that can be read."""
    try:
        return RunState.model_validate_json(read_bytes(root / _STATE))
    except (OSError, ValidationError):
        return RunState(steps={})


def write_state(root: Path, state: RunState) -> None:
    """Write `state`, whole or not at all. Raises StorageError."""
    write_whole(root / _STATE, state.model_dump_json(by_alias=True, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step. `status` is "done", "unchanged" or "planned"; `output` is None for what is sent."""

    name: str
    status: str
    output: Path | None
    seconds: float


class RunDirectory:
    """A run in its directory `root`: what each step was made from, as `run.json` remembers it."""

    def __init__(self, root: Path, steps: Sequence[Step[Any]], resources: Resources, progress: Progress) -> None:
        self.root, self.resources, self.progress = root, resources, progress
        self.steps = {step.name: step for step in steps}
        self._keys: dict[str, str] = {}
        state = read_state(root)
        self._done, self._begun = dict(state.steps), dict(state.begun)

    def output(self, name: str) -> Path | None:
        """Return where the result of a step lies; None for what is sent elsewhere."""
        return self.steps[name].output(self.root)

    def entry(self, step: Step[Any]) -> Any:
        """Return what the step's entry says, with the outputs of the steps that it names."""
        outputs = {name: output for name in step.needs if (output := self.output(name)) is not None}
        return step.resolved(outputs)

    def _key(self, step: Step[Any]) -> str:
        """Name what decides the step's result: its version, its entry, the files it names, and its needs' keys.

        Other steps count by their keys, not by where they lie: the directory of a run may be moved.
        """
        files = [stamp for stamp in step.inputs(self.entry(step), Stamps(self.root)) if stamp]
        parts = [step.version, step.identity(), files, [self._keys[name] for name in step.needs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def outlook(self, step: Step[Any]) -> str:
        """Say what `do` would do: "unchanged" or "planned". Steps are asked after those that they need."""
        key = self._keys[step.name] = self._key(step)
        output = self.output(step.name)
        made = self._done.get(step.name) == key and (output is None or output.exists())
        return "unchanged" if made and not self.resources.fresh else "planned"

    def do(self, step: Step[Any]) -> StepResult:
        """Make `step`, unless what decides it has not changed. Raises what its command raises."""
        started = time.perf_counter()
        if (unchanged := self.begin(step)) is not None:
            return unchanged
        making = Making(self.root, self.resources, self.steps, self.progress)
        step.make(self.entry(step), self.output(step.name), making)
        return self.end(step, time.perf_counter() - started)

    def begin(self, step: Step[Any]) -> StepResult | None:
        """Return the result of a step that has not changed; make room for any other, and return None."""
        if self.outlook(step) == "unchanged":
            self.progress.note(f"{step.name}: unchanged")
            return StepResult(step.name, "unchanged", self.output(step.name), 0.0)
        self.progress.note(f"{step.name}:")
        key = self._keys[step.name]
        if self._done.pop(step.name, key) != key or self._begun.get(step.name, key) != key:
            self._make_room(step)
        self._begun[step.name] = key
        self._remember()
        return None

    def end(self, step: Step[Any], seconds: float) -> StepResult:
        """Remember what a step that is done was made from."""
        self._done[step.name] = self._begun.pop(step.name)
        self._remember()
        return StepResult(step.name, "done", self.output(step.name), seconds)

    def _remember(self) -> None:
        write_state(self.root, RunState(steps=self._done, begun=self._begun))

    def _make_room(self, step: Step[Any]) -> None:
        """Make room for a step whose entry has changed since it was done or begun.

        A soup is soon made again and is removed; a training may have cost days and is kept under another name.
        """
        output = self.output(step.name)
        if output is None:
            return
        for old in (output, partial_path(output)):
            if isinstance(step, MergeStep | SearchStep):
                shutil.rmtree(old, ignore_errors=True)
            elif isinstance(step, TrainStep) and old.exists():
                n = next(n for n in range(1, 10_000) if not old.with_name(f"{old.name}.old{n}").exists())
                old.rename(old.with_name(f"{old.name}.old{n}"))
                self.progress.note(f"{step.name} is another run now; the old one is kept as {old.name}.old{n}")
