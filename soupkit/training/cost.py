"""What a run will cost, before it is begun: steps, floating-point operations, memory of each GPU, days.

Operations are not estimated by formula: one sample goes through the model on the meta device, forwards and backwards,
and torch counts. A multiplication and an addition are two operations, as in open_clip's table of profiles.
"""

import json
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from soupkit.errors import ArchitectureError, UsageError
from soupkit.training.checkpointing import Checkpointing, products
from soupkit.training.entry import TrainEntry
from soupkit.training.model import find_config
from soupkit.training.schedule import schedule_of

_ADAM = 2  # moments
_FP32 = 4  # bytes
_COUNTED_BLOCKS, _DEEP = 2, 16  # blocks that are counted of a tower of more than so many


@dataclass(frozen=True, slots=True)
class ModelCost:
    """`forward` and `backward` operations of one image with its caption, `image` those of the image tower forwards;
    `kept` bytes of activations that autograd keeps for it."""

    parameters: int
    image: int
    forward: int
    backward: int
    kept: int


@dataclass(frozen=True, slots=True)
class RunCost:
    """`operations` of the whole run. Memory in bytes for each of `world` GPUs: `state` (parameters, gradients, Adam's
    moments, average) and `activations`. `days` at `rate` operations a second and GPU; None without a rate. `curve` is
    (samples, learning rate) at 25 points, `peak` the same where the rate is highest."""

    steps: int
    samples: int
    parameters: int
    operations_per_sample: float
    operations: float
    world: int
    micro_batch: int
    state: float
    activations: float
    days: float | None
    curve: tuple[tuple[int, float], ...]
    peak: tuple[int, float]


def model_cost(
    model_cfg: dict[str, Any],
    *,
    patch_dropout: float,
    checkpointing: Checkpointing,
    bf16: bool,
    image_alone: bool = False,
) -> ModelCost:
    """Count what a sample costs in a model of open_clip's CLIP class, from its `model_cfg`; allocates no weights.

    With `image_alone` it is the image tower, as under a classification head, whose own cost is left out. With
    `checkpointing` "full" the backward pass includes the second forward pass of every block, up to what autograd needs
    of it, and only the blocks' inputs are kept; with "selective", so are the results of products. Raises
    ArchitectureError for text towers that only the Hub describes.
    """
    if "hf_model_name" in model_cfg["text_cfg"] and not image_alone:
        what = "cannot be counted: its text tower is described on the Hub"
        raise ArchitectureError(what, "model", "give open_clip's own text_cfg to count it")
    if image_alone:  # whatever text tower there would be
        model_cfg = {**model_cfg, "text_cfg": {}, "custom_text": False}
    return _counted(json.dumps(model_cfg), patch_dropout, checkpointing, bf16, image_alone)


@lru_cache(maxsize=8)  # the fine-tunings of a recipe are often of one kind
def _counted(model_cfg: str, *how: Any) -> ModelCost:
    """Count a model by fewer of its blocks, where they are alike: each block of a tower costs what any other does."""
    fields = json.loads(model_cfg)
    depths = {tower: _depth(fields[tower]) for tower in ("vision_cfg", "text_cfg")}

    def count(**others: int) -> ModelCost:
        fewer = {tower: others.get(tower, _COUNTED_BLOCKS) for tower, depth in depths.items() if depth is not None}
        return counted_whole({**fields, **{t: {**fields[t], "layers": n} for t, n in fewer.items()}}, *how)

    cost = few = count()
    for tower, depth in depths.items():
        if depth is not None:
            cost = _plus(cost, depth - _COUNTED_BLOCKS, count(**{tower: _COUNTED_BLOCKS + 1}), few)
    return cost


def _plus(cost: ModelCost, blocks: int, more: ModelCost, less: ModelCost) -> ModelCost:
    """Return `cost` of so many blocks more, each of which is what `more` has beyond `less`."""
    sums = (a + blocks * (b - c) for a, b, c in zip(astuple(cost), astuple(more), astuple(less), strict=True))
    return ModelCost(*sums)


def _depth(tower: dict[str, Any]) -> int | None:
    """Return how many blocks a tower has; None for one of so few that all are counted, or whose blocks may differ."""
    depth = tower.get("layers", 12 if tower else None)
    if not isinstance(depth, int) or "timm_model_name" in tower or "hf_model_name" in tower:
        return None
    return depth if depth > _DEEP else None


def counted_whole(
    fields: dict[str, Any], patch_dropout: float, checkpointing: Checkpointing, bf16: bool, image_alone: bool
) -> ModelCost:
    """Count a model of `fields`, a model_cfg, block by block: see `model_cost`."""
    cost, of_products = _passed(fields, patch_dropout, checkpointing == "full", bf16, image_alone)
    if checkpointing != "selective":
        return cost
    again, _ = _passed(fields, patch_dropout, True, bf16, image_alone)
    return replace(cost, kept=again.kept + of_products)  # what is computed again has no products


def _passed(
    fields: dict[str, Any], patch_dropout: float, checkpointing: bool, bf16: bool, image_alone: bool
) -> tuple[ModelCost, int]:
    """Send a sample forth and back; return what that costs, and the bytes of all that products give."""
    from open_clip.model import CLIP, CustomTextCLIP

    fields = dict(fields)
    custom = fields.pop("custom_text", False)
    fields["vision_cfg"] = {**fields["vision_cfg"], "patch_dropout": patch_dropout}
    with torch.device("meta"):
        model: nn.Module = (CustomTextCLIP if custom else CLIP)(**fields)
    model = model.to(torch.bfloat16 if bf16 else torch.float32).train()
    if image_alone:
        model = model.get_submodule("visual")
    if checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    dtype = next(model.parameters()).dtype
    size = fields["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.empty(1, 3, height, width, dtype=dtype, device="meta")
    text = torch.zeros(1, fields["text_cfg"].get("context_length", 77), dtype=torch.long, device="meta")
    kept, of_products = _Kept(model), _Products()
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.save, lambda tensor: tensor), of_products:
            out = model(image) if image_alone else model(image, text)
        if image_alone:
            features = out
        else:
            features = out[0] + out[1] if isinstance(out, tuple) else out["image_features"] + out["text_features"]
        forward = counter.get_total_flops()
        tower = counter.get_flop_counts().get(f"{type(model).__name__}.visual", {})
        image_tower = forward if image_alone else sum(tower.values())
        features.sum().backward()
        backward = counter.get_total_flops() - forward
    parameters = sum(p.numel() for p in model.parameters())
    return ModelCost(parameters, image_tower, forward, backward, kept.total), of_products.total


class _Products(TorchDispatchMode):
    """Adds up the bytes of what the products of a forward pass give."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds = products()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self._kinds:
            self.total += sum(t.nbytes for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t))
        return out


class _Kept:
    """Adds up the storages that autograd saves, each once, without the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self._alive: list[torch.Tensor] = []  # so that no storage's address is used twice
        self.total = 0

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.total += storage.nbytes()
        return tensor


def run_cost(
    entry: TrainEntry, *, world: int = 1, micro_batch: int | None = None, rate: float | None = None
) -> RunCost:
    """Return what the run of `entry` costs on `world` GPUs that each do `rate` operations a second.

    Parameters, gradients and moments are float32 and sharded over the GPUs. Activations are those of a micro-batch (the
    entry's, or a GPU's part of the batch), in bfloat16 where the entry says so; with checkpointing, of the blocks'
    inputs and of the inside of one. Fused kernels may keep less. Several micro-batches go through the model twice
    forwards, as the step of a contrastive loss has it. Not counted: the loss's tiles, blocks gathered from other GPUs,
    what the allocator wastes. Raises UsageError for a world that the batch cannot be shared by, and as reading the
    entry's model does.
    """
    if world < 1 or entry.batch_size % world:
        hint = "each takes as many of its samples as the others"
        raise UsageError(f"a batch of {entry.batch_size:,} cannot be shared by {world:,} GPUs", "--world-size", hint)
    config = find_config(entry)
    bf16 = entry.precision == "bf16"
    own = entry.batch_size // world
    micro = min(own, entry.micro_batch_size or own)

    def cost(checkpointing: Checkpointing) -> ModelCost:
        return model_cost(
            config["model_cfg"], patch_dropout=entry.patch_dropout, checkpointing=checkpointing, bf16=bf16,
            image_alone=entry.classifies,
        )  # fmt: skip

    model = cost(entry.grad_checkpointing)
    kept = model.kept
    if entry.grad_checkpointing != "none":
        layers = config["model_cfg"]["vision_cfg"].get("layers", 12)
        kept += cost("none").kept // (layers if isinstance(layers, int) else sum(layers))
    passes = 2 if micro < own and not entry.classifies else 1  # a mean over the batch needs no second one
    per_sample = model.forward * passes + model.backward
    steps, average = entry.steps, entry.ema is not None
    operations = float(per_sample) * steps * entry.batch_size
    schedule = schedule_of(entry)
    highest = schedule.highest(steps)
    points = sorted({round(i * (steps - 1) / 24) * entry.batch_size for i in range(25)}) if steps else [0]
    return RunCost(
        steps=steps,
        samples=steps * entry.batch_size,
        parameters=model.parameters,
        operations_per_sample=float(per_sample),
        operations=operations,
        world=world,
        micro_batch=micro,
        state=model.parameters * _FP32 * (2 + _ADAM + average) / world,
        activations=float(kept * micro),
        days=None if rate is None else operations / (rate * world) / 86400,
        curve=tuple((samples, schedule(samples)) for samples in points),
        peak=(highest, schedule(highest)),
    )
