"""Trains one run: from its entry to a directory that open_clip opens, with everything that it takes to go on."""

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.partial import PartialDirectory, partial_path
from soupkit.checkpoint.reference import open_headers
from soupkit.device import choose_device
from soupkit.errors import StorageError, UsageError
from soupkit.evaluation import default_cache
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.training.cpu_share import Cores, products_rounded, share_of_cores
from soupkit.training.curves import Curves, check_trackers
from soupkit.training.data.batches import TrainingData, batches, killed_workers_said
from soupkit.training.data.sources import Source, open_sources
from soupkit.training.entry import NOT_IDENTITY, TrainEntry
from soupkit.training.evaluation_points import EvaluationPoints
from soupkit.training.loop import Loop, TrainState
from soupkit.training.model import Start, build, find_config, find_start
from soupkit.training.optimizer import build_optimizer
from soupkit.training.parallel import full_state, parallelize, start_average
from soupkit.training.run_directory import Checkpoints, read_training, write_model, write_training
from soupkit.training.signals import Stop, stop_signals
from soupkit.version import __version__

_NOTES = 20  # about damaged shards that are told one by one


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train, as far as it does not decide the weights.

    `device` is auto, cpu, cuda or cuda:N; `workers` are processes per rank that decode images (0: none), `threads` are
    torch's on the CPU; where they are None, both are chosen so that this machine's ranks share its cores, or those
    `cores` that are this run's. `cache` is where indexes of shards and pixels of evaluations are kept, None for
    nowhere.
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    cache: Path | None = field(default_factory=default_cache)
    fresh: bool = False
    dry_run: bool = False
    cores: int | None = None


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
    entry = entry if isinstance(entry, TrainEntry) else _checked(entry)
    started = time.perf_counter()
    target = Path(output)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        if entry.batch_size % ranks.size:
            raise UsageError(f"batch_size {entry.batch_size} cannot be divided among {ranks.size} ranks", "batch_size")
        ranks.together(lambda: check_trackers(entry.report_to))
        gpu = choose_device(options.device, ranks.local).type == "cuda"
        cores = share_of_cores(options.workers, options.threads, options.cores, gpu=gpu)
        stack.enter_context(cores.threads_set())
        begun = None if options.fresh else read_training(partial_path(target))
        if options.dry_run and not target.exists() and begun is None:
            ranks.together(lambda: _look(entry))
            return TrainResult(target, "planned", entry.steps * entry.batch_size, None, None, 0, 0, 0.0)
        start = ranks.together(lambda: find_start(entry, progress))
        identity = _identity(entry, start)
        done = read_training(target)
        if target.exists() and not options.fresh:
            if done is None or done.get("identity") != identity:
                what = "is there already and is not this run"
                raise StorageError(what + _difference(done, identity), target, "choose another -o, or --fresh")
            progress.note(f"{target} is there already")
            return _result(done, target, "kept", started)
        if options.dry_run:
            if begun is not None:
                _refuse_another(begun, identity, partial_path(target))
                after = Checkpoints(partial_path(target) / "checkpoints", entry.keep, ranks).newest() or 0
                progress.note(f"would go on after {after:,} of {entry.steps * entry.batch_size:,} samples")
            return TrainResult(target, "planned", entry.steps * entry.batch_size, None, None, 0, 0, 0.0)
        partial = PartialDirectory(target)
        ranks.lead(lambda: _claim(stack.enter_context(partial), identity, options.fresh))
        work = partial_path(target)
        with stop_signals() as stop, killed_workers_said():
            document = _train(entry, start, identity, work, ranks, options, cores, stop, progress)
        ranks.lead(lambda: partial.publish(replace=options.fresh))
        return _result(document, target, "trained", started)


def _checked(fields: dict[str, Any]) -> TrainEntry:
    try:
        return TrainEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(first["msg"].removeprefix("Value error, "), where or "the run's entry") from error


def _look(entry: TrainEntry) -> None:
    """See whether the run can begin, as far as that is known without reading weights or data."""
    find_config(entry)
    if entry.init is not None:
        open_headers(entry.init).close()


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
    """What decides the weights: the entry without what is NOT_IDENTITY, and the parent by its fingerprint."""
    fields = entry.model_dump(mode="json", exclude=set(NOT_IDENTITY) | {"init", "model", "preprocess"})
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
    else:
        _refuse_another(before, identity, partial.path)


def _refuse_another(begun: dict[str, Any], identity: dict[str, Any], place: Path) -> None:
    if begun.get("identity") != identity:
        raise StorageError(
            "was begun with other settings" + _difference(begun, identity), place,
            "go on with those, choose another -o, or --fresh",
        )  # fmt: skip


def _train(
    entry: TrainEntry, start: Start, identity: dict[str, Any], work: Path, ranks: Ranks, options: TrainOptions,
    cores: Cores, stop: Stop, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train in `work` and return what `training.json` says at the end."""
    device = choose_device(options.device, ranks.local)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or all ranks of a machine would open a context on its first GPU
    model, tokenizer = ranks.together(lambda: build(entry, start, device))
    model = parallelize(
        model, ranks, shard=entry.shard, checkpointing=entry.grad_checkpointing, precision=entry.precision,
        compile=entry.compile,
    )  # fmt: skip
    sources = open_sources(entry, options.cache, ranks=ranks, workers=cores.workers, stop=stop, progress=progress)
    data = ranks.together(lambda: TrainingData(entry, start.config, tokenizer, sources))
    _tell_notes(sources, progress)
    data_record = [{"place": s.place, "samples": len(s), **s.identity} for s in sources]
    machine = _machine(device, ranks)
    ranks.lead(lambda: _check_continuation(work, data_record, machine, progress))
    state = TrainState(model, build_optimizer(model, entry), start_average(model) if entry.ema is not None else None)
    checkpoints = Checkpoints(work / "checkpoints", entry.keep, ranks)
    newest = checkpoints.newest()
    if newest is not None:
        state.restore(checkpoints, newest)
        progress.note(f"going on after {newest:,} of {entry.steps * entry.batch_size:,} samples")
    with ExitStack() as stack:
        stack.enter_context(products_rounded(entry.precision, device))
        evaluation = None
        if entry.evaluate is not None:
            evaluation = EvaluationPoints(entry.evaluate, start, ranks, options.device, options.cache, progress)
            stack.callback(evaluation.close)
        curves = _open_curves(entry, work, state.step * entry.batch_size, ranks)
        if curves is not None:
            stack.callback(curves.close)
        progress.start("training", entry.steps * entry.batch_size, "samples")
        stack.callback(progress.finish)
        progress.advance(state.step * entry.batch_size)
        loop = Loop(entry, start, work, ranks, checkpoints, curves, evaluation, stop, progress)
        pin = device.type == "cuda"
        loop.run(state, batches(data, entry, ranks, state.step, cores.workers, by_turns=cores.by_turns, pin=pin))
    document = {
        "schema": 1,
        "soupkit": __version__,
        "entry": entry.model_dump(mode="json"),
        "parent": {"ref": entry.init, "fingerprint": start.fingerprint} if entry.init else None,
        "lineage": list(start.lineage),
        "data": data_record,
        "machine": machine,
        "samples": state.step * entry.batch_size,
        "loss": state.loss if math.isfinite(state.loss) else None,
        "skipped": state.skipped,
        "damaged": state.damaged,
        "identity": identity,
    }
    # Shards are gathered by all ranks, and written by the first.
    whole = full_state(state.model.state_dict(), ranks)
    average = full_state({**state.model.state_dict(), **state.average}, ranks) if state.average is not None else None
    return ranks.lead(lambda: _finish(whole, average, start, work, document))


def _tell_notes(sources: Sequence[Source], progress: Progress) -> None:
    notes = [note for source in sources for note in source.notes]
    for note in notes[:_NOTES]:
        progress.note(note)
    if len(notes) > _NOTES:
        progress.note(f"and {len(notes) - _NOTES:,} more shards that are damaged")


def _machine(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Return what the last bits of a run's weights depend on beside its entry."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "ranks": ranks.size}
    return {"device": "CPU", "threads": torch.get_num_threads(), "ranks": ranks.size}


def _check_continuation(work: Path, data: list[dict[str, Any]], machine: dict[str, Any], progress: Progress) -> None:
    """Remember what a run reads and where it computes; say what a continuation has otherwise."""
    document = read_training(work) or {}
    before, there = document.get("data"), document.get("machine", machine)
    if before is not None and [{**r, "place": ""} for r in before] != [{**r, "place": ""} for r in data]:
        progress.note("the data have changed since the run began: its samples come in another order from here on")
    if there != machine:
        was, now = (", ".join(f"{name} {value}" for name, value in m.items()) for m in (there, machine))
        progress.note(f"it ran with {was}, and goes on with {now}: equal up to rounding, and not to the byte")
    write_training(work, {**document, "data": before or data, "machine": machine})


def _open_curves(entry: TrainEntry, work: Path, samples: int, ranks: Ranks) -> Curves | None:
    """Open the curves on the first rank; the others have none."""
    opened: list[Curves] = []
    run = work.name.removesuffix(".partial")
    ranks.lead(lambda: opened.append(Curves(work, samples, run, entry.report_to)))
    return opened[0] if opened else None


def _finish(
    whole: dict[str, Tensor], average: dict[str, Tensor] | None, start: Start, work: Path, document: dict[str, Any]
) -> dict[str, Any]:
    """Write the final weights and the record, and remove what only a continuation would need."""
    write_model(work, whole, start.config, start.tokenizer_files)
    if average is not None:
        write_model(work / "ema", average, start.config, start.tokenizer_files)
    with open_checkpoint(work) as written:
        document = {**document, "output": {"fingerprint": fingerprint(written).value}}
    write_training(work, document)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return document
