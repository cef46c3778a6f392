"""Folders whose tensors are parts that only the framework that wrote them can put together: named, with the line that
does so."""

from pathlib import Path

from soupkit.checkpoint.formats.folder import Folder, matching
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.errors import CheckpointError

_DEEPSPEED = ("zero_to_fp32.py", "*_model_states.pt", "*_optim_states.pt")
_FSDP = ("*_rank[0-9]*.bin", "*_rank_[0-9]*.pt", "*.rank_[0-9]*.pth")


def is_deepspeed(folder: Folder) -> bool:
    """Whether DeepSpeed wrote the folder: one of its steps, or the one that holds them."""
    return bool(matching(folder.names, _DEEPSPEED))


def refuse_deepspeed(folder: Folder) -> CheckpointError:
    """Return the error that says how DeepSpeed's own script joins the parts."""
    path = Path(str(folder))
    whole = path if "zero_to_fp32.py" in folder.names else path.parent
    return CheckpointError(
        "holds the parts of a DeepSpeed run",
        folder,
        f"join them: python {whole}/zero_to_fp32.py {whole} {whole}/fp32 --safe_serialization",
    )


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
