"""Samples per second of a large model on one GPU, and its share of the chip's rate for large matrix products.

Gradient checkpointing, bfloat16 compute; unmasked and with half of the patches dropped. The optimizer's step is not in
it.
"""

import argparse

import torch
from torch import Tensor, nn

from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="ViT-bigG-14", help="any open_clip architecture")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)


def cuda(arguments: argparse.Namespace) -> list[str]:
    """Measure a large model on one GPU: samples per second, and the share of the chip's measured matrix rate."""
    if not torch.cuda.is_available():
        return ["Not run: there is no CUDA device here."]
    import open_clip
    from torch.utils.flop_counter import FlopCounterMode

    from soupkit.ranks import Ranks
    from soupkit.training.parallel import parallelize
    from soupkit.training.step import contrastive_step

    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        for _ in range(10):
            torch.mm(a, b)
        torch.cuda.synchronize()

    product()
    rate = 10 * 2 * size**3 / min(timed(product) for _ in range(5))
    lines = [
        f"## {arguments.model}, batch {arguments.batch}, gradient checkpointing, bfloat16 compute",
        "",
        f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s in products of {size} x {size}; {machine()}",
        "",
        "| patches dropped | samples/s | share of the rate, recomputation not counted | peak GB |",
        "|---|---|---|---|",
    ]
    for dropped in (0.0, 0.5):
        model = open_clip.create_model(arguments.model, device="cuda", force_patch_dropout=dropped, output_dict=True)
        side = model.visual.image_size[0]
        images = torch.randn(arguments.batch, 3, side, side)
        texts = torch.randint(1, 49000, (arguments.batch, model.context_length))
        with FlopCounterMode(display=False) as counter, torch.autocast("cuda", torch.bfloat16):
            output = model.train()(images[:2].cuda(), texts[:2].cuda())
            (output["image_features"].sum() + output["text_features"].sum()).backward()
        flops = counter.get_total_flops() / 2
        parallelize(model, Ranks(), checkpointing="full", precision="bf16")

        def one(model: nn.Module = model, images: Tensor = images, texts: Tensor = texts) -> None:
            contrastive_step(model, images, texts, loss="clip", micro_batch=arguments.batch, precision="bf16")
            torch.cuda.synchronize()

        one()
        seconds = [timed(one) for _ in range(arguments.rounds)]
        speeds = [arguments.batch / second for second in seconds]
        shares = [speed * flops / rate for speed in speeds]
        peak = torch.cuda.max_memory_allocated() / 1e9
        lines.append(f"| {dropped:.0%} | {spread(speeds)} | {spread(shares)} | {peak:.1f} |")
        del model, one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return lines


SUBJECT = Subject("cuda", __doc__, add_arguments, cuda)
