"""What folding the normalisation into the first convolution could save at most: a batch of ViT-B-32 on its way."""

import argparse

import torch

from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)


def normalisation(arguments: argparse.Namespace) -> list[str]:
    """Time the steps of a batch of 32 images."""
    import open_clip

    from soupkit.evaluation.image_pass import Pass, normalise, scale_and_shift

    model = open_clip.create_model("ViT-B-32").eval()
    stored = torch.randint(0, 256, (32, 224, 224 * 3), dtype=torch.uint8)
    x = torch.zeros(32, 224, 224 * 3)
    how = Pass(torch.device("cpu"), torch.float32, 32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    scale, shift = scale_and_shift(how, 224)

    def prepare() -> None:
        normalise(x, stored, scale, shift)

    @torch.inference_mode()
    def forward() -> None:
        model.encode_image(x.view(32, 224, 224, 3).permute(0, 3, 1, 2))

    def convert() -> None:
        x.copy_(stored)  # what is left of it when it is folded

    ways = {"to float32 and normalise": prepare, "to float32 alone": convert, "the image tower": forward}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, work in ways.items():
            milliseconds[name].append(1e3 * timed(work))
    lines = ["## Normalisation: 32 images of 224 px, ViT-B-32, float32", "", machine(), ""]
    lines += ["| | milliseconds |", "|---|---|"]
    return lines + [f"| {name} | {spread(values[1:])} |" for name, values in milliseconds.items()]


SUBJECT = Subject("normalisation", __doc__, add_arguments, normalisation)
