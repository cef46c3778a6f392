"""Samples per second of whole training steps of a large model on one GPU, and their share of the chip's matrix rate.

A step goes forwards and backwards in bfloat16 over float32 weights, and moves them by AdamW. Each way of keeping
activations, with blocks compiled and not, unmasked and with half of the patches dropped, beside open_clip's own step
with its gradient checkpointing. Recomputation does not count as work. What does not fit is said and passed over. On a
CPU the same code runs at a small size, which says that it runs and nothing else.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.evaluate.throughput import chip, matrix_rate
from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import spread

_COMPILED = "compiled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="ViT-bigG-14", help="any open_clip architecture")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dropped", type=float, nargs="+", default=[0.0, 0.5], help="shares of patches left out")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["full", "selective", "selective+compiled", "full+compiled", "open_clip"],
        help="none, full or selective, with +compiled or without; open_clip",
    )


def cuda(arguments: argparse.Namespace) -> list[str]:
    """Measure every way in turn."""
    import open_clip
    from torch.utils.flop_counter import FlopCounterMode

    device = torch.device(arguments.device)
    rate = matrix_rate(device, torch.bfloat16)
    lines = [
        f"## Training steps of {arguments.model}, batch {arguments.batch}, bfloat16 over float32, AdamW",
        "",
        f"{chip(device)}: {rate / 1e12:.2f} TFLOP/s in matrix products; torch {torch.__version__}, open_clip "
        f"{open_clip.__version__}",
        "",
        "| patches dropped | way | samples/s | share of the rate, recomputation not counted | peak GB |",
        "|---|---|---|---|---|",
    ]
    for dropped in arguments.dropped:
        for way in arguments.ways:
            make, flops = _maker(arguments, device, dropped), 0
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                model, images, texts = make()
                with FlopCounterMode(display=False) as counter, torch.autocast(device.type, torch.bfloat16):
                    output = model(images[:2], texts[:2])
                    (output["image_features"].sum() + output["text_features"].sum()).backward()
                flops = counter.get_total_flops() // 2
                one = _step(way, model, images, texts)
                one()
                one()
                seconds = [timed(one) for _ in range(arguments.rounds)]
            except torch.cuda.OutOfMemoryError:
                lines.append(f"| {dropped:.0%} | {way} | not enough memory | | |")
                continue
            speeds = [arguments.batch / second for second in seconds]
            peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.type == "cuda" else ""
            shares = spread([speed * flops / rate for speed in speeds])
            lines.append(f"| {dropped:.0%} | {way} | {spread(speeds)} | {shares} | {peak} |")
            print(lines[-1], flush=True)
            del model, one
    return lines


def _maker(
    arguments: argparse.Namespace, device: torch.device, dropped: float
) -> Callable[[], tuple[nn.Module, Tensor, Tensor]]:
    def make() -> tuple[nn.Module, Tensor, Tensor]:
        import open_clip

        torch.manual_seed(0)
        model: Any = open_clip.create_model(
            arguments.model, device=device, force_patch_dropout=dropped, output_dict=True
        )
        side = model.visual.image_size[0]
        images = torch.randn(arguments.batch, 3, side, side, device=device)
        texts = torch.randint(1, 49000, (arguments.batch, model.context_length), device=device)
        return model.train(), images, texts

    return make


def _step(way: str, model: nn.Module, images: Tensor, texts: Tensor) -> Callable[[], None]:
    """Return one whole step, which ends when the device has done it."""
    from open_clip.loss import ClipLoss

    from soupkit.ranks import Ranks
    from soupkit.training.parallel import parallelize
    from soupkit.training.step import contrastive_step

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    device = images.device

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    if way == "open_clip":
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        loss = ClipLoss()

        def theirs() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                output = model(images, texts)
                value = loss(output["image_features"], output["text_features"], output["logit_scale"])
            value.backward()
            optimizer.step()
            wait()

        return theirs
    keeping, _, compiled = way.partition("+")
    parallelize(model, Ranks(), checkpointing=keeping, precision="bf16", compile=compiled == _COMPILED)  # type: ignore[arg-type]

    def ours() -> None:
        contrastive_step(model, images, texts, loss="clip", micro_batch=len(images), precision="bf16")
        optimizer.step()
        wait()

    return ours


SUBJECT = Subject("cuda", __doc__, add_arguments, cuda)
