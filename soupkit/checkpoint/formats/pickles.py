"""Pickled checkpoints (.pt, .pth, .bin, .ckpt): where their tensors lie, without running what a pickle may contain.

The pickle is read as data (`pickle_reader`): whatever stands beside the weights (optimizers with numpy's scalars,
settings, objects of a training framework) is left where it is. The weights are read by position, as those of any file.
"""

import sys
from pathlib import Path

from soupkit.checkpoint.formats.averages import PART, is_average, split_average
from soupkit.checkpoint.formats.pickle_reader import Call
from soupkit.checkpoint.formats.table import FileFormat, Tensors
from soupkit.checkpoint.formats.torch_archive import TorchArchive, conversion, is_tensor
from soupkit.checkpoint.formats.torchscript import state_of_module
from soupkit.checkpoint.formats.unreadable import check_is_no_part
from soupkit.errors import CheckpointError
from soupkit.files import open_file, what_to_do

# Under one of these keys a checkpoint holds its weights beside other things; Lightning, open_clip and timm use the
# first, DeepSpeed and FSDP's examples the last two.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module")


def read_pickle(path: Path, part: str | None = None) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of the zip-format pickle at `path`, and no metadata.

    A state dict may stand alone or under one of the usual keys ("state_dict", "model", ...); `part` "ema" is the
    average of the weights that stands beside it. A TorchScript archive is read without its code.

    Raises CheckpointError for older pickle formats, with the line that converts them; for one that holds no state dict,
    or one with anything but tensors; for archives that are damaged.
    """
    try:
        with open_file(path) as file:
            magic = file.read(2)
            if magic != b"PK":
                raise CheckpointError("is not a zip-format pickle", path, conversion(path))
            archive = TorchArchive(path, file)
            _check_archive(path, archive)
            document = archive.document()
            state = _state_dict(path, archive, document, part)
            tensors = {name: archive.spec(name, tensor) for name, tensor in state.items()}
            check_is_no_part(path, document, [spec.nbytes for spec in tensors.values()])
            return tensors, {}
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error


def _check_archive(path: Path, archive: TorchArchive) -> None:
    if "data.pkl" not in archive.names:
        raise CheckpointError("is a zip archive without a pickle", path, "it was not written by torch.save")
    archive.ask_torch()
    if "byteorder" in archive.names and (order := archive.read("byteorder")) != sys.byteorder.encode():
        raise CheckpointError(
            f"was written on a machine of another byte order ({order[:20]!r})", path, conversion(path)
        )


def _state_dict(path: Path, archive: TorchArchive, document: object, part: str | None) -> dict[str, Call]:
    if isinstance(document, Call) and any(name.startswith("code/") for name in archive.names):
        return split_average(state_of_module(path, document, archive), part, path)
    for _ in range(2):
        # A tensor may lie beside it: the best accuracy, in checkpoints of pytorch/examples/imagenet.
        if isinstance(document, dict) and not all(map(is_tensor, document.values())):
            averages = [key for key, value in document.items() if is_average(key) and isinstance(value, dict)]
            of_average = part == PART and bool(averages)
            keys = averages if of_average else STATE_DICT_KEYS
            inner = next((document[key] for key in keys if isinstance(document.get(key), dict)), None)
            document = inner if inner is not None else document
            part = None if of_average else part
    if not isinstance(document, dict) or not any(map(is_tensor, document.values())):
        raise CheckpointError(
            "holds no state dict", path, f"save one alone, or under one of the keys {', '.join(STATE_DICT_KEYS)}"
        )
    for key, value in document.items():
        if not isinstance(key, str) or not is_tensor(value):
            raise CheckpointError(
                f"has an entry that is no tensor: {str(key)[:80]!r}{_call_said(value)}", path, "save a state dict alone"
            )
    return split_average(document, part, path)


def _call_said(value: object) -> str:
    return f", a call of {value.function}, which was not run" if isinstance(value, Call) else ""


PICKLE = FileFormat(
    name="pickle",
    summary="a zip archive that torch.save writes, read without running what a pickle may contain",
    suffixes=(".pt", ".pth", ".bin", ".ckpt"),
    read=read_pickle,
    read_part=read_pickle,
)
