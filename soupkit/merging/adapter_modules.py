"""What a soup of adapters is made of, module by module: the factors of each adapter, and their sum at a rank."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.formats.peft import PREFIX, Adapter, Factors
from soupkit.checkpoint.reading import read_tensor
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import ArchitectureError, CheckpointError

# What the config says of which modules are adapted; where adapters differ in it, the modules are named one by one.
_SELECTS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True, slots=True)
class MergedModule:
    """What the soup's update of one module is made of: each adapter's factors, with the number that they count by."""

    own_name: str
    parts: tuple[tuple[float, Factors, Checkpoint], ...]
    rank: int

    @property
    def first(self) -> Factors:
        """The factors that the others are like."""
        return self.parts[0][1]

    def names(self) -> tuple[str, str]:
        """Return the names of A and B as PEFT writes them."""
        a, b = ("lora_embedding_A", "lora_embedding_B") if self.first.embedding else ("lora_A.weight", "lora_B.weight")
        return f"{self.own_name}.{a}", f"{self.own_name}.{b}"

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A and B."""
        a, b = self.first.a.shape, self.first.b.shape
        return (self.rank, *a[1:]), (b[0], self.rank, *b[2:])


def merged_modules(
    adapters: Sequence[Adapter], opens: Sequence[Checkpoint], shares: Sequence[float], rank: int | None
) -> list[MergedModule]:
    """Return what each module of any adapter is made of. Raises ArchitectureError for factors of other sizes."""
    modules = []
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.factors):
        parts = tuple(
            (share * adapter.factors[module].scale, adapter.factors[module], source)
            for share, adapter, source in zip(shares, adapters, opens, strict=True)
            if module in adapter.factors
        )
        _, first, _ = parts[0]
        for _, factors, source in parts:
            like = (factors.a.shape[1:], factors.b.shape[0], factors.b.shape[2:], factors.embedding)
            if like != (first.a.shape[1:], first.b.shape[0], first.b.shape[2:], first.embedding):
                raise ArchitectureError(
                    "has factors of another size", f"{source.ref}, module {module!r}", "merge adapters of one model"
                )
        total = sum(factors.rank for _, factors, _ in parts)
        modules.append(MergedModule(first.own_name, parts, total if rank is None else min(rank, total)))
    return modules


def product(module: MergedModule, *, cut: bool) -> tuple[Tensor, Tensor, float, float]:
    """Return A and B of a module in float64, the sum of squares that they lack, and that of the whole product (both 0
    where nothing is cut)."""
    pairs = [
        (
            read(source, factors.a, module.own_name).reshape(factors.rank, -1),
            read(source, factors.b, module.own_name).reshape(-1, factors.rank) * (number / factors.times),
        )
        for number, factors, source in module.parts
    ]
    a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
    tail = total = 0.0
    if cut:
        (qb, rb), (qa, ra) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, s, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
        squares = s.square()
        tail, total = float(squares[module.rank :].sum()), float(squares.sum())
        if len(a) > module.rank:
            root = s[: module.rank].sqrt()
            a, b = (root[:, None] * vt[: module.rank]) @ qa.T, qb @ (u[:, : module.rank] * root)
    shape_a, shape_b = module.shapes()
    return a.reshape(shape_a), b.reshape(shape_b), tail, total


def read(source: Checkpoint, spec: TensorSpec, name: str) -> Tensor:
    """Return a tensor in float64. Raises CheckpointError for one that is not finite."""
    value = read_tensor(source.files, spec, name).double()
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            "has non-finite weights (NaN or infinity)", f"{source.ref}, {name!r}", "leave this ingredient out"
        )
    return value


def config_of(adapters: Sequence[Adapter], modules: Sequence[MergedModule]) -> dict[str, Any]:
    """Return the `adapter_config.json` of the soup, in which every update has the scale 1."""
    first = adapters[0].config
    rank = Counter(module.rank for module in modules).most_common(1)[0][0]
    names = {m.own_name: m.own_name.removeprefix(PREFIX) for m in modules if m.first.times == 1}
    odd = {f"^{re.escape(names[m.own_name])}": m.rank for m in modules if m.own_name in names and m.rank != rank}
    config = {
        **first, "r": rank, "lora_alpha": rank, "rank_pattern": odd, "alpha_pattern": odd, "use_rslora": False,
        "init_lora_weights": True, "inference_mode": True,
        "lora_bias": any(adapter.config.get("lora_bias") for adapter in adapters),
    }  # fmt: skip
    if any(_selects(adapter.config) != _selects(first) for adapter in adapters):
        exact = "|".join(re.escape(name) for name in names.values())
        config |= dict.fromkeys(_SELECTS) | {"target_modules": f"({exact})"}
    return config


def _selects(config: Mapping[str, Any]) -> list[Any]:
    return [sorted(v) if isinstance(v := config.get(key), list) else v for key in _SELECTS]
