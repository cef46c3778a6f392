"""Folders that torch.distributed.checkpoint writes: `.metadata`, and the ranks' files of which it says what is where.

Each piece of a tensor is an archive of torch.save's within a file (`torch_archive`). Which entries are the model's is
known by their names: open_clip, accelerate and torchtitan keep it under "model", beside "optimizer".
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import BinaryIO

from soupkit.checkpoint.dtypes import BY_TORCH_NAME, DTYPES
from soupkit.checkpoint.formats.averages import PART, is_average
from soupkit.checkpoint.formats.pickle_reader import Call
from soupkit.checkpoint.formats.pickles import STATE_DICT_KEYS
from soupkit.checkpoint.formats.table import FileFormat, Tensors
from soupkit.checkpoint.formats.torch_archive import TorchArchive
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError
from soupkit.files import open_file

METADATA = ".metadata"
_AGAIN = "the checkpoint is damaged or was not written to its end; get it again"
_MOST_EXTENTS = 1 << 20  # of one tensor, about 100 MB of memory
_NOT_WEIGHTS = ("optim", "scheduler", "lr_scheduler", "train_state", "dataloader", "rng")

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where the archive of a piece lies, and where the piece begins in its tensor (empty: it is the whole)."""

    offsets: Sizes
    file: str
    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of a tensor: where it begins in each dimension, its sizes, and the bytes that hold it in row-major
    order."""

    offsets: Sizes
    sizes: Sizes
    extent: Extent


def read_distributed(path: Path, part: str | None = None) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of the model in the folder of `path`, its `.metadata`; with `part` "ema" those of the average.

    Raises CheckpointError for a folder that is damaged, and for what is kept in another way than torch's own.
    """
    document = _Document(path)
    chosen = document.choose(part)
    with ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        tensors = {}
        for fqn, name in chosen.items():
            pieces = [document.piece(fqn, stored, files, opened) for stored in document.storage.get(fqn, [])]
            dtype, shape = document.tensors[fqn]
            where = f"{path.parent}, tensor {fqn!r}"
            extents = tuple(_joined(shape, DTYPES[dtype].itemsize, pieces, path.parent, where))
            tensors[name] = TensorSpec(dtype, shape, extents)
    return tensors, {}


def rank_files(path: Path) -> tuple[str, ...]:
    """Return the names of the files that hold the tensors. Raises CheckpointError."""
    document = _Document(path)
    return tuple(sorted({stored.file for held in document.storage.values() for stored in held}))


class _Document:
    """What `.metadata` says: the dtype and shape of each tensor, and which bytes of which file hold its pieces."""

    def __init__(self, path: Path) -> None:
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        from soupkit.checkpoint.formats.dcp import read_metadata

        self.folder = path.parent
        metadata = read_metadata(self.folder, files=False)  # in the Hub's cache they are links
        self._paths: dict[str, tuple[str | int, ...]] = metadata.planner_data
        self.tensors: dict[str, tuple[str, Sizes]] = {}
        for fqn, held in metadata.state_dict_metadata.items():
            if isinstance(held, TensorStorageMetadata):
                self.tensors[fqn] = self._dtype(fqn, str(held.properties.dtype)), tuple(held.size)
        self.storage: dict[str, list[_Stored]] = {}
        for index, info in metadata.storage_data.items():
            if index.fqn in self.tensors:
                stored = _Stored(tuple(index.offset or ()), info.relative_path, info.offset, info.length)
                self.storage.setdefault(index.fqn, []).append(stored)

    def _dtype(self, fqn: str, name: str) -> str:
        row = BY_TORCH_NAME.get(name.removeprefix("torch."))
        if row is None:
            raise CheckpointError(
                f"is of {name}, which soupkit does not read", f"{self.folder}, tensor {fqn!r}",
                "save it as floats, integers or booleans",
            )  # fmt: skip
        return row.name

    def choose(self, part: str | None) -> dict[str, str]:
        """Return the full names of the model's tensors, or of the average's, with their own names."""
        groups: dict[str, dict[str, str]] = {}
        for fqn in self.tensors:
            path = self._paths.get(fqn)
            group, name = "", fqn
            if path is not None and len(path) > 1:
                group, name = str(path[0]), ".".join(map(str, path[1:]))
            groups.setdefault(group, {})[fqn] = name
        if part is not None:
            averages = [members for group, members in groups.items() if is_average(group)]
            if part != PART or not averages:
                raise CheckpointError(f"holds no {part!r}", self.folder, f"its parts are {', '.join(groups)}")
            return averages[0]
        for key in STATE_DICT_KEYS:
            if key in groups:
                return groups[key]
        rest = {
            fqn: name if group == "" else f"{group}.{name}"
            for group, members in groups.items()
            if not is_average(group) and not group.startswith(_NOT_WEIGHTS)
            for fqn, name in members.items()
        }
        if not rest:
            raise CheckpointError("holds no weights of a model", self.folder, f"it has {', '.join(groups)}")
        return rest

    def piece(self, fqn: str, stored: "_Stored", files: dict[str, BinaryIO], opened: ExitStack) -> _Piece:
        """Open the archive that holds a piece of a tensor, and return where its bytes lie."""
        path = self.folder / stored.file
        if stored.file not in files:
            try:
                files[stored.file] = opened.enter_context(open_file(path))
            except OSError as error:
                raise CheckpointError(f"cannot be read: {error.strerror}", path, _AGAIN) from error
        archive = TorchArchive(path, files[stored.file], stored.begin, stored.begin + stored.length)
        tensor = archive.document()
        if not isinstance(tensor, Call):
            raise CheckpointError("holds no tensor", f"{path}, tensor {fqn!r}", _AGAIN)
        spec = archive.spec(fqn, tensor)
        dtype, shape = self.tensors[fqn]
        offsets = stored.offsets or (0,) * len(shape)
        if spec.dtype != dtype or len(spec.shape) != len(shape) or len(offsets) != len(shape):
            raise CheckpointError("is not what its metadata says", f"{path}, tensor {fqn!r}", _AGAIN)
        if spec.strides is not None:
            raise CheckpointError("is not stored row by row", f"{path}, tensor {fqn!r}", _conversion(self.folder))
        return _Piece(offsets, spec.shape, spec.extents[0])


def _conversion(folder: Path) -> str:
    target = folder.with_name(folder.name + ".pt")
    return f"convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {target}"


def _joined(shape: Sizes, itemsize: int, pieces: list[_Piece], folder: Path, where: str) -> Iterator[Extent]:
    """Yield the bytes of a tensor in row-major order, put together from its pieces.

    Pieces of whole rows follow one another; others alternate row by row. Raises CheckpointError, about `where`, when
    they do not cover the tensor exactly.
    """
    if 0 in shape:
        return
    pieces = [piece for piece in pieces if 0 not in piece.sizes]  # of ranks that have no rows of their own
    split = max((d for d, n in enumerate(shape) for p in pieces if p.sizes[d] != n), default=0)
    if prod(shape[:split]) * len(pieces) > _MOST_EXTENTS:
        raise CheckpointError("is cut into too many pieces", where, _conversion(folder))
    length = shape[split] if shape else 1  # along the dimension in which a row is cut; the ones after it are whole
    inner = prod(shape[split + 1 :])
    for index in product(*(range(n) for n in shape[:split])):
        position = 0
        for piece in sorted(_holding(index, pieces), key=lambda piece: piece.offsets[split : split + 1]):
            offset, n = (piece.offsets[split], piece.sizes[split]) if shape else (position, 1)
            if offset != position or any(piece.offsets[split + 1 :]):
                raise CheckpointError("is not covered by its pieces", where, _AGAIN)
            position += n
            row = 0  # of those that the piece has
            for i, first, rows in zip(index, piece.offsets, piece.sizes, strict=False):
                row = row * rows + (i - first)
            nbytes = n * inner * itemsize
            yield Extent(piece.extent.file, piece.extent.offset + row * nbytes, nbytes)
        if position != length:
            raise CheckpointError("is not covered by its pieces", where, _AGAIN)


def _holding(index: Sizes, pieces: list[_Piece]) -> list[_Piece]:
    """Return the pieces that reach over `index`, a place in the first dimensions."""
    return [
        piece
        for piece in pieces
        if all(o <= i < o + n for i, o, n in zip(index, piece.offsets, piece.sizes, strict=False))
    ]


DISTRIBUTED = FileFormat(
    name="distributed",
    summary="a folder of torch.distributed.checkpoint, whatever number of ranks wrote it",
    suffixes=(METADATA,),
    read=read_distributed,
    parts=rank_files,
    read_part=read_distributed,
)
