"""How a model is spread over ranks, and what its gradients, their norm, averages and states are then.

A model that fits is replicated: every rank has all of it, and the step sums the gradients. One that does not fit is
sharded by FSDP2 (`fully_shard`), block by block: parameters, gradients and optimizer state are divided among the ranks.
In both cases `.grad` is the sum over the ranks of what each one put in, as `step` needs it, and not the mean that FSDP
takes by default.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from soupkit.errors import UsageError
from soupkit.ranks import Ranks
from soupkit.training.checkpointing import Checkpointing, keep_products
from soupkit.training.entry import Precision

_BUCKET = 32 * 2**20  # elements that are summed over the ranks in one message


def parallelize(
    model: nn.Module,
    ranks: Ranks,
    *,
    shard: bool = False,
    checkpointing: Checkpointing = "none",
    precision: Precision = "fp32",
    compile: bool = False,
) -> nn.Module:
    """Prepare `model`, which is on its device already, for training on all ranks; changes and returns it.

    All ranks start from the first rank's parameters and buffers. `shard` divides them among the ranks (with one rank
    there is nothing to divide); with `precision` "bf16" they are then gathered and multiplied in bfloat16, while
    parameters, gradients and their sums stay in float32. `checkpointing` says which of each block's activations are
    computed again in the backward pass: "full", all of them; "selective", those that no product gives. `compile`
    compiles the blocks one by one: what is drawn at random lies outside of them and stays as it is without. Names in
    the state dict stay as they are.

    Raises UsageError when the model has no blocks to compile or shard, or cannot checkpoint.
    """
    blocks = _blocks(model)
    if (shard or compile or checkpointing == "selective") and not blocks:
        what = "the model has no repeated blocks to shard, compile or checkpoint"
        raise UsageError(what, type(model).__name__, "train it with shard, compile and grad_checkpointing off")
    if checkpointing == "selective":
        keep_products(blocks)
    elif checkpointing == "full":
        switch = getattr(model, "set_grad_checkpointing", None)
        if switch is None:
            what = "the model cannot checkpoint its activations"
            raise UsageError(what, type(model).__name__, "train it with grad_checkpointing off")
        switch(True)
    if compile:
        for block in blocks:
            # The forward method alone, so that FSDP's hooks stay outside of what is compiled.
            block.forward = torch.compile(block.forward)
    if ranks.size == 1:
        return model
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, 0)
    if shard:
        _shard(model, blocks, precision)
    return model


def _shard(model: nn.Module, blocks: list[nn.Module], precision: Precision) -> None:
    device = next(model.parameters()).device
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # fully_shard refuses 0-dimensional parameters (logit scale and bias). They are replicated, and the step sums their
    # gradients: left to themselves they would follow each rank's own share and drift apart.
    whole = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    # The outermost module too is sharded again after its forward: between calls, an evaluation's included, parameters
    # are always shards.
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params=whole)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Sums in plain, which gloo has too; NCCL's scaling variants would be chosen otherwise.
            module.set_force_sum_reduction_for_comms(True)
    for method in ("encode_image", "encode_text"):
        if hasattr(model, method):
            register_fsdp_forward_method(model, method)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the towers: members of outermost lists of modules of one kind that have parts themselves."""
    blocks: list[nn.Module] = []
    for child in model.children():
        members = list(child.children())
        alike = len({type(member) for member in members}) == 1 and any(members[0].children())
        if isinstance(child, nn.ModuleList | nn.Sequential) and alike:
            blocks += members
        else:
            blocks += _blocks(child)
    return blocks


def reduce_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Sum over the ranks the gradients that are not sharded; those that are, FSDP has summed already.

    Every rank ends with the same bits: what a collective reduces, it reduces once and hands to all.
    """
    if ranks.size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not isinstance(p.grad, DTensor)]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Group tensors of one dtype, in order, up to a size."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in sorted(tensors, key=lambda t: str(t.dtype)):
        if not buckets or buckets[-1][0].dtype != tensor.dtype or size + tensor.numel() > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float | None = None) -> Tensor:
    """Return the 2-norm of the whole gradient, a scalar equal on all ranks; above `max_norm`, scale the gradient to it.

    Not finite when the gradient is not. Does what `torch.nn.utils.clip_grad_norm_` does, which does not take a model
    with some parameters sharded and some not. Every rank must call it.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    shards = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = _norm(whole, gradients[0].device).square()
    if shards:
        part = _norm(shards, shards[0].device).square()
        dist.all_reduce(part)
        square = square + part
    norm = square.sqrt()
    if max_norm is not None:
        torch._foreach_mul_([*shards, *whole], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _norm(tensors: list[Tensor], device: torch.device) -> Tensor:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([n.to(torch.promote_types(n.dtype, torch.float32)) for n in torch._foreach_norm(tensors)]).norm()


def start_average(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the parameters by name, sharded where they are, to be moved by `update_average`."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move the exponential moving average: average = decay * average + (1 - decay) * parameters."""
    parameters = dict(model.named_parameters())
    torch._foreach_lerp_(
        [_local(tensor) for tensor in average.values()], [_local(parameters[name]) for name in average], 1 - decay
    )


def full_state(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return whole tensors on the CPU, copies all, on the first rank, and nothing on the others.

    `tensors` is a model's state dict or an average. Shards are gathered one tensor at a time; every rank must call it.
    """
    state = {}
    for name, tensor in tensors.items():
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if ranks.leads:
            state[name] = whole.to("cpu", copy=True)
    return state


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
