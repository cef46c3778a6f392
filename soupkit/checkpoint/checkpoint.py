"""A checkpoint: named tensors on disk and what travels with them, opened without reading a weight.

Bytes come by positioned reads, which turn a file that shrinks into an error; `checkpoint[name]` is a zero-copy
view on a memory map for looking at single tensors.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.reading import read_bytes, read_tensor
from soupkit.checkpoint.sources import Source
from soupkit.checkpoint.tensors import TensorSpec

if TYPE_CHECKING:
    from typing import Self

    import torch


@dataclass(frozen=True, slots=True)
class Checkpoint(Mapping[str, Any]):
    """An open checkpoint. A context manager; `close` releases its files.

    `family` and `file_format` are the names of rows of `formats.table`: what the folder is, and how the weights lie in
    their files. `tensors` maps names (as open_clip gives them) to where they lie, in the order of the file; `config` is
    the `open_clip_config.json` that travels with the weights, parsed, or None for bare weights; `tokenizer_files` are
    the files beside the weights that the model's tokenizer needs; `side_files` are all files that travel with the
    weights in their family, `settings` what those say that are its configs, by their names, and `model` its name for
    the model; `notes` says what a person should know about how the reference was read (prefixes stripped,
    names converted).

    A CLIP that another library than open_clip wrote is opened in open_clip's form, under its names; `own` is the same
    checkpoint as its library has it, and `clip_names` gives for each name there the one here.

    >>> with soupkit.open_checkpoint("runs/a") as checkpoint:
    ...     sorted(name for name, spec in checkpoint.tensors.items() if not spec.shape)
    ['logit_scale']
    """

    ref: str
    path: Path
    family: str
    file_format: str
    tensors: dict[str, TensorSpec]
    files: dict[Path, Source]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    config_path: Path | None = None
    tokenizer_files: tuple[Path, ...] = ()
    side_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    model: str | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    own: "Checkpoint | None" = None
    clip_names: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> "torch.Tensor":
        """Return tensor `name`, a read-only zero-copy view on the file where its layout allows, else a copy."""
        import torch

        spec = self.tensors[name]
        dtype = getattr(torch, DTYPES[spec.dtype].torch_name)
        source = self.files.get(spec.file) if self._is_plain(spec) and spec.nbytes else None
        if source is None or source.descriptor is None or (raw := _map_bytes(source.descriptor, spec)) is None:
            return self.read(name)
        return torch.frombuffer(raw, dtype=dtype).view(spec.shape)

    def read(self, name: str) -> "torch.Tensor":
        """Return a copy of tensor `name`. Raises CheckpointError when its file ends early or cannot be read: a view
        on the memory map of a file that shrinks would end the process."""
        return read_tensor(self.files, self.tensors[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Closing twice is harmless."""
        while self.files:
            self.files.popitem()[1].close()

    @staticmethod
    def _is_plain(spec: TensorSpec) -> bool:
        return len(spec.extents) == 1 and spec.strides is None

    def read_into(self, name: str, start: int, buffer: np.ndarray) -> None:
        """Fill `buffer` (1-D uint8) with tensor `name`'s row-major bytes from byte `start` on.

        Raises CheckpointError, naming file and tensor, when the file ends early or cannot be read. Safe to call
        from several threads at once.
        """
        read_bytes(self.files, self.tensors[name], name, start, buffer)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files on disk that hold the weights; none where they are in memory."""
        return tuple(path for path, source in self.files.items() if source.descriptor is not None)

    @property
    def as_written(self) -> "Checkpoint":
        """The checkpoint under the names that its own library gives the tensors."""
        return self.own if self.own is not None else self

    def check_unchanged(self) -> None:
        """Raise CheckpointError when any file was changed since the checkpoint was opened."""
        for source in self.files.values():
            source.check_unchanged()


def _map_bytes(descriptor: int, spec: TensorSpec) -> np.ndarray | None:
    """Map the single extent of `spec`; 1-D uint8. None where its position does not suit its element type.

    The map is private and writable, so that torch accepts it without a warning; writes never reach the file.
    """
    (extent,) = spec.extents
    if extent.nbytes == 0 or extent.offset % spec.itemsize:
        return None
    base = extent.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    skip = extent.offset - base
    mapping = mmap.mmap(descriptor, skip + extent.nbytes, mmap.MAP_PRIVATE, offset=base)
    return np.frombuffer(mapping, dtype=np.uint8, offset=skip, count=extent.nbytes)
