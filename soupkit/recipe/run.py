"""`run_recipe`: the steps of a recipe in their order, each skipped when what decides its result has not changed."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soupkit.errors import SoupkitError, StorageError, UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.files import storage_error
from soupkit.progress import SILENT, Progress
from soupkit.ranks import joined_ranks
from soupkit.recipe.costs import StepCost, step_costs
from soupkit.recipe.graph import read_recipe
from soupkit.recipe.parallel_trainings import Trainings
from soupkit.recipe.run_directory import RunDirectory, StepResult
from soupkit.recipe.steps import Resources, Step, TrainStep
from soupkit.system import lock
from soupkit.training import TrainOptions


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a recipe: its steps in the order in which they ran; of a dry run, what those to be done cost."""

    name: str
    output: Path
    steps: tuple[StepResult, ...]
    seconds: float
    costs: dict[str, StepCost]

    def document(self) -> dict[str, Any]:
        """Return what `soupkit run --json` says of the run."""
        steps = [
            {
                "name": step.name,
                "status": step.status,
                "output": str(step.output) if step.output is not None else None,
                "seconds": step.seconds,
                **({"cost": asdict(self.costs[step.name])} if step.name in self.costs else {}),
            }
            for step in self.steps
        ]
        return {"name": self.name, "output": str(self.output), "steps": steps, "seconds": self.seconds}


def run_recipe(
    recipe: Path,
    output: Path | None = None,
    *,
    until: str | None = None,
    jobs: int = 1,
    training: TrainOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    dry_run: bool = False,
    world_size: int = 1,
    rate: float | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> RunResult:
    """Run the steps of `recipe` (those that `until` needs) into `output`, by default `runs/NAME`.

    A step whose inputs, options and version have not changed is skipped; one that was interrupted goes on; `fresh`
    makes all anew. Up to `jobs` trainings that do not need each other go on side by side, as processes of their own.
    A step that fails stops the run: nothing is begun after it, trainings beside it go on to their end, and what is
    finished stays. A dry run reckons what the steps cost on `world_size` GPUs that each do `rate` operations a second.

    Raises UsageError for a recipe that does not fit; StorageError when another run works in `output`; whatever the
    steps raise; and KeyboardInterrupt after Ctrl-C or SIGTERM, when all has come to a rest.
    """
    started = time.perf_counter()
    graph = read_recipe(recipe)
    steps = graph.until(until)
    root = output or Path("runs") / graph.name
    resources = Resources.of(training, evaluation, fresh=fresh)
    if jobs < 1:
        raise UsageError(f"{jobs} is less than one training at a time", "--jobs", "for example --jobs 2")
    if dry_run:
        directory = RunDirectory(root, steps, resources, SILENT)
        results = [StepResult(s.name, directory.outlook(s), directory.output(s.name), 0.0) for s in steps]
        todo = [s for s, r in zip(steps, results, strict=True) if r.status == "planned"]
        costs = step_costs(directory, todo, world=world_size, rate=rate)
        return RunResult(graph.name, root, tuple(results), time.perf_counter() - started, costs)
    with joined_ranks() as ranks:
        if ranks.size > 1:
            raise UsageError("a whole recipe is run by one process", "torchrun", "give its train section to torchrun")
    with _held(root), _terminated_like_interrupted():
        directory = RunDirectory(root, steps, resources, progress)
        results = [directory.do(step) for step in steps] if jobs == 1 else _side_by_side(directory, steps, jobs)
    return RunResult(graph.name, root, tuple(results), time.perf_counter() - started, {})


def _side_by_side(directory: RunDirectory, steps: tuple[Step[Any], ...], jobs: int) -> list[StepResult]:
    """Do the steps, up to `jobs` trainings at a time; everything else waits until none is going on."""
    results: dict[str, StepResult] = {}
    waiting = {step.name: step for step in steps}
    failed: SoupkitError | None = None
    with Trainings(jobs, directory.resources.training, directory.progress) as trainings:
        while waiting or trainings.going:
            ready = [s for s in waiting.values() if failed is None and all(n in results for n in s.needs)]
            training = [s for s in ready if isinstance(s, TrainStep)]
            samples = sum(step.entry.steps * step.entry.batch_size for step in training)
            for one in training[: jobs - len(trainings.going)]:
                del waiting[one.name]
                if (unchanged := directory.begin(one)) is not None:
                    results[one.name] = unchanged
                else:
                    trainings.start(one, directory.entry(one), directory.output(one.name), samples)
            if trainings.going:
                ended, seconds, error = trainings.wait()
                if error is None:
                    results[ended.name] = directory.end(ended, seconds)
                elif failed is None:
                    failed = error
                    directory.progress.note(f"{ended.name} failed: {error.what}; what goes on beside it is let finish")
            elif failed is not None:
                raise failed
            elif not training:
                step = ready[0]
                del waiting[step.name]
                results[step.name] = directory.do(step)
    return [results[step.name] for step in steps]


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Hold `root` for one run. Raises StorageError when another has it, or it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".lock").open("w")
    except OSError as error:
        raise storage_error(error, root, 0) from error
    with file:
        try:
            lock(file.fileno(), wait=False)
        except BlockingIOError:
            raise StorageError("another run works here", root, "wait for it, or choose another -o") from None
        yield


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, where this is the main thread, which alone may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
