"""Weights that lie in memory, as checkpoints: a state dict or a module gets a reference for as long as it is held.

    with held(model) as ref, held(other.state_dict()) as beside:
        soupkit.compare([ref, beside, "runs/c"])

Nothing is copied but tensors that are not contiguous, and pieces of those on a device as they are read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from soupkit.checkpoint.dtypes import BY_TORCH_NAME
from soupkit.checkpoint.formats.folder import LocalFolder
from soupkit.checkpoint.formats.weight_files import CONFIG
from soupkit.checkpoint.sources import Source
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError
from soupkit.scratch import ScratchDirectory

if TYPE_CHECKING:
    import torch

    Weights = Mapping[str, torch.Tensor] | torch.nn.Module

PREFIX = "memory:"
_EXTRA_STATE = "_extra_state"  # what a module keeps beside its tensors, of any kind
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """Weights behind a reference: their tensors, where the bytes of these are, and the folder of what is said of them,
    None for a state dict."""

    tensors: dict[str, TensorSpec]
    sources: dict[Path, Source]
    folder: LocalFolder | None


_HELD: dict[str, HeldWeights] = {}


@dataclass(slots=True)
class MemorySource:
    """The bytes of one tensor, which is contiguous."""

    path: Path
    tensor: "torch.Tensor"
    stamp: list[Any]
    descriptor: None = None
    _version: int | None = field(init=False)
    _bytes: "torch.Tensor" = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self._version = _version_of(self.tensor)
        self._bytes = self.tensor.detach().reshape(-1).view(torch.uint8)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._bytes.numel()

    def read(self, offset: int, view: memoryview) -> int:
        """Fill the beginning of `view` with bytes from `offset` on; return how many, 0 at the end."""
        n = min(view.nbytes, self.size - offset)
        if n > 0:
            view[:n] = memoryview(self._bytes[offset : offset + n].cpu().numpy())
        return max(n, 0)

    def check_unchanged(self) -> None:
        """Raise CheckpointError when the tensor was written to since it was held."""
        if _version_of(self.tensor) != self._version:
            raise CheckpointError(
                "was written to while it was being read", self.path, "wait with the next step until this one is done"
            )

    def close(self) -> None:
        """Nothing is to be let go of: the tensor is its owner's."""


def is_weights(value: object) -> "TypeGuard[Weights]":
    """Whether `value` is a state dict or a module, and no reference."""
    return isinstance(value, Mapping) or callable(getattr(value, "state_dict", None))


@contextmanager
def held(weights: "Weights", name: str | None = None) -> Iterator[str]:
    """Give `weights` a reference, "memory:NAME", that names them in this process (and its forks) in this context.

    `name` is a number where none is given, and one is added to a name that is taken. A module of transformers or
    diffusers brings its config along; any other, and every state dict, is known by its names and shapes. Raises
    CheckpointError for what is no state dict of dense tensors.
    """
    ref = f"{PREFIX}{name if name is not None else next(_numbers)}"
    if ref in _HELD:
        ref = f"{ref}-{next(_numbers)}"
    state = weights if isinstance(weights, Mapping) else weights.state_dict()
    tensors, sources = _tensors_of(state, Path(ref))
    with ExitStack() as kept:
        config = None if isinstance(weights, Mapping) else _config_of(weights)
        folder = None
        if config is not None:
            directory = Path(kept.enter_context(ScratchDirectory()))
            (directory / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
            folder = LocalFolder.list(directory)
        _HELD[ref] = HeldWeights(tensors, sources, folder)
        try:
            yield ref
        finally:
            del _HELD[ref]


def held_as(ref: object) -> HeldWeights | None:
    """Return the weights that `ref` names, None for a reference that is none to memory."""
    return _HELD.get(str(ref))


def _tensors_of(state: Mapping[str, Any], where: Path) -> tuple[dict[str, TensorSpec], dict[Path, Source]]:
    """Return the tensors of a state dict; those that are one in memory have one source. Raises CheckpointError."""
    import torch

    tensors: dict[str, TensorSpec] = {}
    sources: dict[Path, Source] = {}
    places: dict[tuple[Any, ...], Path] = {}
    token = f"{next(_numbers)} of {id(state)}"
    for name, tensor in state.items():
        if not isinstance(name, str) or (isinstance(tensor, Mapping) and name == "state_dict"):
            hint = "give its state dict: checkpoint['state_dict']" if name == "state_dict" else "give a state dict"
            raise CheckpointError(f"is no state dict: it holds {name!r}", where, hint)
        if not isinstance(tensor, torch.Tensor):
            if name.endswith(_EXTRA_STATE):
                continue
            raise CheckpointError(
                f"is {type(tensor).__name__}, and no tensor", f"{where}, {name!r}", "give tensors alone"
            )
        dtype = _checked(tensor, f"{where}, tensor {name!r}")
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        path = places.get(key) if tensor.numel() else None
        if path is None:
            path = places[key] = where / name
            sources[path] = MemorySource(path, tensor.contiguous(), [token, name])
        nbytes = tensor.numel() * tensor.element_size()
        tensors[name] = TensorSpec(dtype, tuple(tensor.shape), (Extent(path, 0, nbytes),))
    if not tensors:
        raise CheckpointError("holds no tensors", where, "give the state dict of a model")
    return tensors, sources


def _checked(tensor: "torch.Tensor", where: str) -> str:
    """Return the safetensors name of a tensor's dtype. Raises CheckpointError for one whose bytes are not at hand."""
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or hasattr(tensor, "full_tensor"):
        kind = "without values (meta)" if tensor.is_meta else type(tensor).__name__
        raise CheckpointError(
            f"is no dense tensor in memory: {kind}, {tensor.layout}", where,
            "gather it first; for a sharded model get_model_state_dict(model, options=StateDictOptions("
            "full_state_dict=True))",
        )  # fmt: skip
    dtype = BY_TORCH_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        raise CheckpointError(
            f"has the dtype {tensor.dtype}", where, f"soupkit knows {', '.join(BY_TORCH_NAME)}"
        )  # fmt: skip
    return dtype.name


def _version_of(tensor: "torch.Tensor") -> int | None:
    """Return the number that torch counts writes to a tensor by; it counts none to those of inference mode."""
    return None if tensor.is_inference() else tensor._version


def _config_of(module: Any) -> dict[str, Any] | None:
    """Return the `config.json` of a module of transformers or diffusers, None for others."""
    config: Any = getattr(module, "config", None)
    if callable(getattr(config, "to_json_string", None)) and getattr(config, "model_type", None):
        return {**json.loads(config.to_json_string()), "architectures": [type(module).__name__]}
    if isinstance(config, Mapping) and "_class_name" not in config and hasattr(module, "config_name"):
        return json.loads(json.dumps({"_class_name": type(module).__name__, **config}, default=str))
    return None
