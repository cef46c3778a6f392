"""Trains one run: from its entry to a directory that open_clip opens, with everything that it takes to go on."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.partial import PartialDirectory, partial_path
from soupkit.errors import SoupkitError, StorageError, UsageError
from soupkit.evaluation.evaluator import choose_device
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.training.data import Batch, TrainingData, batches
from soupkit.training.entry import NEUTRAL, TrainEntry
from soupkit.training.model import Start, build, find_start
from soupkit.training.optimizer import build_optimizer, set_lr
from soupkit.training.order import seed_of
from soupkit.training.parallel import clip_gradients, full_state, parallelize, start_average, update_average
from soupkit.training.run_directory import (
    Checkpoints,
    Metrics,
    read_training,
    write_training,
    write_weights,
)
from soupkit.training.schedule import schedule_of
from soupkit.training.step import contrastive_step
from soupkit.version import __version__

_LOG_SECONDS = 5.0  # between lines of progress that say the loss
_CHECKPOINT_STEPS = 1000


class NotFiniteError(SoupkitError):
    """The loss or a gradient is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train, as far as it does not decide the weights.

    `device` is auto, cpu, cuda or cuda:N; `workers` are processes per rank that decode images (None: as many as there
    are cores for; 0: none); `threads` of torch on the CPU (None: torch's own choice).
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    fresh: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What became of a run: "trained", "kept" (it was there already) or "planned". `loss` is the last step's."""

    output: Path
    status: str
    samples: int
    fingerprint: str | None
    loss: float | None
    skipped: int
    damaged: int
    seconds: float


@dataclass
class _Life:
    """What changes while a run goes on: all of it is in a checkpoint."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    step: int = 0
    skipped: int = 0
    damaged: int = 0
    loss: float = math.nan

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        counts = torch.tensor([self.step, self.skipped, self.damaged])
        state = {"model": model, "optimizer": optimizer, "counts": counts}
        return state if self.average is None else {**state, "average": self.average}

    def restore(self, checkpoints: Checkpoints, samples: int) -> None:
        state = self.state()
        checkpoints.read(state, samples)
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.step, self.skipped, self.damaged = (int(n) for n in state["counts"])


def train(
    entry: TrainEntry | dict[str, Any],
    output: str | Path,
    *,
    options: TrainOptions | None = None,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a run into `output`, or go on with it where it stopped; a finished one of the same entry is kept.

    Under `torchrun` all ranks train one model; the batch is divided among them. Ctrl-C and SIGTERM write a checkpoint
    and raise KeyboardInterrupt. Raises UsageError for a run that makes no sense, CheckpointError and ArchitectureError
    for the weights to start from, DataError for the data, StorageError when something else is in the way or it cannot
    be written, NotFiniteError when the loss is not finite and the run is to stop then.
    """
    options = options or TrainOptions()
    entry = entry if isinstance(entry, TrainEntry) else TrainEntry.model_validate(entry)
    started = time.perf_counter()
    target = Path(output)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        if entry.batch_size % ranks.size:
            raise UsageError(f"batch_size {entry.batch_size} cannot be divided among {ranks.size} ranks", "batch_size")
        if options.threads:
            stack.enter_context(_threads(options.threads))
        start = ranks.together(lambda: find_start(entry))
        identity = _identity(entry, start)
        done = read_training(target)
        if target.exists() and not options.fresh:
            if done is None or done.get("identity") != identity:
                what = "is there already and is not this run"
                raise StorageError(what + _difference(done, identity), target, "choose another -o, or --fresh")
            progress.note(f"{target} is there already")
            return _result(done, target, "kept", started)
        if options.dry_run:
            return TrainResult(target, "planned", entry.steps * entry.batch_size, None, None, 0, 0, 0.0)
        partial = PartialDirectory(target)
        ranks.lead(lambda: _claim(stack.enter_context(partial), identity, options.fresh))
        work = partial_path(target)
        with _stop_signals() as stop:
            document = _train(entry, start, identity, work, ranks, options, stop, progress)
        ranks.lead(lambda: partial.publish(replace=options.fresh))
        return _result(document, target, "trained", started)


def _result(document: dict[str, Any], target: Path, status: str, started: float) -> TrainResult:
    return TrainResult(
        target,
        status,
        document["samples"],
        document["output"]["fingerprint"],
        document["loss"],
        document["skipped"],
        document["damaged"],
        time.perf_counter() - started,
    )


def _identity(entry: TrainEntry, start: Start) -> dict[str, Any]:
    """Everything that decides the weights: the entry but for what is NEUTRAL, and the parent by its fingerprint."""
    fields = entry.model_dump(mode="json", exclude=set(NEUTRAL) | {"init", "model", "preprocess"})
    return {**fields, "parent": start.fingerprint, "config": start.config}


def _difference(document: dict[str, Any] | None, identity: dict[str, Any]) -> str:
    there = (document or {}).get("identity", {})
    names = [k for k, v in identity.items() if there.get(k) != v]
    return f": its {', '.join(names[:4])} differ" if document and there else ""


def _claim(partial: PartialDirectory, identity: dict[str, Any], fresh: bool) -> None:
    """Make the unfinished directory this run's. Raises StorageError when it is another's."""
    if fresh:
        partial.clear()
    before = read_training(partial.path)
    if before is None:
        partial.clear()
        write_training(partial.path, {"schema": 1, "soupkit": __version__, "identity": identity})
    elif before.get("identity") != identity:
        raise StorageError(
            "was begun with other settings" + _difference(before, identity), partial.path,
            "go on with those, choose another -o, or --fresh",
        )  # fmt: skip


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Stop:
    """Whether this process was asked to end."""

    asked = False

    def on(self, ranks: Ranks) -> bool:
        """Whether any rank was asked; the same on all of them."""
        return any(ranks.gather(self.asked)) if ranks.size > 1 else self.asked


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn Ctrl-C and SIGTERM into a wish that is granted at the end of a step; a second one is not waited for."""
    stop = _Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread, which alone may do this
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(
    entry: TrainEntry, start: Start, identity: dict[str, Any], work: Path, ranks: Ranks, options: TrainOptions,
    stop: _Stop, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train in `work` and return what `training.json` says at the end."""
    device = choose_device(options.device, ranks.local)
    model, tokenizer = ranks.together(lambda: build(entry, start, device))
    model = parallelize(
        model, ranks, shard=entry.shard, checkpointing=entry.grad_checkpointing, precision=entry.precision,
        compile=entry.compile,
    )  # fmt: skip
    data = ranks.together(lambda: TrainingData(entry, start.config, tokenizer))
    for note in (note for source in data.sources for note in source.notes):
        progress.note(note)
    life = _Life(model, build_optimizer(model, entry), start_average(model) if entry.ema is not None else None)
    checkpoints = Checkpoints(work / "checkpoints", entry.keep, ranks)
    newest = checkpoints.newest()
    if newest is not None:
        life.restore(checkpoints, newest)
        progress.note(f"going on after {newest:,} of {entry.steps * entry.batch_size:,} samples")
    metrics = ranks.lead(lambda: Metrics(work, life.step * entry.batch_size)) if ranks.leads else None
    if not ranks.leads:
        ranks.lead(lambda: None)
    progress.start("training", entry.steps * entry.batch_size, "samples")
    progress.advance(life.step * entry.batch_size)
    try:
        _steps(entry, life, data, checkpoints, metrics, start, work, ranks, _workers(options, ranks), stop, progress)
    finally:
        progress.finish()
    document = {
        "schema": 1,
        "soupkit": __version__,
        "entry": entry.model_dump(mode="json"),
        "parent": {"ref": entry.init, "fingerprint": start.fingerprint} if entry.init else None,
        "lineage": list(start.lineage),
        "data": [{"place": s.place, "samples": len(s), "files": [list(f) for f in s.identity]} for s in data.sources],
        "samples": life.step * entry.batch_size,
        "loss": life.loss if math.isfinite(life.loss) else None,
        "skipped": life.skipped,
        "damaged": life.damaged,
        "identity": identity,
    }
    # Shards are gathered by all ranks, and written by the first.
    whole = full_state(life.model.state_dict(), ranks)
    average = full_state({**life.model.state_dict(), **life.average}, ranks) if life.average is not None else None
    return ranks.lead(lambda: _finish(whole, average, start, work, document))


def _finish(
    whole: dict[str, Tensor], average: dict[str, Tensor] | None, start: Start, work: Path, document: dict[str, Any]
) -> dict[str, Any]:
    """Write the final weights and the record, and remove what only a continuation would need."""
    import shutil

    _write(whole, start, work)
    if average is not None:
        _write(average, start, work / "ema")
    with open_checkpoint(work) as written:
        document = {**document, "output": {"fingerprint": fingerprint(written).value}}
    write_training(work, document)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return document


def _write(state: dict[str, Tensor], start: Start, place: Path) -> None:
    """Write weights with what belongs to them."""
    write_weights(place, state, start.config)
    for file in start.tokenizer_files:
        (place / file.name).write_bytes(file.read_bytes())


def _workers(options: TrainOptions, ranks: Ranks) -> int:
    if options.workers is not None:
        return options.workers
    return max(1, min(8, (len(os.sched_getaffinity(0)) - 1) // ranks.size))


def _steps(
    entry: TrainEntry, life: _Life, data: TrainingData, checkpoints: Checkpoints, metrics: Metrics | None,
    start: Start, work: Path, ranks: Ranks, workers: int, stop: _Stop, progress: Progress,
) -> None:  # fmt: skip
    """Take the steps that are left, with their checkpoints, snapshots and curves."""
    schedule, size = schedule_of(entry), entry.batch_size
    log_every = entry.log_every or size
    checkpoint_every = entry.checkpoint_every or _CHECKPOINT_STEPS * size
    clock, clock_samples, spoken = time.monotonic(), life.step * size, time.monotonic()
    for batch in batches(data, entry, ranks, life.step, workers):
        before = life.step * size
        lr = schedule(before)
        norm = _step(entry, life, batch, lr, ranks, progress)
        samples = life.step * size
        now = time.monotonic()
        if before // log_every < samples // log_every and metrics is not None:
            rate = (samples - clock_samples) / max(now - clock, 1e-9)
            clock, clock_samples = now, samples
            line = {"samples": samples, "loss": life.loss, "lr": lr, "grad_norm": norm, "samples_per_s": round(rate, 2)}
            metrics.write({k: v if math.isfinite(v) else None for k, v in line.items()})
        if now - spoken >= _LOG_SECONDS:
            spoken = now
            progress.note(f"{samples:,} samples: loss {life.loss:.4f}, lr {lr:.3g}")
        progress.advance(size)
        for wanted in entry.snapshots:
            if before < wanted <= samples:
                _snapshot(life, start, work / f"samples={wanted}", ranks)
        last = life.step == entry.steps
        if stop.on(ranks) and not last:
            checkpoints.write(life.state(), samples, wait=True)
            progress.note(f"stopped after {samples:,} samples, with a checkpoint")
            raise KeyboardInterrupt
        if before // checkpoint_every < samples // checkpoint_every and not last:
            checkpoints.write(life.state(), samples)
        checkpoints.poll()
    checkpoints.finish()


def _snapshot(life: _Life, start: Start, place: Path, ranks: Ranks) -> None:
    whole = full_state(life.model.state_dict(), ranks)
    ranks.lead(lambda: _write(whole, start, place))


def _step(entry: TrainEntry, life: _Life, batch: Batch, lr: float, ranks: Ranks, progress: Progress) -> float:
    """Take one step and return the norm of its gradient. Raises NotFiniteError where the run is to stop then."""
    first = life.step * entry.batch_size
    damaged = [d for part in ranks.gather(batch.damaged) for d in part] if ranks.size > 1 else list(batch.damaged)
    if damaged and not life.damaged:
        progress.note(f"damaged: {damaged[0]}; another sample takes its place, and the rest is only counted")
    life.damaged += len(damaged)
    # The step's random numbers depend on the seed and the step alone: none need to be in a checkpoint.
    torch.manual_seed(seed_of(entry.seed, "step", life.step, ranks.rank))
    result = contrastive_step(
        life.model, batch.images, batch.texts, loss=entry.loss,
        micro_batch=entry.micro_batch_size or len(batch.images), ranks=ranks, precision=entry.precision,
    )  # fmt: skip
    life.loss = float(result.loss)
    norm = float(clip_gradients(life.model, entry.grad_clip))
    life.step += 1
    if math.isfinite(life.loss) and math.isfinite(norm):
        set_lr(life.optimizer, lr)
        life.optimizer.step()
        with torch.no_grad():
            scale: Any = life.model.logit_scale
            scale.clamp_(0, math.log(100))
        if life.average is not None and entry.ema is not None:
            update_average(life.average, life.model, entry.ema)
        return norm
    what = f"the {'gradient' if math.isfinite(life.loss) else 'loss'} is not finite"
    if entry.nonfinite == "stop":
        raise NotFiniteError(what, f"samples {first:,} to {first + entry.batch_size:,}", "lower lr, or nonfinite: skip")
    life.skipped += 1
    progress.note(f"{what} at samples {first:,} to {first + entry.batch_size:,}; the step is skipped")
    return norm
