"""Reckon a search over a model too large for this machine on one GPU: bytes by counting, seconds by rates.

Nothing here runs on a GPU. Sizes are those of the tensors that open_clip builds (on the meta device, without memory),
operations are counted by torch, tokens by soupkit's own prefix trees. Of the rates, reading and the host's arithmetic
are measured on this machine, by the code that a search uses; the GPU's are its data sheet's, and the share of its
matrix rate that a model reaches is assumed.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from soupkit.merging.blocks import CUDA_BLOCK

BATCH = 512  # images that go through the model together on CUDA
ACTIVATIONS = 2  # bytes: bfloat16


@dataclass(frozen=True)
class Gpu:
    """A data sheet: bytes of memory, bytes a second within it and to it, operations a second in dense bfloat16."""

    name: str = "H100 SXM, 80 GB"
    memory: float = 80e9
    hbm: float = 3.35e12
    link: float = 64e9  # PCIe 5.0 x16, one direction
    rate: float = 989e12
    reached: float = 0.5  # the share of `rate` that large matrix products reach: assumed, not measured


@dataclass(frozen=True)
class Rates:
    """Bytes a second on this machine, one thread: from the disk, from the page cache, and of a 16-bit ingredient that
    is added to a float32 sum in host memory."""

    disk: float
    cache: float
    add: float


@dataclass(frozen=True)
class Model:
    """What counts of a model: parameters, operations of an image and of a text token, tokens of an image,
    widths of its tower and of that tower's MLP, tokens of the whole context."""

    name: str
    parameters: int
    per_image: int
    per_token: float
    image_tokens: int
    width: int
    mlp: int
    context: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="ViT-bigG-14", help="any open_clip architecture")
    parser.add_argument("--images", type=int, default=50_000)


def measure_model(name: str) -> Model:
    """Build `name` without memory and count."""
    import open_clip
    from open_clip.model import CLIP

    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model: nn.Module = CLIP(**config).eval()
    vision = config["vision_cfg"]
    size, patch = vision.get("image_size", 224), vision["patch_size"]
    context = config["text_cfg"].get("context_length", 77)

    def count(encode: Callable[[Tensor], Tensor], x: Tensor) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encode(x)
        return counter.get_total_flops()

    image = count(model.encode_image, torch.empty(1, 3, size, size, device="meta"))  # type: ignore[arg-type]
    text = count(model.encode_text, torch.zeros(1, context, dtype=torch.long, device="meta"))  # type: ignore[arg-type]
    parameters = sum(p.numel() for p in model.parameters())
    width = vision["width"]
    tokens = (size // patch) ** 2 + 1
    mlp = int(width * vision.get("mlp_ratio", 4.0))
    return Model(name, parameters, image, text / context, tokens, width, mlp, context)


def prompt_tokens(model: str, classes: int) -> tuple[int, int]:
    """Count the tokens of ImageNet's first classes in its 80 templates: as open_clip pads them, and in prefix trees."""
    import open_clip
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    from soupkit.evaluation.prompts import PromptEncoder, fill_templates, tokenize

    templates = [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES]
    prompts = tokenize(open_clip.get_tokenizer(model), fill_templates(IMAGENET_CLASSNAMES[:classes], templates, ""))
    small = open_clip.model.CLIP(64, _tiny_vision(), {"width": 64, "heads": 2, "layers": 1}).eval()
    padded = len(prompts.rows) * prompts.context
    return padded, PromptEncoder(small, prompts, torch.device("cpu")).tokens_computed


def _tiny_vision() -> dict[str, int]:
    return {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}


def measure_rates(work: Path, nbytes: int = 2 << 30) -> Rates:
    """Measure this machine on a file of `nbytes` under `work`, which is removed: the better of two times each."""
    from safetensors.torch import save_file

    from soupkit.checkpoint import open_checkpoint
    from soupkit.merging.arithmetic import Arithmetic
    from soupkit.merging.tensor_runs import Reader, runs

    work.mkdir(parents=True, exist_ok=True)
    path = work / "rates.safetensors"
    rows = nbytes // 2 // (1 << 24)
    names = [f"t{i}" for i in range(rows)]
    save_file({n: torch.randn(1 << 20).bfloat16().repeat(16) for n in names}, path)
    total, host = torch.zeros(1 << 24), torch.device("cpu")
    reader, ops = Reader(host), Arithmetic(torch.float32, host)

    def read(*, into_sum: bool = False) -> None:
        """Read as a search does, and add to a sum as a search in host memory does."""
        with open_checkpoint(path) as file:
            for name in names:
                for run in runs([file], name, host, together=1):
                    ops.reset()
                    stored = reader.read(0, file, name, run)
                    if into_sum:
                        ops.add(total[run], stored)

    def add() -> None:
        read(into_sum=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        disk, cache, added = (min(_timed(work, before) for _ in range(2)) for work, before in
                              ((read, lambda: _drop(path)), (read, int), (add, int)))  # fmt: skip
    finally:
        torch.set_num_threads(threads)
        path.unlink()
    size = 2 * rows * (1 << 24)
    return Rates(size / disk, size / cache, size / added)


def _timed(work: Callable[[], object], before: Callable[[], object]) -> float:
    before()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _drop(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def resident(model: Model, stored: int) -> dict[str, float]:
    """Return the bytes that a search holds on the device, for ingredients of `stored` bytes a number."""
    accumulator = 2 * stored
    return {
        "the live model, bfloat16": 2.0 * model.parameters,
        "the running sum, twice as wide as the ingredients": float(accumulator * model.parameters),
        "of one run of elements: a copy of the sum, two ingredients, the soup": (accumulator + 3.0 * stored)
        * CUDA_BLOCK,
        f"activations of {BATCH} images (estimate)": float(
            BATCH * model.image_tokens * (2 * model.mlp + 3 * model.width) * ACTIVATIONS
        ),
    }


def moved_per_parameter(stored: int) -> dict[str, int]:
    """Return the bytes that filling the live model moves within the device's memory, per parameter.

    Each step of `RunningSum.fill` reads its inputs and writes its result once.
    """
    sums = 2 * stored
    return {
        "the ingredient arrives": stored,
        "copy of the sum": 2 * sums,
        "sum + ingredient": 2 * sums + stored,
        "sum / n": 2 * sums,
        "rounded to the soup's dtype": sums + stored,
        "into the live model": stored + 2,
    }


def trial_seconds(
    model: Model, gpu: Gpu, rates: Rates, stored: int, images: int, tokens: tuple[int, int]
) -> dict[str, float]:
    """Return the seconds of a trial's parts."""
    nbytes = stored * model.parameters
    reached = gpu.rate * gpu.reached
    return {
        "read, disk": nbytes / rates.disk,
        "read, page cache": nbytes / rates.cache,
        "link": nbytes / gpu.link,
        "sums": sum(moved_per_parameter(stored).values()) * model.parameters / gpu.hbm,
        "prompts": model.per_token * tokens[1] / reached,
        "prompts, padded": model.per_token * tokens[0] / reached,
        "images": model.per_image * images / reached,
    }


def reckon(
    name: str, work: Path, *, images: int = 50_000, classes: int = 1000, shares: tuple[float, float] = (0.22, 0.08),
    rates: Rates | None = None, gpu: Gpu | None = None,
) -> list[str]:  # fmt: skip
    """Write down what a search over models of architecture `name` takes; `shares` are the parts of the images that a
    rejected trial sees with `exact` and with `sequential`. Markdown."""
    gpu, rates = gpu or Gpu(), rates or measure_rates(work)
    model, tokens = measure_model(name), prompt_tokens(name, classes)
    lines = [
        f"## A search over {name} on one {gpu.name}: arithmetic, not a run",
        "",
        f"Measured here ({machine()}; one thread): disk {rates.disk / 1e9:.2f} GB/s, page cache "
        f"{rates.cache / 1e9:.1f} GB/s, 16-bit ingredients added to a float32 sum in host memory "
        f"{rates.add / 1e9:.1f} GB/s. From the data sheet: memory {gpu.hbm / 1e12:.2f} TB/s, link "
        f"{gpu.link / 1e9:.0f} GB/s, {gpu.rate / 1e12:.0f} TFLOP/s dense bfloat16. Assumed: {gpu.reached:.0%} of the "
        "latter. No GPU was used.",
        "",
        f"{model.parameters / 1e9:.2f} G parameters; {model.per_image / 1e9:.0f} GFLOP an image, "
        f"{model.per_token * model.context / 1e9:.0f} a caption of {model.context} tokens; ImageNet's prompts are "
        f"{tokens[0] / 1e6:.2f} M tokens padded, {tokens[1] / 1e3:.0f} k in prefix trees.",
        "",
        "| resident on the device, GB | bfloat16 ingredients | float32 ingredients |",
        "|---|---|---|",
    ]
    half, full = resident(model, 2), resident(model, 4)
    lines += [f"| {label} | {half[label] / 1e9:.2f} | {full[label] / 1e9:.2f} |" for label in half]
    lines.append(f"| together, of {gpu.memory / 1e9:.0f} | {sum(half.values()) / 1e9:.1f} | "
                 f"{sum(full.values()) / 1e9:.1f} |")  # fmt: skip
    lines += ["", f"| a trial, {images:,} images | bfloat16 | float32 |", "|---|---|---|"]
    times = [trial_seconds(model, gpu, rates, stored, images, tokens) for stored in (2, 4)]
    moved = [
        [s * model.parameters / 1e9, sum(moved_per_parameter(s).values()) * model.parameters / 1e9] for s in (2, 4)
    ]
    rows: list[tuple[str, Callable[[int], float], str]] = [
        ("GB over the link", lambda i: moved[i][0], ".1f"),
        ("GB within the device's memory", lambda i: moved[i][1], ".0f"),
        ("s, the ingredient from the disk, at this machine's rate", lambda i: times[i]["read, disk"], ".2f"),
        ("s, or from the page cache", lambda i: times[i]["read, page cache"], ".2f"),
        ("s, over the link at the data sheet's rate", lambda i: times[i]["link"], ".2f"),
        ("s, sums and the live model", lambda i: times[i]["sums"], ".3f"),
        ("s, prompts in prefix trees", lambda i: times[i]["prompts"], ".1f"),
        ("s, prompts padded, as open_clip encodes them", lambda i: times[i]["prompts, padded"], ".1f"),
        ("s, all images", lambda i: times[i]["images"], ".0f"),
    ]
    lines += [f"| {label} | {get(0):{form}} | {get(1):{form}} |" for label, get, form in rows]
    lines += ["", *_whole(times[0], shares)]
    return lines


def _whole(t: dict[str, float], shares: tuple[float, float]) -> list[str]:
    """Say what a whole trial takes, with bfloat16 ingredients in the page cache."""
    fixed = t["read, page cache"] + t["link"] + t["sums"] + t["prompts"]
    exact, sequential = (fixed + share * t["images"] for share in shares)
    every = fixed + t["images"]
    return [
        f"One after the other, from the page cache: an accepted trial {every:.0f} s, a rejected one {exact:.0f} s with "
        f"`exact` ({shares[0]:.0%} of the images) and {sequential:.0f} s with `sequential` ({shares[1]:.0%}). All but "
        f"the images is {fixed:.1f} s, {t['sums']:.2f} s of it sums; accepting takes the ingredient once more, "
        f"{t['read, page cache'] + t['link']:.1f} s. From the disk an ingredient takes "
        f"{t['read, disk'] - t['read, page cache']:.1f} s more.",
    ]


def arithmetic(arguments: argparse.Namespace) -> list[str]:
    """Reckon a search over one architecture."""
    return reckon(arguments.model, arguments.work, images=arguments.images)


SUBJECT = Subject("arithmetic", __doc__, add_arguments, arithmetic, needs_work=True)
