"""`merge`: several checkpoints become one soup directory. Checks first, then one pass over the bytes, then a rename."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import FORMS
from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.errors import UsageError
from soupkit.merging.entry import SoupEntry
from soupkit.merging.execution import Execution
from soupkit.merging.existing_soup import existing_soup
from soupkit.merging.preparation import Prepared, prepare
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a merge is carried out; none of it changes a byte of the result.

    `device` is "auto", "cpu", "cuda" or "cuda:N"; `threads` None chooses; `slab_bytes` is the output of one slab.
    """

    device: str = "auto"
    threads: int | None = None
    slab_bytes: int = 32 << 20
    fresh: bool = False
    dry_run: bool = False
    sha256: bool = False


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What came of a merge. `status` is "written", "unchanged" (it was there already) or "planned" (a dry run).

    `memory_bytes` is what the workers of this process hold at most of weights, known before the start.
    """

    status: str
    output: Path
    method: str
    dtype: str
    ingredients: tuple[dict[str, Any], ...]
    fingerprint: str | None
    bytes_read: int
    bytes_written: int
    memory_bytes: int
    seconds: float
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def merge(
    ingredients: Sequence[str | Path],
    output: str | Path,
    *,
    method: str = "uniform",
    weights: Sequence[float] | None = None,
    base: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    to: str | None = None,
    max_shard_bytes: int | None = None,
    allow_nonfinite: bool = False,
    allow_single: bool = False,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> MergeResult:
    """Merge the checkpoints that `ingredients` name into the directory `output`, which their own library then opens.

    `method` and its `parameters` are listed by `soupkit merge --help`; `weights` has one number per ingredient and
    makes the default method "linear"; `dtype` is a torch name, None keeps the ingredients' own; `to` is the form of a
    CLIP's soup, "open_clip" or "transformers", None keeps the first ingredient's; `allow_single` takes one ingredient
    as a soup of its own, as a search may find it best. Interrupted at any moment, the same call resumes; `output`
    appears whole or not at all; the ingredients are only read.

    Raises UsageError for a call that cannot work, CheckpointError and ArchitectureError for ingredients that cannot be
    read or averaged, StorageError for an output that cannot be written. The arithmetic is that of the README's
    "Numerics".
    """
    started = time.perf_counter()
    options = options or RunOptions()
    soup = SoupEntry.model_construct(  # not checked by its schema: `prepare` checks, and names the command's options
        ingredients=[str(i) for i in ingredients],
        method=method,
        weights=list(weights) if weights is not None else None,
        base=str(base) if base is not None else None,
        parameters=dict(parameters or {}),
        dtype=dtype,
        model=model,
        preprocess=Path(preprocess) if preprocess is not None else None,
        to=to,
    )
    if to is not None and to not in FORMS:
        raise UsageError(f"names {to!r}, to which nothing is converted", "--to", f"choose one of {', '.join(FORMS)}")
    if options.slab_bytes < 1:
        raise UsageError("asks for slabs of no byte", "--slab-size", "give at least 1 B; 32 MiB is the default")
    if options.threads is not None and options.threads < 1:
        raise UsageError("asks for no thread", "--threads", "give at least 1")
    with joined_ranks() as ranks, ExitStack() as opened:
        prepared = ranks.together(
            prepare,
            soup,
            Path(output),
            opened,
            max_shard_bytes=max_shard_bytes,
            allow_nonfinite=allow_nonfinite,
            allow_single=allow_single,
            as_written=True,
            progress=progress if ranks.leads else SILENT,
        )
        for note in prepared.notes if ranks.leads else ():
            progress.note(note)
        return _execute(prepared, options, ranks, progress, started)


def _execute(prepared: Prepared, options: RunOptions, ranks: Ranks, progress: Progress, started: float) -> MergeResult:
    execution = Execution(prepared, options.device, options.threads, options.slab_bytes, ranks, progress)
    existing = ranks.lead(
        existing_soup, prepared, fresh=options.fresh, threads=execution.workers.count, progress=progress
    )
    if existing is not None:
        if ranks.leads:
            progress.note(f"{prepared.output} is there already, made of the same weights in the same way")
        return _result("unchanged", prepared, existing, execution.memory, started, {})
    if options.dry_run:
        return _result("planned", prepared, None, execution.memory, started, {})
    prints, timings = execution.run(fresh=options.fresh, sha256=options.sha256)
    return _result("written", prepared, prints, execution.memory, started, timings)


def _result(
    status: str,
    prepared: Prepared,
    prints: list[Fingerprint] | None,
    memory: int,
    started: float,
    timings: dict[str, float],
) -> MergeResult:
    """Put the result together; `prints` are the fingerprints of the ingredients, the base, and the output."""
    document = prepared.document
    work = status == "written"
    return MergeResult(
        status=status,
        output=prepared.output,
        method=document.method,
        dtype=document.dtype,
        ingredients=tuple(
            {"ref": made_of.ref, "fingerprint": prints[i].value if prints else None, "weight": made_of.weight}
            for i, made_of in enumerate(document.ingredients)
        ),
        fingerprint=prints[-1].value if prints else None,
        bytes_read=sum(_bytes(s) for s in prepared.sources) if work else 0,
        bytes_written=prepared.layout.size if work else 0,
        memory_bytes=memory,
        seconds=time.perf_counter() - started,
        timings=timings,
        notes=prepared.notes,
    )


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(spec.nbytes for spec in checkpoint.tensors.values())
