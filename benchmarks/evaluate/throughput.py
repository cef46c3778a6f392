"""Images per second of the evaluator's pass beside open_clip's own loop, and the share of the chip's matrix rate.

Both score pixels that lie in memory; the loop is like that of open_clip_train.
"""

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.rounds import Round, column, ratios, run_rounds
from soupkit.evaluation.image_pass import Pass, classify
from soupkit.evaluation.pixel_cache import BLOCK
from soupkit.evaluation.pixels import Pixels

CLASSES = 1000
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="ViT-B-32", help="any open_clip architecture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--compile", action="store_true", help="torch.compile soupkit's image tower")
    parser.add_argument("--rounds", type=int, default=3)


def throughput(options: Namespace) -> list[str]:
    """Score random pixels that lie in memory with both; neither reads or decodes anything.

    open_clip's loop gets its batches normalised, in the dtype that it computes in; soupkit normalises uint8.
    """
    import open_clip

    device, dtype = torch.device(options.device), DTYPES[options.precision]
    model = open_clip.create_model(options.model).to(device, dtype).eval()
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = np.random.default_rng(0)
    stored = generator.integers(0, 256, (options.images, height, width, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, options.images)
    work = operations(model, (height, width), device, dtype)
    with torch.no_grad():
        embed = model.encode_image(torch.zeros(1, 3, height, width, device=device, dtype=dtype)).shape[1]
    classifier = nn.functional.normalize(torch.randn(embed, CLASSES, device=device), dim=0)
    pixels = in_memory(stored, labels)
    how = Pass(device, dtype, options.batch, MEAN, STD, options.compile)
    rows = np.arange(options.images)

    def ours() -> float:
        (hits,) = classify(model, [classifier], pixels, rows, how)
        return float(hits.top1.mean())

    batches = normalised(stored, labels, options.batch, dtype)

    def theirs() -> float:
        return loop_of_open_clip(model, classifier.to(dtype), batches, options)

    def one_round(_: int) -> Round:
        accuracies: dict[str, float] = {}
        speeds: Round = {}
        for name, way in ways.items():
            started = time.perf_counter()
            accuracies[name] = way()  # both end by reading the device's result
            speeds[name] = options.images / (time.perf_counter() - started)
        return {**speeds, "apart": abs(accuracies["soupkit"] - accuracies["loop"])}

    ways: dict[str, Callable[[], float]] = {"soupkit": ours, "loop": theirs}
    one_round(0)
    rounds = run_rounds("throughput", options.rounds, one_round, options.record)
    rate = matrix_rate(device, dtype)
    title = f"## {options.model}, {options.precision}, {options.images:,} images in batches of {options.batch}"
    lines = [title, "", f"{chip(device)}; torch {torch.__version__}, open_clip {open_clip.__version__}", ""]
    lines += ["| | images/s | times open_clip's loop | share of the matrix rate |", "|---|---|---|---|"]
    for name, label in (("loop", "open_clip's loop"), ("soupkit", "soupkit")):
        shares = [f * work / rate for f in column(rounds, name)]
        row = [label, spread(column(rounds, name)), spread(ratios(rounds, name, "loop")), spread(shares)]
        lines.append("| " + " | ".join(row) + " |")
    lines += [
        "",
        f"An image takes {work / 1e9:.1f} G operations; large matrix products run at {rate / 1e12:.2f} T a second. "
        f"Top-1 differs by {max(column(rounds, 'apart')):.1e} between the two.",
    ]
    return lines


def in_memory(stored: np.ndarray, labels: np.ndarray) -> Pixels:
    """Return pixels that belong to no cache."""
    n = len(stored)
    names = tuple(map(str, range(n)))
    everything = set(range(-(-n // BLOCK)))  # no block has a digest to be checked against
    return Pixels(stored, labels, names, names, (), labels, "", np.arange(n), {}, Path(), BLOCK, (), everything)


def normalised(
    stored: np.ndarray, labels: np.ndarray, batch: int, dtype: torch.dtype
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the batches that open_clip's loop is given, [b, 3, height, width]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    images = torch.from_numpy(stored).permute(0, 3, 1, 2)
    parts = [p.float().div_(255).sub_(mean).div_(std).to(dtype).contiguous() for p in images.split(batch)]
    return list(zip(parts, torch.from_numpy(labels).split(batch), strict=True))


@torch.inference_mode()
def loop_of_open_clip(
    model: nn.Module,
    classifier: torch.Tensor,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    options: Namespace,
) -> float:
    """Return the top-1 accuracy, by the steps of open_clip_train.zero_shot.run, which itself stops at newer numpys:
    batch by batch to the device, features, logits, and the hits of top-1 and top-5 back to the host."""
    hits = [0.0, 0.0]
    for images, target in batches:
        features = model(image=images.to(options.device))[0]
        logits = 100.0 * features @ classifier
        right = logits.topk(5, dim=1).indices == target.to(options.device)[:, None]
        hits = [n + right[:, :k].any(dim=1).float().sum().item() for n, k in zip(hits, (1, 5), strict=True)]
    return hits[0] / sum(len(target) for _, target in batches)


@torch.inference_mode()
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product, the median of five."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        (a @ b)[0, 0].item()  # waits for the device

    product()
    return 2 * n**3 / statistics.median(timed(product) for _ in range(5))


def operations(model: nn.Module, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> int:
    """Return what one image costs, as torch counts it with gradients: what is fused without them it does not count."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        model.encode_image(torch.zeros(1, 3, *size, device=device, dtype=dtype))  # type: ignore[operator]
    return int(counter.get_total_flops())


def chip(device: torch.device) -> str:
    """Name what was measured on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine()


SUBJECT = Subject("throughput", __doc__, add_arguments, throughput)
