"""Folders whose tensors are parts that only the framework that wrote them can put together: named, with the line that
does so."""

from collections.abc import Collection
from pathlib import Path

from soupkit.checkpoint.formats.folder import Folder, LocalFolder, matching
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.errors import CheckpointError

_JOINS = "zero_to_fp32.py"
_DEEPSPEED = (_JOINS, "*_model_states.pt", "*_optim_states.pt")
_OF_ONE_RANK = "mp_rank_00_model_states.pt"
_LATEST = "latest"  # holds the name of the folder of the last step
_LONGEST_NAME = 200
_FSDP = ("*_rank[0-9]*.bin", "*_rank_[0-9]*.pt", "*.rank_[0-9]*.pth")


def is_deepspeed(folder: Folder) -> bool:
    """Whether DeepSpeed wrote the folder: one of its steps, or the one that holds them."""
    return bool(matching(folder.names, _DEEPSPEED)) or _last_step(folder) is not None


def refuse_deepspeed(folder: Folder) -> CheckpointError:
    """Return the error that says how DeepSpeed's own script joins the parts, or which file is whole."""
    path = Path(str(folder))
    if _JOINS in folder.names:
        return _parts(folder, path)
    step, names = _last_step(folder) or (path, folder.names)
    states = matching(names, ("*_states.pt",))
    if states == (_OF_ONE_RANK,):  # without ZeRO nothing is in parts
        return CheckpointError("holds a DeepSpeed run", folder, f"name the file: {step / _OF_ONE_RANK}")
    return _parts(folder, step.parent)


def _parts(about: object, run: Path) -> CheckpointError:
    return CheckpointError(
        "holds the parts of a DeepSpeed run",
        about,
        f"join them: python {run}/{_JOINS} {run} {run}/fp32 --safe_serialization",
    )


def check_is_no_part(path: Path, document: object, sizes: Collection[int]) -> None:
    """Raise CheckpointError where a file of DeepSpeed's, with tensors of so many bytes, holds empty ones in place of
    those that ZeRO 3 has split among the ranks."""
    if isinstance(document, dict) and "param_shapes" in document and "ds_version" in document and not all(sizes):
        raise _parts(path, path.parent.parent)


def _last_step(folder: Folder) -> tuple[Path, tuple[str, ...]] | None:
    """Return the folder of the last step and its files, where `folder` holds the steps of a run of DeepSpeed's."""
    if _LATEST not in folder.names or not isinstance(folder, LocalFolder):
        return None
    name = folder.read(_LATEST)[: _LONGEST_NAME + 1].decode(errors="replace").strip()
    step = folder.path / name
    if not name or len(name) > _LONGEST_NAME or step.name != name or not step.is_dir():
        return None
    names = LocalFolder.list(step).names
    return (step, names) if matching(names, ("*_model_states.pt",)) else None


def is_fsdp_local(folder: Folder) -> bool:
    """Whether each rank of FSDP wrote its own part, without saying where in the tensors it belongs."""
    return bool(matching(folder.names, _FSDP))


def refuse_fsdp_local(folder: Folder) -> CheckpointError:
    """Return the error that says how the parts are gathered where they were made."""
    return CheckpointError(
        "holds one part for each rank of FSDP (LOCAL_STATE_DICT)",
        folder,
        "load it with as many processes, and save what torch.distributed.checkpoint.state_dict.get_model_state_dict("
        "model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)) returns",
    )


def _nothing(folder: Folder, tensors: Tensors) -> Description:
    return Description(tensors)


DEEPSPEED = Family(
    name="deepspeed",
    summary="a folder of DeepSpeed: refused, with the line that joins its parts",
    recognises=is_deepspeed,
    refuse=refuse_deepspeed,
    describe=_nothing,
    companions=(),
)
FSDP_LOCAL = Family(
    name="fsdp_local",
    summary="a folder with a part for each rank of FSDP: refused, with the way to gather them",
    recognises=is_fsdp_local,
    refuse=refuse_fsdp_local,
    describe=_nothing,
    companions=(),
)
