"""Whole optimizer steps of a small model, soupkit's and those of open_clip's own loop, on batches in memory.

open_clip's loop is `train_one_epoch` of open_clip_train, which comes with open_clip_torch and so needs no environment
of its own. Both train the same model with AdamW in float32 and clip the gradient.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.tools.clock import CLOCKS, timed
from benchmarks.tools.machine import machine, spread

TOKENS = 16
VISION = {"image_size": 32, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": TOKENS, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both comparisons of steps ask for."""
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="samples")
    parser.add_argument("--width", type=int, default=1024, help="of the features")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor with OMP_NUM_THREADS=1")


def small_model(width: int) -> nn.Module:
    """Return the model that both train, with random weights; features of `width`."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    return CLIP(width, dict(VISION), dict(TEXT), output_dict=True).train()


def batches(size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return `count` batches of random images, float32 [size, 3, 32, 32], and tokens, int64 [size, 16]."""
    generator = torch.Generator().manual_seed(0)
    image = VISION["image_size"]
    return [
        (
            torch.randn(size, 3, image, image, generator=generator),
            torch.randint(1, TEXT["vocab_size"], (size, TOKENS), generator=generator),
        )
        for _ in range(count)
    ]


class Loader:
    """Batches in memory as open_clip's loop wants them."""

    def __init__(self, items: list[tuple[Tensor, Tensor]]):
        self.dataloader, self.items = self, items
        self.num_batches, self.num_samples = len(items), sum(len(images) for images, _ in items)

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.items)


def compare(
    size: int, width: int, pieces: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Return seconds per optimizer step, of open_clip's loop and of soupkit's step, round by round."""
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    from soupkit.training.parallel import clip_gradients
    from soupkit.training.step import contrastive_step

    [(images, texts)] = batches(size, 1)
    micro = size // pieces
    loader = Loader(list(zip(images.split(micro), texts.split(micro), strict=True)))
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=pieces, skip_scheduler=True, grad_clip_norm=1.0,
        log_every_n_steps=1, world_size=1, rank=0, local_rank=0, log_local=False, horovod=False, wandb=False,
        batch_size=micro,
    )  # fmt: skip
    models = [small_model(width), small_model(width)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4) for model in models]

    def theirs() -> None:
        train_one_epoch(models[0], {"train": loader}, ClipLoss(), 0, optimizers[0], None, None, None, args)

    def mine() -> None:
        contrastive_step(models[1], images, texts, loss="clip", micro_batch=micro).loss.item()
        clip_gradients(models[1], 1.0).item()
        optimizers[1].step()

    theirs()
    mine()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # Adam's first step has the size of the learning rate, whatever the gradient: two at most apart.
        assert (a - b).abs().max() <= 2.1e-4, "the two do not train the same model"
    their_seconds: list[float] = []
    my_seconds: list[float] = []
    turns = [(theirs, their_seconds), (mine, my_seconds)]
    for i in range(rounds):
        for work, seconds in turns if i % 2 == 0 else turns[::-1]:
            seconds.append(timed(work, clock))
    return their_seconds, my_seconds


def table(arguments: argparse.Namespace, title: str, label: str, pieces: int) -> list[str]:
    """Compare whole steps of each size over so many `pieces`, micro-batches; Markdown."""
    lines = [
        title,
        "",
        f"{machine()}; torch {torch.__version__}; {arguments.rounds} rounds; ViT {VISION}, text {TEXT}, "
        f"features of width {arguments.width}; in memory, AdamW, float32; {torch.get_num_threads()} threads, "
        f"by the {arguments.clock} clock",
        "",
        f"| batch | {label}, samples/s | soupkit, samples/s | soupkit / open_clip |",
        "|---|---|---|---|",
    ]
    for size in arguments.batches:
        theirs, mine = compare(size, arguments.width, pieces, arguments.rounds, CLOCKS[arguments.clock])
        ratios = [a / b for a, b in zip(theirs, mine, strict=True)]
        rates = [spread([size / second for second in seconds]) for seconds in (theirs, mine)]
        lines.append(f"| {size:,} | {rates[0]} | {rates[1]} | {spread(ratios)} |")
        print(lines[-1], file=sys.stderr)
    return lines
