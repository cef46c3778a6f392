"""Files that `torch.save` wrote, damaged, read by soupkit and by torch: who takes them, and what each reads."""

from pathlib import Path

import torch

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import SoupkitError


def by_soupkit(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the tensors, None where soupkit refuses the file."""
    try:
        with open_checkpoint(path) as checkpoint:
            return {name: checkpoint[name].clone() for name in checkpoint.tensors}
    except SoupkitError:
        return None


def by_torch(path: Path) -> dict[str, torch.Tensor] | str:
    """Return the tensors of the state dict, or why torch refuses the file."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torch's reader raises
        return f"{type(error).__name__}: {error}"
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not isinstance(state, dict):
        return "no state dict"
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def disagreement(path: Path) -> str | None:
    """Say how the two differ on the file: None where both refuse, where soupkit alone does, and where both read the
    same names, shapes, dtypes and bytes."""
    ours = by_soupkit(path)
    if ours is None:
        return None
    theirs = by_torch(path)
    if isinstance(theirs, str):
        return f"torch refuses it: {theirs}"
    for name, tensor in ours.items():
        if name not in theirs:
            return f"torch has no {name!r}"
        other = theirs[name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            return f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, for torch {other.dtype} {tuple(other.shape)}"
        if not torch.equal(as_bytes(tensor), as_bytes(other)):
            return f"{name!r} has other bytes"
    return None


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, in row-major order; of a bool's, what they say (torch copies any true as 1)."""
    return tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8)
