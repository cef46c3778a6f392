"""From a reference, the string that names weights everywhere in soupkit, to an open checkpoint.

A file of weights, a folder of a family (see `formats.table` for both), or hf-hub:ORG/NAME[@REVISION][:FILE-OR-FOLDER],
either of them in a repository on the Hub. REF@ema is the average of the weights that lies beside them, RUN@samples=2e9
a snapshot of a training run. BASE+ADAPTER is a model with an adapter of PEFT's in it, and ADAPTER alone
one in the base that its config names, where that is on this machine. memory:NAME names weights that are held in memory
(see `in_memory`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from soupkit.checkpoint.adapted import adapted
from soupkit.checkpoint.adapter_ref import adapter_folder, with_base
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.formats.folder import LocalFolder, read_object
from soupkit.checkpoint.formats.peft import ADAPTER_CONFIG, PEFT, Adapter, is_adapter, read_adapter
from soupkit.checkpoint.formats.prefixes import strip_prefixes
from soupkit.checkpoint.formats.table import (
    Description,
    Family,
    Tensors,
    choose_weights,
    family_of,
    format_of,
    read_weights,
)
from soupkit.checkpoint.hub import fetch, header_files
from soupkit.checkpoint.hub_ref import HubRef, is_hub, is_repo
from soupkit.checkpoint.in_memory import HeldWeights, held_as
from soupkit.checkpoint.sources import Source, SourceFile
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError
from soupkit.files import written_out
from soupkit.progress import SILENT, Progress
from soupkit.scratch import ScratchDirectory

_DEEPEST = 8  # adapters of adapters


def open_checkpoint(ref: str | Path, *, progress: Progress = SILENT) -> Checkpoint:
    """Open the weights that `ref` names; headers are read, weights are not.

    Weights on the Hub are brought into its cache first, with `progress`. Raises CheckpointError when there is nothing
    at `ref`, when it is unclear which of several files is meant, and for files that are damaged or no checkpoint;
    UsageError for a reference that is not well formed; HubError for what the Hub refuses.

    >>> with soupkit.open_checkpoint("runs/a") as checkpoint:
    ...     print(checkpoint.family, checkpoint.tensors["logit_scale"].dtype, checkpoint["text_projection"].shape)
    open_clip F32 torch.Size([16, 16])
    """
    return _described(_locate(str(ref), progress))


def open_adapter(ref: str | Path, *, progress: Progress = SILENT) -> Checkpoint | None:
    """Open the factors of the adapter that `ref` names, as they are; None where it names no adapter alone.

    Raises as `open_checkpoint` does.
    """
    path = adapter_folder(str(ref), progress)
    return _described(_find(ref, path, None)) if path is not None else None


def open_headers(ref: str | Path, *, adapter_alone: bool = False) -> Checkpoint:
    """Open `ref` to see what it is: of weights on the Hub only the configs and headers are fetched, and reading a
    tensor raises CheckpointError. Weights on disk open as ever, and so do those on the Hub whose format has no header
    of its own (pickles), after a download. With `adapter_alone` an adapter's factors are opened, and not its base with
    them.

    Raises as `open_checkpoint` does.
    """
    if not is_hub(ref) or with_base(str(ref)) is not None:
        return (open_adapter(ref) if adapter_alone else None) or open_checkpoint(ref)
    hub = HubRef.parse(str(ref))
    with ScratchDirectory() as scratch:
        try:
            path = header_files(hub, Path(scratch))
            if not adapter_alone and path.is_dir() and is_adapter(LocalFolder.list(path)):
                return open_checkpoint(ref)  # the factors are small, and their base says what they are
            opened = _described(_find(ref, path, None))
        except CheckpointError as error:
            raise CheckpointError(error.what, error.where.replace(scratch, str(ref)), error.hint) from None
        if Path(scratch) not in (path, path.parent):
            return opened
        opened.close()  # the files are holes after their headers: nothing may be read from them
    return _on_hub(opened, Path(str(ref)))


def _on_hub(checkpoint: Checkpoint, ref: Path) -> Checkpoint:
    """Return a checkpoint of which only the headers were fetched, with its files named as `ref` has them."""
    tensors = {
        name: replace(spec, extents=tuple(replace(e, file=ref / e.file.name) for e in spec.extents))
        for name, spec in checkpoint.tensors.items()
    }
    return replace(
        checkpoint,
        path=ref,
        tensors=tensors,
        config_path=ref / checkpoint.config_path.name if checkpoint.config_path is not None else None,
        tokenizer_files=(),
        side_files=(),
        own=_on_hub(checkpoint.own, ref) if checkpoint.own is not None else None,
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights that were found, before their family is asked what they are.

    `sources` are those that are no files, `beneath` the tensors that they are made of, and `configs` the files that say
    how; `files` are all of them once they are open.
    """

    ref: str
    path: Path
    folder: LocalFolder
    family: Family
    file_format: str
    tensors: Tensors
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()
    sources: Mapping[Path, Source] = field(default_factory=dict)
    beneath: tuple[TensorSpec, ...] = ()
    configs: tuple[Path, ...] = ()
    files: dict[Path, Source] = field(default_factory=dict)


def _locate(ref: str, progress: Progress, depth: int = 0) -> _Weights:
    """Find the weights of `ref`; those of an adapter in its base. Raises as `open_checkpoint` does."""
    if (weights := held_as(ref)) is not None:
        return _find_held(ref, weights)
    if (parts := with_base(ref)) is not None:
        base, adapter = parts
        path = adapter_folder(adapter, progress)
        assert path is not None
        return _with_adapter(ref, read_adapter(path), _locate(base, progress, depth + 1))
    found = _find(ref, *((fetch(HubRef.parse(ref), progress), None) if is_hub(ref) else _resolve_part(Path(ref))))
    if found.family is not PEFT:
        return found
    adapter_alone = read_adapter(found.folder.path)
    name = adapter_alone.base
    if depth == _DEEPEST:
        raise CheckpointError("is an adapter of an adapter, and so on", ref, f"name its base: BASE+{ref}")
    if name is None or not Path(name).exists():
        raise CheckpointError(
            f"is an adapter of {name or 'a model that it does not name'}, which is not on this machine", ref,
            f"say where its base is: --base BASE, or BASE+{ref}"
            + (f"; hf-hub:{name}+{ref} downloads it" if name and is_repo(name) else ""),
        )  # fmt: skip
    return _with_adapter(ref, adapter_alone, _locate(name, progress, depth + 1))


def _with_adapter(ref: str, adapter: Adapter, base: _Weights) -> _Weights:
    """Return the weights of a model with an adapter in it. Raises CheckpointError for an adapter of another model."""
    made = adapted(base.tensors, adapter, base.files, base.ref)
    return replace(
        base,
        ref=ref,
        path=adapter.path,
        tensors=made.tensors,
        notes=(*base.notes, f"{adapter.path} is put into {base.ref} as it is read"),
        sources={**base.sources, **made.sources},
        beneath=(*base.beneath, *made.beneath),
        configs=(*base.configs, adapter.path / ADAPTER_CONFIG),
    )


def _find(ref: str | Path, path: Path, part: str | None) -> _Weights:
    if not path.exists():
        home = written_out(path)
        raise CheckpointError("does not exist", path, "check the path" if home is None else f"write {home}")
    folder = LocalFolder.list(path if path.is_dir() else path.parent)
    if not path.is_dir():
        format_of(path)  # before the folder around a file that is none is looked at
    family = family_of(folder)
    weights = folder.path / choose_weights(folder, family) if path.is_dir() else path
    tensors, metadata = read_weights(weights, part)
    tensors, notes = strip_prefixes(tensors, weights)
    return _Weights(str(ref), path, folder, family, format_of(weights).name, tensors, metadata, tuple(notes))


def _find_held(ref: str, weights: HeldWeights) -> _Weights:
    path = Path(ref)
    folder = weights.folder if weights.folder is not None else LocalFolder(path, ())
    tensors, notes = strip_prefixes(weights.tensors, ref)
    family = family_of(folder)
    return _Weights(ref, path, folder, family, "memory", tensors, {}, tuple(notes), weights.sources)


def _described(weights: _Weights) -> Checkpoint:
    """Return the checkpoint that the family of `weights` describes, with its files open. Raises CheckpointError."""
    folder, family = weights.folder, weights.family
    described = family.describe(folder, weights.tensors)
    everything = (*described.tensors.values(), *(described.clip.tensors.values() if described.clip else ()))
    settings = {name: config for name in family.configs if (config := read_object(folder, name)) is not None}
    files = _open_files((*everything, *weights.beneath), weights)

    def checkpoint(form: Description) -> Checkpoint:
        return Checkpoint(
            ref=weights.ref,
            path=weights.path,
            family=family.name,
            file_format=weights.file_format,
            tensors=form.tensors,
            files=files,
            metadata=weights.metadata,
            config=form.config,
            config_path=folder.path / form.config_name if form.config_name is not None else None,
            tokenizer_files=tuple(folder.path / name for name in form.side_files) if form.config is not None else (),
            side_files=tuple(folder.path / name for name in described.side_files),
            notes=(*weights.notes, *form.notes),
            model=described.model,
            settings=settings,
        )

    own = checkpoint(described)
    if described.clip is None:
        return own
    return replace(checkpoint(described.clip), own=own, clip_names=described.clip_names)


def _resolve_part(path: Path) -> tuple[Path, str | None]:
    """Return the path of PATH@PART or PATH:COMPONENT, or of the folder in it that is the part, and the part where a
    file holds it."""
    if path.exists():
        return path, None
    whole, at, part = str(path).rpartition("@")
    if at and Path(whole).exists():
        if Path(whole).is_dir() and (family := family_of(LocalFolder.list(Path(whole)))).part is not None:
            return family.part(Path(whole), part), None
        return Path(whole), part
    whole, colon, name = str(path).rpartition(":")
    if colon and Path(whole).is_dir() and (family := family_of(LocalFolder.list(Path(whole)))).component is not None:
        return family.component(Path(whole), name), None
    return path, None


def _open_files(specs: Iterable[TensorSpec], weights: _Weights) -> dict[Path, Source]:
    """Return every source that holds a part of a tensor, or says how one is made. Raises CheckpointError."""
    files = weights.files
    try:
        for path in weights.configs:
            files[path] = SourceFile.open(path)
        for extent in (extent for spec in specs for extent in spec.extents):
            if extent.file not in files:
                source = weights.sources.get(extent.file)
                files[extent.file] = source if source is not None else SourceFile.open(extent.file)
            if extent.offset + extent.nbytes > files[extent.file].size:
                raise CheckpointError("was cut short while it was opened", extent.file, "get the file again")
    except CheckpointError:
        for opened in files.values():
            opened.close()
        raise
    return files
