"""The steps of a run, with all that is due between them: curves, scores, snapshots, checkpoints, the wish to stop."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from soupkit.checkpoint.run_record import snapshot_directory
from soupkit.errors import SoupkitError
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.training.checkpoints import Checkpoints
from soupkit.training.classification_step import classification_step
from soupkit.training.context import RunContext
from soupkit.training.curves import Curves
from soupkit.training.data.batches import Batch
from soupkit.training.entry import TrainEntry
from soupkit.training.evaluation_points import EvaluationPoints, score_text
from soupkit.training.optimizer import set_lr
from soupkit.training.order import seed_of
from soupkit.training.parallel import clip_gradients, full_state, update_average
from soupkit.training.schedule import schedule_of
from soupkit.training.state import TrainState
from soupkit.training.step import contrastive_step
from soupkit.training.weights import write_model

_CHECKPOINT_STEPS = 1000


class NotFiniteError(SoupkitError):
    """The loss or a gradient is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What the steps of a run work with. `curves` are the first rank's; `evaluation` is None without such points."""

    context: RunContext
    checkpoints: Checkpoints
    curves: Curves | None
    evaluation: EvaluationPoints | None

    def run(self, state: TrainState, batches: Iterable[Batch]) -> None:
        """Take the steps that are left.

        Raises KeyboardInterrupt, after a checkpoint, when the run is asked to stop; NotFiniteError; StorageError.
        """
        entry, size = self.context.entry, self.context.entry.batch_size
        schedule, clock = schedule_of(entry), _Clock(state.step * size)
        if self._missed_scores(state):
            self._evaluate(state)
        for batch in batches:
            before = state.step * size
            lr = schedule(before)
            try:
                norm = take_step(entry, state, batch, lr, self.context.ranks, self.context.progress)
            except NotFiniteError:  # on all ranks: what is being written is what the run will go on from
                self.checkpoints.finish()
                raise
            samples = state.step * size
            self._measure(before, samples, {"loss": state.loss, "lr": lr, "grad_norm": norm}, clock)
            self.context.progress.advance(size)
            self._write_snapshots(before, samples, state)
            last = state.step == entry.steps
            if not last and self.context.stop.on(self.context.ranks):
                self.checkpoints.write(state.state(), samples, wait=True)
                self.context.progress.note(f"stopped after {samples:,} samples, with a checkpoint")
                raise KeyboardInterrupt
            # Before the checkpoint, so that none is there whose scores a kill could have lost.
            if self.evaluation is not None and (last or _crossed(before, samples, self._every)):
                with clock:
                    self._evaluate(state)
            if not last and _crossed(before, samples, entry.checkpoint_every or _CHECKPOINT_STEPS * size):
                self.checkpoints.write(state.state(), samples)
            self.checkpoints.poll()
        self.checkpoints.finish()

    @property
    def _every(self) -> int:
        assert self.context.entry.evaluate is not None
        return self.context.entry.evaluate.every

    def _missed_scores(self, state: TrainState) -> bool:
        """Whether the run was stopped at a point where it was to be scored: the wish to stop goes first."""
        size = self.context.entry.batch_size
        samples = state.step * size
        if self.evaluation is None or not state.step or not _crossed(samples - size, samples, self._every):
            return False
        return self.context.ranks.lead(self._lacks_scores, samples)

    def _lacks_scores(self, samples: int) -> bool:
        return self.curves is not None and not self.curves.scored(samples)

    def _evaluate(self, state: TrainState) -> None:
        assert self.evaluation is not None
        samples = state.step * self.context.entry.batch_size
        scores = self.evaluation.score(state.model, state.average)
        self.context.ranks.lead(self._keep_scores, samples, scores)
        self.context.progress.note(f"{samples:,} samples: {score_text(scores)}")

    def _keep_scores(self, samples: int, scores: dict[str, dict[str, Any]]) -> None:
        if self.curves is not None:
            self.curves.write_scores(samples, scores)

    def _measure(self, before: int, samples: int, values: dict[str, float], clock: "_Clock") -> None:
        entry = self.context.entry
        if self.curves is not None and _crossed(before, samples, entry.log_every or entry.batch_size):
            values = {**values, "samples_per_s": round(clock.rate(samples), 2)}
            self.curves.write(samples, {k: v if math.isfinite(v) else None for k, v in values.items()})
        self.context.progress.state(f"loss {values['loss']:.4f}, lr {values['lr']:.3g}")

    def _write_snapshots(self, before: int, samples: int, state: TrainState) -> None:
        """Write the snapshots that are due after a step from `before` to `samples` samples."""
        for wanted in self.context.entry.snapshots:
            if before < wanted <= samples:
                whole = full_state(state.model.state_dict(), self.context.ranks)
                self.context.ranks.lead(self._write_snapshot, wanted, whole)

    def _write_snapshot(self, wanted: int, whole: dict[str, Tensor]) -> None:
        start = self.context.start
        write_model(self.context.work / snapshot_directory(wanted), whole, start.config, start.tokenizer_files)


class _Clock:
    """The rate of samples since it was last asked. Held, it stands still."""

    def __init__(self, samples: int) -> None:
        self._since, self._samples = time.monotonic(), samples
        self._held = 0.0

    def rate(self, samples: int) -> float:
        now = time.monotonic()
        rate = (samples - self._samples) / max(now - self._since, 1e-9)
        self._since, self._samples = now, samples
        return rate

    def __enter__(self) -> None:
        self._held = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since += time.monotonic() - self._held


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every < after // every


def take_step(entry: TrainEntry, state: TrainState, batch: Batch, lr: float, ranks: Ranks, progress: Progress) -> float:
    """Take one step and return the norm of its gradient. Raises NotFiniteError where the run is to stop then."""
    first = state.step * entry.batch_size
    damaged = [d for part in ranks.gather(batch.damaged) for d in part] if ranks.size > 1 else list(batch.damaged)
    if damaged and not state.damaged:
        progress.note(f"damaged: {damaged[0]}; another sample takes its place, and the rest is only counted")
    state.damaged += len(damaged)
    # The step's random numbers depend on the seed and the step alone: none need to be in a checkpoint.
    torch.manual_seed(seed_of(entry.seed, "step", state.step, ranks.rank))
    loss = _gradient(entry, state, batch, ranks)
    gradient_norm = clip_gradients(state.model, entry.grad_clip)
    state.loss, norm = torch.stack([loss, gradient_norm.to(loss)]).tolist()  # a GPU is waited for once
    state.step += 1
    if math.isfinite(state.loss) and math.isfinite(norm):
        set_lr(state.optimizer, lr)
        state.optimizer.step()
        if not entry.classifies:
            with torch.no_grad():
                scale: Any = state.model.logit_scale
                scale.clamp_(0, math.log(100))
        if state.average is not None and entry.ema is not None:
            update_average(state.average, state.model, entry.ema)
        return norm
    what = f"the {'gradient' if math.isfinite(state.loss) else 'loss'} is not finite"
    if entry.nonfinite == "stop":
        raise NotFiniteError(
            what,
            f"samples {first:,} to {first + entry.batch_size:,}",
            "--set nonfinite=skip goes on without; a lower lr starts anew",
        )
    state.skipped += 1
    progress.note(f"{what} at samples {first:,} to {first + entry.batch_size:,}; the step is skipped")
    return norm


def _gradient(entry: TrainEntry, state: TrainState, batch: Batch, ranks: Ranks) -> Tensor:
    """Leave the gradient of a step in the parameters, and return the loss over the global batch, a float32 scalar."""
    micro_batch = entry.micro_batch_size or len(batch.images)
    if entry.loss == "cross_entropy":
        return classification_step(
            state.model, batch.images, batch.targets, label_smoothing=entry.label_smoothing,
            micro_batch=micro_batch, ranks=ranks, precision=entry.precision,
        )  # fmt: skip
    return contrastive_step(
        state.model, batch.images, batch.targets, loss=entry.loss,
        micro_batch=micro_batch, ranks=ranks, precision=entry.precision,
    ).loss  # fmt: skip
