"""The formats of checkpoints, as a table: how a file of weights is read, and what family a folder belongs to.

A `FileFormat` says how tensors lie in a file that is recognised by the end of its name. A `Family` says what a folder
is, by the files in it: where its weights are, which config and side files travel with them, and what the files of a
soup of that family are called. Rows from elsewhere are asked before soupkit's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.folder import Folder, LocalFolder, folders_below, matching
from soupkit.checkpoint.formats.foreign import foreign
from soupkit.checkpoint.formats.loading import Loading, Shapes
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_OUTPUT, WEIGHT_NAMES, OutputFiles
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError
from soupkit.extensions import Table

_OF_A_RUN = (
    "optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scheduler*.bin", "scaler.pt", "scaler.bin", "rng_state*.pth",
    "rng_state*.pt", "training_args.bin", "sampler*.bin", "dl_state_dict*.bin", "optimizer_[0-9]*",
)  # fmt: skip
_SHOWN = 8  # folders that an error names

Tensors = dict[str, TensorSpec]
ReadRange = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A row of the table: its `name`, and one line that says what it is."""

    name: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat(Format):
    """How a file of weights is read: one whose name ends with one of `suffixes`.

    `read(path)` returns where its tensors lie, by name, and its metadata, without reading a weight; it raises
    CheckpointError for a file that is damaged or something else. `header(read_range, size)` returns the first bytes of
    a file of `size` bytes that `read` looks at, so that a file on the Hub is opened without being fetched
    (`read_range(start, stop)` returns bytes of it); None where `read` needs the whole file. `parts(path)` returns the
    names of the files beside it that hold the tensors, for a file that only says where they are. `read_part(path,
    part)` reads what a reference calls PATH@PART; it raises CheckpointError where the file holds no such part.

    >>> format_of("model.safetensors").name, FORMATS["safetensors"].recognises("weights.pt")
    ('safetensors', False)
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path], tuple[Tensors, dict[str, str]]]
    header: Callable[[ReadRange, int], bytes] | None = None
    parts: Callable[[Path], tuple[str, ...]] | None = None
    read_part: Callable[[Path, str], tuple[Tensors, dict[str, str]]] | None = None

    def recognises(self, name: str) -> bool:
        """Whether a file of this name is of this format."""
        return name.endswith(self.suffixes)


@dataclass(frozen=True, slots=True)
class Description:
    """What a folder says of its weights: the tensors, open_clip's config of the model and the file that it was taken
    from, the names of the files that travel with the weights, what a person should know, and the family's own name of
    the model.

    `clip` is the same of a CLIP that another library wrote, in open_clip's form; `clip_names` gives, for each tensor's
    own name, the one of the tensor there that it is, or is a part of.
    """

    tensors: Tensors
    config: dict[str, Any] | None = None
    config_name: str | None = None
    side_files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str | None = None
    clip: "Description | None" = None
    clip_names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Format):
    """What a folder of weights is.

    `recognises(folder)` looks at the names of its files, and at what its JSON files say. `weights` are the names that
    the weights may have, in the order in which they are looked for; where none is there, the one file of weights is
    taken. `describe(folder, tensors)` returns what the weights are and which files travel with them; `companions` are
    patterns of the names of all files that it may look at. `part(path, part)` returns where in the folder lies what a
    reference calls PATH@PART, and raises CheckpointError where there is none. `component(path, name)` does the
    same for PATH:NAME. `refuse(folder)` returns the error that
    says why the folder cannot be read. `output` says what the files of a soup are called. `indifferent` are patterns of
    side files that do not change what the model computes: where ingredients differ in them, the first one's is taken.
    `modules(folder)` returns the names of the folders in it whose files travel with the weights.
    `configs` are the names of JSON files that say what the model is, which ingredients must agree in:
    `config_differences(a, b)` returns the keys in which two of them differ in effect, with both values.
    `loading(config, tensors)` returns what the family's `library` (the module's name) finds when it opens tensors of
    such names, dtypes and shapes with the first of `configs`, or a line that says why it cannot be asked; it runs in a
    process apart (see `apart`), for which `spares` are not imported: packages that the library imports where they are
    installed, and that this does not need.

    >>> family_named("transformers").configs[0]
    'config.json'
    """

    recognises: Callable[[Folder], bool]
    describe: Callable[[Folder, Tensors], Description]
    companions: tuple[str, ...]
    weights: tuple[str, ...] = WEIGHT_NAMES
    part: Callable[[Path, str], Path] | None = None
    component: Callable[[Path, str], Path] | None = None
    refuse: Callable[[Folder], CheckpointError] | None = None
    output: OutputFiles = OPEN_CLIP_OUTPUT
    indifferent: tuple[str, ...] = ()
    modules: Callable[[Folder], Sequence[str]] | None = None
    configs: tuple[str, ...] = ()
    config_differences: Callable[[dict[str, Any], dict[str, Any]], dict[str, tuple[Any, Any]]] | None = None
    library: str | None = None
    spares: tuple[str, ...] = ()
    loading: Callable[[dict[str, Any], Shapes], Loading | str] | None = None


FORMATS: Table[Format] = Table(
    "format of checkpoints",
    Format,
    group="soupkit.formats",
    option="REF",
    modules=("soupkit.checkpoint.formats.rows",),
)


def _rows(kind: type) -> list[Any]:
    """Return the rows of one kind: those from elsewhere first, soupkit's own after them."""
    rows = [row for row in FORMATS.values() if isinstance(row, kind)]
    return sorted(rows, key=lambda row: FORMATS.package_of(row.name) == "soupkit")


def file_formats() -> list[FileFormat]:
    """Return how files of weights are read, in the order in which they are asked."""
    return _rows(FileFormat)


def families() -> list[Family]:
    """Return what folders may be, in the order in which they are asked."""
    return _rows(Family)


def family_named(name: str) -> Family:
    """Return the family called `name`. Raises UsageError where there is none."""
    row = FORMATS.find(name)
    assert isinstance(row, Family)
    return row


def format_of(name: object) -> FileFormat:
    """Return the format of a file by its name. Raises CheckpointError where there is none."""
    for row in file_formats():
        if row.recognises(str(name)):
            return row
    if (found := foreign([str(name)])) is not None:
        raise CheckpointError(f"is {found[1].what}, which soupkit does not read", name, found[1].hint)
    suffixes = ", ".join(suffix for row in file_formats() for suffix in row.suffixes)
    raise CheckpointError("is not a file of weights by its name", name, f"soupkit reads {suffixes}")


def family_of(folder: Folder) -> Family:
    """Return what a folder is; one that says nothing of itself is plain. Raises CheckpointError for a config that is no
    JSON object."""
    return next(row for row in families() if row.recognises(folder))


def read_weights(path: Path, part: str | None = None) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of the file `path`, or of a `part` of it, and its metadata. Raises CheckpointError."""
    row = format_of(path)
    if part is not None and row.read_part is None:
        raise CheckpointError(f"has no {part!r}: a file of this format has no parts", path, "leave out what follows @")
    tensors, metadata = row.read(path) if part is None or row.read_part is None else row.read_part(path, part)
    if not tensors:
        raise CheckpointError("holds no tensors", path, "choose another file; this one was written from an empty model")
    if not any(spec.nbytes for spec in tensors.values()):
        what = f"holds no weights: none of its {len(tensors)} tensors has an element"
        raise CheckpointError(what, path, "choose another file; this one was written where the weights were elsewhere")
    return tensors, metadata


def is_state_of_a_run(name: str) -> bool:
    """Whether a file of this name holds what a trainer goes on with beside the weights: those of transformers' and
    accelerate's have the ends of files of weights."""
    return any(fnmatch(name, pattern) for pattern in _OF_A_RUN)


def _may_hold_weights(name: str) -> bool:
    return any(row.recognises(name) for row in file_formats()) and not is_state_of_a_run(name)


def choose_weights(folder: Folder, family: Family, *, prefer_headers: bool = False) -> str:
    """Return which file of `folder` holds the weights, or says where they are.

    With `prefer_headers`, files that can be opened by their headers alone go first, as they do on the Hub. Raises
    CheckpointError when there is none, or when it is unclear which of several is meant.
    """
    if family.refuse is not None:
        raise family.refuse(folder)
    order = list(family.weights)
    if prefer_headers:
        order.sort(key=lambda name: format_of(name).header is None)
    for name in order:
        if name in folder.names:
            return name
    for suffix in (suffix for row in file_formats() for suffix in row.suffixes):
        names = tuple(name for name in matching(folder.names, [f"*{suffix}"]) if not is_state_of_a_run(name))
        if len(names) == 1:
            return names[0]
        if names:
            raise CheckpointError(
                f"holds {len(names)} checkpoints: {', '.join(names[:8])}", folder, "name one of the files"
            )
    below = folders_below(folder.path, _may_hold_weights) if isinstance(folder, LocalFolder) else []
    if below := [path for path in below if not is_state_of_a_run(Path(path).name)]:
        more = f", and {len(below) - _SHOWN} more" if len(below) > _SHOWN else ""
        raise CheckpointError("holds no weights itself", folder, f"name one of {', '.join(below[:_SHOWN])}{more}")
    if (found := foreign(folder.names)) is not None:
        name, kind = found
        raise CheckpointError(f"holds {name}, {kind.what}, and no weights that soupkit reads", folder, kind.hint)
    patterns = dict.fromkeys(f"*{suffix}" for row in file_formats() for suffix in row.suffixes)
    raise CheckpointError(
        "holds no weights", folder, f"soupkit looks for {', '.join(family.weights)}, {', '.join(patterns)}"
    )
