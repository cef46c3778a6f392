"""What the steps of a run will cost, before any is begun: operations, days, bytes, images and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint import open_headers
from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.dtypes import BY_TORCH_NAME
from soupkit.errors import ArchitectureError, SoupkitError, UsageError
from soupkit.evaluation.entry import EvaluateEntry
from soupkit.evaluation.sizes import TaskSize, task_sizes
from soupkit.merging.entry import SoupEntry
from soupkit.publishing.entry import PushEntry
from soupkit.recipe.run_directory import RunDirectory
from soupkit.recipe.steps import EvaluateStep, MergeStep, PushStep, SearchStep, Step, TrainStep
from soupkit.search import SearchEntry
from soupkit.training.cost import RunCost, model_cost, run_cost
from soupkit.training.entry import TrainEntry
from soupkit.training.model import find_config

_FP32 = 4  # bytes of a number in what the trainer writes


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step costs, None where that is not known before.

    `operations` are floating-point, `days` those that they take at the rate that was given; `images` and `prompts` are
    all that go through a tower. A search's images are the most that it can need. `unknown` says what is not in it.
    """

    training: RunCost | None = None
    operations: float | None = None
    days: float | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    images: int | None = None
    prompts: int | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Weights:
    """A model that is there, or will be: `image` and `text` operations of one image and one prompt, where known."""

    parameters: int
    nbytes: int
    image: int | None
    text: int | None


def step_costs(
    directory: RunDirectory, steps: Sequence[Step[Any]], *, world: int = 1, rate: float | None = None
) -> dict[str, StepCost]:
    """Return the cost of each of `steps`, on `world` GPUs that each do `rate` operations a second.

    Only what is said of weights is read of them (headers). Raises UsageError where a training cannot be shared by
    `world`, or a task cannot be scored.
    """
    reckoning = _Reckoning(directory, world, rate)
    return {step.name: reckoning.cost(step) for step in steps}


class _Reckoning:
    """Costs of steps, with what is known of each model by the path where it is or will be."""

    def __init__(self, directory: RunDirectory, world: int, rate: float | None) -> None:
        self._directory, self._world, self._rate = directory, world, rate
        self._models: dict[str, _Weights | None] = {}

    def cost(self, step: Step[Any]) -> StepCost:
        entry = self._directory.entry(step)
        match step:
            case TrainStep():
                return self._train(step.entry)
            case MergeStep():
                return self._merge(entry)
            case SearchStep():
                return self._search(entry)
            case EvaluateStep():
                return self._evaluate(entry)
            case PushStep():
                return self._push(entry)
        return StepCost()

    def _days(self, operations: float | None) -> float | None:
        if operations is None or self._rate is None:
            return None
        return operations / (self._rate * self._world) / 86400

    def _train(self, entry: TrainEntry) -> StepCost:
        try:
            cost = run_cost(entry, world=self._world, rate=self._rate)
        except UsageError:
            raise
        except SoupkitError as error:
            return StepCost(unknown=(str(error),))
        return StepCost(training=cost, operations=cost.operations, days=cost.days)

    def _weights(self, ref: str) -> _Weights | None:
        """Return what is known of the weights that `ref` names: a step's, or some that are there already."""
        if ref not in self._models:
            try:
                self._models[ref] = self._measure(ref)
            except (SoupkitError, OSError):
                self._models[ref] = None
        return self._models[ref]

    def _measure(self, ref: str) -> _Weights | None:
        run = ref if Path(ref).exists() else ref.rpartition("@")[0] or ref  # an average, a snapshot: of the same size
        step = next((s for s in self._directory.steps.values() if str(self._directory.output(s.name)) == run), None)
        if step is None or Path(ref).exists():
            with open_headers(ref) as headers:
                config = architecture_of(headers).config
                parameters = sum(spec.numel for spec in headers.tensors.values())
                nbytes = sum(spec.nbytes for spec in headers.tensors.values())
            return _Weights(parameters, nbytes, *_operations(config["model_cfg"] if config else None))
        if isinstance(step, TrainStep):
            init = self._directory.entry(step).init
            if step.entry.model is None and init is not None:
                return self._weights(init)
            model_cfg = find_config(step.entry)["model_cfg"]
            cost = model_cost(model_cfg, patch_dropout=0, checkpointing="none", bf16=True)  # counted for a run already
            return _Weights(cost.parameters, cost.parameters * _FP32, cost.image, cost.forward - cost.image)
        if not isinstance(step, MergeStep | SearchStep):
            return None
        entry = self._directory.entry(step)
        source = entry.ingredients[0] if entry.ingredients else entry.run if isinstance(entry, SoupEntry) else None
        first = self._weights(source) if source is not None else None
        dtype = entry.dtype if isinstance(entry, SoupEntry) else None
        return first if first is None else _converted(first, dtype)

    def _all_weights(self, refs: Sequence[str]) -> tuple[list[_Weights], tuple[str, ...]]:
        """Return what is known of the weights that `refs` name, and a note of each that nothing is known of."""
        weights = [self._weights(ref) for ref in refs]
        lost = tuple(f"the size of {ref}" for ref, one in zip(refs, weights, strict=True) if one is None)
        return [one for one in weights if one is not None], lost

    def _merge(self, entry: SoupEntry) -> StepCost:
        if entry.run is not None:
            return StepCost(unknown=(f"how many snapshots {entry.run} has",))
        weights, lost = self._all_weights([*entry.ingredients, *([entry.base] if entry.base else [])])
        if lost:
            return StepCost(unknown=lost)
        return StepCost(
            bytes_read=sum(w.nbytes for w in weights), bytes_written=_converted(weights[0], entry.dtype).nbytes
        )

    def _search(self, entry: SearchEntry) -> StepCost:
        weights, lost = self._all_weights(entry.ingredients)
        n = len(entry.ingredients)
        options = entry.options()
        most = options.row.most_trials(n, **options.settled)
        if most is None:
            lost = (*lost, f"how many trials the strategy {entry.search} makes")
        sizes, missing = self._sizes(entry.task, entry, split="val")
        reported, more = self._sizes(entry.report_task, entry, split="test")
        if lost or most is None:
            return StepCost(unknown=lost)
        passes = n + most.trials
        images, prompts = (passes * a + 3 * b for a, b in zip(_sums(sizes), _sums(reported), strict=True))
        operations = _passes(weights[0], images, prompts)
        # Each is looked at, scored alone and merged; a trial reads the one that it tries, a mixture all.
        every, largest = sum(w.nbytes for w in weights), max(w.nbytes for w in weights)
        read = (3 + most.mixtures) * every + (most.trials - most.mixtures) * largest
        return StepCost(
            operations=operations, days=self._days(operations), bytes_read=read, bytes_written=weights[0].nbytes,
            images=images, prompts=prompts, unknown=(*missing, *more),
        )  # fmt: skip

    def _evaluate(self, entry: EvaluateEntry) -> StepCost:
        sizes, missing = self._sizes(entry.tasks, entry, split="test")
        images, prompts = _sums(sizes)
        weights, lost = self._all_weights(entry.refs)
        counted = [passes for one in weights if (passes := _passes(one, images, prompts)) is not None]
        operations = sum(counted) if len(counted) == len(entry.refs) else None
        return StepCost(
            operations=operations, days=self._days(operations),
            bytes_read=None if lost else sum(one.nbytes for one in weights),
            images=images * len(entry.refs), prompts=prompts * len(entry.refs), unknown=(*missing, *lost),
        )  # fmt: skip

    def _sizes(
        self, tasks: Sequence[str], entry: SearchEntry | EvaluateEntry, *, split: str
    ) -> tuple[list[TaskSize], tuple[str, ...]]:
        sizes = [s for text in tasks for s in task_sizes(text, data_root=entry.data_root, split=split)]
        if (limit := entry.limit) is not None:
            sizes = [TaskSize(s.name, s.split, min(s.images or limit, limit), s.prompts) for s in sizes]
        lost = [f"the images of {s.name}:{s.split}" for s in sizes if s.images is None]
        lost += [f"the prompts of {s.name}:{s.split}" for s in sizes if s.images is not None and s.prompts is None]
        return sizes, tuple(lost)

    def _push(self, entry: PushEntry) -> StepCost:
        weights = self._weights(entry.soup)
        if weights is None:
            return StepCost(unknown=(f"the size of {entry.soup}",))
        return StepCost(bytes_read=weights.nbytes, bytes_written=weights.nbytes)


def _sums(sizes: Sequence[TaskSize]) -> tuple[int, int]:
    """Return the images and the prompts of all tasks, as far as they are known."""
    return sum(s.images or 0 for s in sizes), sum(s.prompts or 0 for s in sizes)


def _converted(weights: _Weights, dtype: str | None) -> _Weights:
    """Return the same weights in another dtype; None keeps theirs."""
    target = BY_TORCH_NAME.get(dtype or "")
    return weights if target is None else replace(weights, nbytes=weights.parameters * target.itemsize)


def _operations(model_cfg: dict[str, Any] | None) -> tuple[int | None, int | None]:
    if model_cfg is None:
        return None, None
    try:
        cost = model_cost(model_cfg, patch_dropout=0, checkpointing="none", bf16=False)
    except ArchitectureError:
        return None, None
    return cost.image, cost.forward - cost.image


def _passes(weights: _Weights, images: int, prompts: int) -> float | None:
    if weights.image is None or weights.text is None:
        return None
    return float(weights.image) * images + float(weights.text) * prompts
