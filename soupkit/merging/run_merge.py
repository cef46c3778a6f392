"""`merge`: several checkpoints become one soup directory. Checks first, then one pass over the bytes, then a rename."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, overload

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import FORMS
from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.checkpoint.in_memory import held, is_weights
from soupkit.errors import UsageError
from soupkit.merging.adapters import are_adapters, prepare_adapters
from soupkit.merging.entry import SoupEntry
from soupkit.merging.execution import Execution
from soupkit.merging.existing_soup import existing_soup
from soupkit.merging.preparation import Prepared, prepare
from soupkit.merging.to_memory import merge_to_memory
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

Ingredient: TypeAlias = Union[str, Path, "Mapping[str, Tensor]", "nn.Module"]  # a reference, or weights in memory


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a merge is carried out; none of it changes a byte of the result.

    `device` is "auto", "cpu", "cuda" or "cuda:N"; `threads` None chooses; `slab_bytes` is the output of one slab.

    >>> soupkit.merge(["runs/a", "runs/b"], "soups/two", options=soupkit.RunOptions(threads=1, dry_run=True)).status
    'planned'
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

    >>> from soupkit.merging import merge
    >>> merged = merge(["runs/a", "runs/b"], "soups/mean")
    >>> merged.status, merged.method, merged.dtype, merged.bytes_written > 0
    ('written', 'uniform', 'float32', True)
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


@overload
def merge(
    ingredients: Sequence[Ingredient], output: str | Path, *,
    method: str = ..., weights: Sequence[float] | None = ..., base: Ingredient | None = ...,
    parameters: Mapping[str, Any] | None = ..., dtype: str | None = ..., model: str | None = ...,
    preprocess: str | Path | None = ..., to: str | None = ..., rank: int | None = ...,
    max_shard_bytes: int | None = ..., allow_nonfinite: bool = ..., allow_single: bool = ...,
    options: RunOptions | None = ..., progress: Progress = ...,
) -> MergeResult: ...  # fmt: skip
@overload
def merge(
    ingredients: Sequence[Ingredient], output: None = None, *,
    method: str = ..., weights: Sequence[float] | None = ..., base: Ingredient | None = ...,
    parameters: Mapping[str, Any] | None = ..., dtype: str | None = ..., model: str | None = ...,
    preprocess: str | Path | None = ..., to: str | None = ..., rank: int | None = ...,
    max_shard_bytes: int | None = ..., allow_nonfinite: bool = ..., allow_single: bool = ...,
    options: RunOptions | None = ..., progress: Progress = ...,
) -> "dict[str, Tensor]": ...  # fmt: skip
def merge(
    ingredients: Sequence[Ingredient],
    output: str | Path | None = None,
    *,
    method: str = "uniform",
    weights: Sequence[float] | None = None,
    base: Ingredient | None = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    to: str | None = None,
    rank: int | None = None,
    max_shard_bytes: int | None = None,
    allow_nonfinite: bool = False,
    allow_single: bool = False,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> "MergeResult | dict[str, Tensor]":
    """Merge `ingredients` into the directory `output`, which their own library then opens; without `output` return the
    soup as a state dict: dense tensors on the CPU, under the names that the ingredients' library has.

    An ingredient is a reference, a state dict or a module; they may be mixed. In memory or on disk, the arithmetic and
    the checks are the same, and so is every bit. Weights in memory are read where they are, and must not be written to
    meanwhile; a merge of them that is interrupted begins anew.

    `method` and its `parameters` are listed by `soupkit merge --help`; `weights` has one number per ingredient and
    makes the default method "linear"; `dtype` is a torch name, None keeps the ingredients' own; `to` is the form of a
    CLIP's soup, "open_clip" or "transformers", None keeps the first ingredient's; `allow_single` takes one ingredient
    as a soup of its own, as a search may find it best. Interrupted at any moment, the same call resumes; `output`
    appears whole or not at all; the ingredients are only read.

    Adapters of PEFT's are merged into one adapter of the sum of their ranks, exactly, or of `rank`, with the error
    stated; with `base`, or as BASE+ADAPTER, an ingredient is that model with the adapter in it.

    Raises UsageError for a call that cannot work, CheckpointError and ArchitectureError for ingredients that cannot be
    read or averaged, StorageError for an output that cannot be written. The arithmetic is that of the README's
    "Numerics".

    >>> from soupkit.merging import merge
    >>> merge(["runs/a", "runs/b"], "soups/mean", method="linear", weights=[3, 1]).status
    'written'
    """
    started = time.perf_counter()
    options = options or RunOptions()
    if isinstance(ingredients, str | Path) or is_weights(ingredients):
        raise UsageError("is one checkpoint, and not a list of them", "ingredients", "give a list: merge([a, b], ...)")
    if to is not None and to not in FORMS:
        raise UsageError(f"names {to!r}, to which nothing is converted", "--to", f"choose one of {', '.join(FORMS)}")
    if options.slab_bytes < 1:
        raise UsageError("asks for slabs of no byte", "--slab-size", "give at least 1 B; 32 MiB is the default")
    if options.threads is not None and options.threads < 1:
        raise UsageError("asks for no thread", "--threads", "give at least 1")
    if output is None and options.dry_run:
        raise UsageError("has no use without an output", "dry_run", "name the directory that the soup is written to")

    def named(ingredient: Ingredient, name: str) -> str:
        return opened.enter_context(held(ingredient, name)) if is_weights(ingredient) else str(ingredient)

    with joined_ranks() as ranks, ExitStack() as opened:
        soup = (
            SoupEntry.model_construct(  # not checked by its schema: `prepare` checks, and names the command's options
                ingredients=[named(ingredient, f"ingredients[{i}]") for i, ingredient in enumerate(ingredients)],
                method=method,
                weights=list(weights) if weights is not None else None,
                base=named(base, "base") if base is not None else None,
                parameters=dict(parameters or {}),
                dtype=dtype,
                model=model,
                preprocess=Path(preprocess) if preprocess is not None else None,
                to=to,
                rank=rank,
            )
        )
        if soup.base is None and output is not None and are_adapters(soup.ingredients):
            if max_shard_bytes is not None:
                raise UsageError("has no use with adapters alone", "--max-shard-size", "PEFT opens one file")
            return _merge_adapters(soup, Path(output), opened, options, ranks, progress, started)
        if rank is not None:
            raise UsageError("counts for a soup of adapters alone", "--rank", "leave it out, or leave --base out")
        prepared = ranks.together(
            prepare,
            soup,
            Path(output) if output is not None else None,
            opened,
            max_shard_bytes=max_shard_bytes,
            allow_nonfinite=allow_nonfinite,
            allow_single=allow_single,
            as_written=True,
            check_meanwhile=output is not None and not options.dry_run,
            progress=progress if ranks.leads else SILENT,
        )
        for note in prepared.notes if ranks.leads else ():
            progress.note(note)
        if output is None:
            return merge_to_memory(prepared, options.device, options.threads, options.slab_bytes, progress)
        return _execute(prepared, options, ranks, progress, started)


def _merge_adapters(
    soup: SoupEntry,
    output: Path,
    opened: ExitStack,
    options: RunOptions,
    ranks: Ranks,
    progress: Progress,
    started: float,
) -> MergeResult:
    """Merge adapters among themselves: small enough for the first rank alone."""
    made = ranks.together(prepare_adapters, soup, output, opened, progress if ranks.leads else SILENT)
    prepared = made.prepared
    for note in prepared.notes if ranks.leads else ():
        progress.note(note)
    existing = ranks.lead(existing_soup, prepared, fresh=options.fresh, threads=1, progress=progress)
    if existing is not None:
        if ranks.leads:
            progress.note(f"{prepared.target} is there already, made of the same weights in the same way")
        return _result("unchanged", prepared, existing, 0, started, {})
    if options.dry_run:
        return _result("planned", prepared, None, 0, started, {})
    prints, approximation = ranks.lead(made.run, fresh=options.fresh, sha256=options.sha256, progress=progress)
    if approximation is not None and ranks.leads:
        progress.note(
            f"cut to rank {approximation.rank}: {approximation.error:.3%} from the exact sum, by the Frobenius norm of "
            "all modules' updates"
        )
    return _result("written", prepared, prints, 0, started, {})


def _execute(prepared: Prepared, options: RunOptions, ranks: Ranks, progress: Progress, started: float) -> MergeResult:
    execution = Execution(prepared, options.device, options.threads, options.slab_bytes, ranks, progress)
    existing = ranks.lead(
        existing_soup, prepared, fresh=options.fresh, threads=execution.workers.count, progress=progress
    )
    if existing is not None:
        if ranks.leads:
            progress.note(f"{prepared.target} is there already, made of the same weights in the same way")
        checked = ranks.together(_checked, prepared, progress if ranks.leads else SILENT)
        return _result("unchanged", checked, existing, execution.memory, started, {})
    if options.dry_run:
        return _result("planned", prepared, None, execution.memory, started, {})
    prints, timings = execution.run(fresh=options.fresh, sha256=options.sha256)
    checked = _checked(prepared, progress if ranks.leads else SILENT)
    return _result("written", checked, prints, execution.memory, started, timings)


def _checked(prepared: Prepared, progress: Progress) -> Prepared:
    """Wait for the check of the configs, where it is on its way; say and return what it has found."""
    notes = prepared.configs.wait() if prepared.configs is not None else ()
    for note in notes:
        progress.note(note)
    return replace(prepared, notes=(*prepared.notes, *notes), configs=None)


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
        output=prepared.target,
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
