"""Trains one run: from its entry to a directory that open_clip opens, or on from where it stopped."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from soupkit.checkpoint.partial import PartialDirectory, check_target, partial_path, sweep
from soupkit.checkpoint.run_record import RECORD_NAME, FinishedRun, RunRecord, read_run, write_run
from soupkit.device import choose_device
from soupkit.errors import StorageError, UsageError
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.training.checkpoints import CHECKPOINTS_NAME, Checkpoints
from soupkit.training.context import RunContext, identity_of, recorded_identity
from soupkit.training.cpu_share import share_of_cores
from soupkit.training.curves import check_trackers
from soupkit.training.data.batches import killed_workers_said
from soupkit.training.entry import TrainEntry
from soupkit.training.execution import carry_out, finish
from soupkit.training.model import check_start, find_start
from soupkit.training.options import TrainOptions
from soupkit.training.signals import stop_signals
from soupkit.version import __version__


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What became of a run: "trained", "kept" (it was there already) or "planned". `loss` is the last step's.

    >>> TrainResult(Path("runs/a"), "trained", 640, None, 0.5, skipped=0, damaged=0, seconds=1.5).samples
    640
    """

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

    >>> entry = {"init": "runs/a", "data": {"shards": "digits:train"}, "batch_size": 8, "samples": 16, "lr": 1e-4}
    >>> trained = train(entry, "trained", options=TrainOptions(device="cpu", workers=0))
    >>> trained.status, trained.samples
    ('trained', 16)
    """
    options = options or TrainOptions()
    entry = entry if isinstance(entry, TrainEntry) else _checked(entry)
    started = time.perf_counter()
    target = Path(output)
    check_target(target)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        _check_share(entry, ranks)
        ranks.together(check_trackers, entry.report_to)
        device = choose_device(options.device, ranks.local)
        cores = share_of_cores(options.workers, options.threads, options.cores, gpu=device.type == "cuda")
        stack.enter_context(cores.threads_set())
        begun = None if options.fresh else read_run(partial_path(target))
        if options.dry_run and not target.exists() and begun is None:
            ranks.together(check_start, entry)
            return _planned(entry, target)
        start = ranks.together(find_start, entry, progress)
        for note in start.notes:
            progress.note(note)
        identity = identity_of(entry, start)
        if target.exists() and not options.fresh:
            record = ranks.lead(_same_run, target, identity)
            progress.note(f"{target} is there already")
            return _result(record, target, "kept", started)
        if options.dry_run:
            if begun is not None:
                _refuse_another(begun, identity, partial_path(target))
                _tell_progress(entry, partial_path(target), ranks, progress)
            return _planned(entry, target)
        partial = PartialDirectory(target, "train", recognises=_is_a_run)
        finished = ranks.lead(_claim, stack, partial, identity, fresh=options.fresh)
        if finished is None:
            with stop_signals() as stop, killed_workers_said():
                context = RunContext(
                    entry, start, identity, partial.path, ranks, device, cores, options, stop, progress
                )  # fmt: skip
                finished = carry_out(context)
        ranks.lead(_put_in_place, partial, finished, replace=options.fresh)
        return _result(finished, target, "trained", started)


def _checked(fields: dict[str, Any]) -> TrainEntry:
    try:
        return TrainEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = "docs/training.md says what each setting means"
        raise UsageError(first["msg"].removeprefix("Value error, "), where or "the run's entry", hint) from error


def _check_share(entry: TrainEntry, ranks: Ranks) -> None:
    if entry.batch_size % ranks.size:
        raise UsageError(
            f"{entry.batch_size} samples cannot be divided among {ranks.size} ranks",
            "batch_size",
            "take a multiple of the number of ranks",
        )


def _planned(entry: TrainEntry, target: Path) -> TrainResult:
    return TrainResult(target, "planned", entry.steps * entry.batch_size, None, None, 0, 0, 0.0)


def _result(record: FinishedRun, target: Path, status: str, started: float) -> TrainResult:
    return TrainResult(
        target,
        status,
        record.samples,
        record.output.fingerprint,
        record.loss,
        record.skipped,
        record.damaged,
        time.perf_counter() - started,
    )


def _same_run(target: Path, identity: dict[str, Any]) -> FinishedRun:
    """Return the record of the run at `target`. Raises StorageError when it is not the run of this `identity`."""
    record = read_run(target)
    if not isinstance(record, FinishedRun) or recorded_identity(record) != identity:
        what = "is there already and is not this run" + _difference(record, identity)
        hint = "choose another -o, or --fresh"
        unfinished = partial_path(target)
        if isinstance(begun := read_run(unfinished), FinishedRun) and recorded_identity(begun) == identity:
            hint = f"move it away: this run is whole in {unfinished}, and the same command puts it in place"
        raise StorageError(what, target, hint)
    sweep(target)
    return record


def _difference(record: RunRecord | None, identity: dict[str, Any]) -> str:
    before = recorded_identity(record) if record is not None else {}
    names = [k for k, v in identity.items() if before.get(k) != v]
    return f": its {', '.join(names[:4])} differ" if before else ""


def _tell_progress(entry: TrainEntry, work: Path, ranks: Ranks, progress: Progress) -> None:
    if isinstance(read_run(work), FinishedRun):
        progress.note("is over, and would be put in place")
        return
    after = Checkpoints(work / CHECKPOINTS_NAME, entry.keep, ranks).newest() or 0
    progress.note(f"would go on after {after:,} of {entry.steps * entry.batch_size:,} samples")


def _is_a_run(directory: Path) -> bool:
    """Whether an unfinished directory without a mark is one of a training: it has a record."""
    return read_run(directory) is not None


def _claim(
    stack: ExitStack, partial: PartialDirectory, identity: dict[str, Any], *, fresh: bool
) -> FinishedRun | None:  # fmt: skip
    """Hold the unfinished directory until the end of `stack`, and return the record of the run when it is over already.

    Raises StorageError when another run's is there.
    """
    stack.enter_context(partial)
    if fresh:
        (partial.path / RECORD_NAME).unlink(missing_ok=True)  # first: without it nothing else here goes on
        partial.clear()
    before = read_run(partial.path)
    if before is None:
        partial.clear()
        write_run(partial.path, RunRecord(soupkit=__version__, identity=identity))
        return None
    _refuse_another(before, identity, partial.path)
    return before if isinstance(before, FinishedRun) else None


def _put_in_place(partial: PartialDirectory, record: FinishedRun, *, replace: bool) -> None:
    finish(partial.path, record)
    partial.publish(replace=replace)


def _refuse_another(begun: RunRecord, identity: dict[str, Any], unfinished: Path) -> None:
    if recorded_identity(begun) != identity:
        raise StorageError(
            "was begun with other settings" + _difference(begun, identity),
            unfinished,
            "go on with those, choose another -o, or --fresh",
        )
