"""A run in its unfinished directory: data, model and state are opened, steps taken, and the end is written."""

import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.run_record import (
    AVERAGE_DIRECTORY,
    FinishedRun,
    OutputRecord,
    ParentRecord,
    RunRecord,
    SourceRecord,
    read_run,
    write_run,
)
from soupkit.errors import StorageError
from soupkit.evaluation.adapter import Tokenizer
from soupkit.progress import Progress
from soupkit.training.checkpoints import CHECKPOINTS_NAME, Checkpoints
from soupkit.training.classifier import build_classifier
from soupkit.training.context import RunContext
from soupkit.training.cpu_share import products_rounded
from soupkit.training.curves import Curves
from soupkit.training.data.batches import TrainingData, batches
from soupkit.training.data.sources import Source, open_sources
from soupkit.training.evaluation_points import EvaluationPoints
from soupkit.training.loop import Loop
from soupkit.training.model import build
from soupkit.training.optimizer import build_optimizer
from soupkit.training.parallel import full_state, parallelize, start_average
from soupkit.training.state import TrainState
from soupkit.training.weights import write_model
from soupkit.version import __version__

_NOTES = 20  # about damaged shards that are told one by one


def carry_out(context: RunContext) -> FinishedRun:
    """Train in `context.work`, from the newest checkpoint there, and return the record that is beside the weights.

    All ranks must call it. Raises what `train` does.
    """
    device = context.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or all ranks of a machine would open a context on its first GPU
    entry, ranks = context.entry, context.ranks
    checkpoints = Checkpoints(context.work / CHECKPOINTS_NAME, entry.keep, ranks)
    ranks.lead(checkpoints.sweep)
    newest = checkpoints.newest()
    tokenizer = None
    if entry.classifies:
        model = build_classifier(
            entry, context.start, device, context.options, ranks, begun=newest is not None, progress=context.progress
        )
    else:
        model, tokenizer = ranks.together(build, entry, context.start, device, context.progress)
    model = parallelize(
        model, ranks, shard=entry.shard, checkpointing=entry.grad_checkpointing, precision=entry.precision,
        compile=entry.compile,
    )  # fmt: skip
    data = _open_data(context, tokenizer)
    sources = tuple(SourceRecord(place=s.place, samples=len(s), **asdict(s.files)) for s in data.sources)
    machine = _machine(context)
    ranks.lead(_check_continuation, context, sources, machine)
    average = start_average(model) if entry.ema is not None else None
    state = TrainState(model, build_optimizer(model, entry), average)
    if newest is not None:
        state.restore(checkpoints, newest)
        context.progress.note(f"going on after {newest:,} of {context.samples:,} samples")
    _take_steps(context, data, state, checkpoints)
    return _finish(context, state, sources, machine)


def _open_data(context: RunContext, tokenizer: Tokenizer | None) -> TrainingData:
    sources = open_sources(
        context.entry, context.options.cache, ranks=context.ranks, workers=context.cores.workers, stop=context.stop,
        progress=context.progress,
    )  # fmt: skip
    data = context.ranks.together(TrainingData, context.entry, context.start.config, tokenizer, sources)
    _tell_notes(sources, context.progress)
    return data


def _tell_notes(sources: Sequence[Source], progress: Progress) -> None:
    notes = [note for source in sources for note in source.notes]
    for note in notes[:_NOTES]:
        progress.note(note)
    if len(notes) > _NOTES:
        progress.note(f"and {len(notes) - _NOTES:,} more shards that are damaged")


def _machine(context: RunContext) -> dict[str, Any]:
    """Return what the last bits of a run's weights depend on beside its entry."""
    if context.device.type == "cuda":
        return {"device": torch.cuda.get_device_name(context.device), "ranks": context.ranks.size}
    return {"device": "CPU", "threads": torch.get_num_threads(), "ranks": context.ranks.size}


def _check_continuation(context: RunContext, data: tuple[SourceRecord, ...], machine: dict[str, Any]) -> None:
    """Remember what a run reads and where it computes; say what a continuation has otherwise."""
    record = read_run(context.work) or RunRecord(soupkit=__version__, identity=context.identity)
    before = record.machine or machine
    if record.data is not None and _contents(record.data) != _contents(data):
        context.progress.note(
            "the data have changed since the run began: its samples come in another order from here on"
        )
    if before != machine:
        was, now = (", ".join(f"{name} {value}" for name, value in m.items()) for m in (before, machine))
        context.progress.note(f"it ran with {was}, and goes on with {now}: equal up to rounding, and not to the byte")
    write_run(context.work, record.model_copy(update={"data": record.data or data, "machine": machine}))


def _contents(sources: Sequence[SourceRecord]) -> list[SourceRecord]:
    """Return what sources are, wherever they lie."""
    return [source.model_copy(update={"place": ""}) for source in sources]


def _take_steps(context: RunContext, data: TrainingData, state: TrainState, checkpoints: Checkpoints) -> None:
    """Take the steps that are left, with curves and scores as the entry asks for them."""
    entry, done = context.entry, state.step * context.entry.batch_size
    with ExitStack() as stack:
        stack.enter_context(products_rounded(entry.precision, context.device))
        evaluation = None
        if entry.evaluate is not None:
            evaluation = EvaluationPoints(entry.evaluate, context, state.model)
            stack.callback(evaluation.close)
        curves = _open_curves(context, done)
        if curves is not None:
            stack.callback(curves.close)
        context.progress.start("training", context.samples, "samples")
        stack.callback(context.progress.finish)
        context.progress.advance(done)
        steps = batches(
            data, entry, context.ranks, state.step, context.cores.workers, by_turns=context.cores.by_turns,
            pin=context.device.type == "cuda",
        )  # fmt: skip
        Loop(context, checkpoints, curves, evaluation).run(state, steps)


def _open_curves(context: RunContext, samples: int) -> Curves | None:
    """Open the curves on the first rank; the others have none."""
    opened: list[Curves] = []  # they stay where they are: what `lead` returns would be sent to all ranks

    def open_them() -> None:
        run = context.work.name.removesuffix(".partial")
        opened.append(Curves(context.work, samples, run, context.entry.report_to))

    context.ranks.lead(open_them)
    return opened[0] if opened else None


def _finish(
    context: RunContext, state: TrainState, data: tuple[SourceRecord, ...], machine: dict[str, Any]
) -> FinishedRun:
    """Gather the final weights and their average, which every rank must help with; write them and their record."""
    weights = full_state(state.model.state_dict(), context.ranks)
    average = None
    if state.average is not None:  # of the parameters: what else a model holds is as the final weights have it
        average = full_state({**state.model.state_dict(), **state.average}, context.ranks)
    return context.ranks.lead(_write_end, context, state, weights, average, data, machine)


def _write_end(
    context: RunContext, state: TrainState, weights: dict[str, Tensor], average: dict[str, Tensor] | None,
    data: tuple[SourceRecord, ...], machine: dict[str, Any],
) -> FinishedRun:  # fmt: skip
    """Write the final weights and, when those are whole, the record."""
    entry, start, work = context.entry, context.start, context.work
    write_model(work, weights, start.config, start.tokenizer_files)
    if average is not None:
        write_model(work / AVERAGE_DIRECTORY, average, start.config, start.tokenizer_files)
    with open_checkpoint(work) as written:
        output = OutputRecord(fingerprint=fingerprint(written).value)
    record = FinishedRun(
        soupkit=__version__,
        entry=entry.model_dump(mode="json"),
        parent=ParentRecord(ref=entry.init, fingerprint=start.fingerprint) if entry.init else None,
        lineage=start.lineage,
        data=data,
        machine=machine,
        samples=state.step * entry.batch_size,
        loss=state.loss if math.isfinite(state.loss) else None,
        skipped=state.skipped,
        damaged=state.damaged,
        identity=context.identity,
        output=output,
    )
    write_run(work, record)
    return record


def finish(work: Path, record: FinishedRun) -> None:
    """Remove from the directory of a run that is over what only a continuation would need.

    Raises StorageError when its weights are not those that its record names.
    """
    with open_checkpoint(work) as written:
        if fingerprint(written).value != record.output.fingerprint:
            raise StorageError(
                "its weights are not those that its record names", work, "remove it, and the run is trained again"
            )
    shutil.rmtree(work / CHECKPOINTS_NAME, ignore_errors=True)
