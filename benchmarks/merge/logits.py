"""Does a soup of language models open in transformers, and compute what the mean of their weights does?

Merges three synthetic models, opens the soup with AutoModelForCausalLM, and compares its logits, computed in float32,
with those of the mean of the weights taken in float64: as it is, and rounded to the soup's bfloat16, which no soup in
bfloat16 can be nearer than. One model is held at a time, in float32.
"""

import argparse
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.tools.commands import Subject
from benchmarks.tools.language_models import SIZES, make_language_models
from soupkit.merging import merge

_COUNT = 3
_TOKENS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("size", choices=SIZES, help="parameters of the model")


def tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a folder's shards."""
    for shard in sorted(path.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)


def mean_of(inputs: list[Path], *, rounded: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the mean of the inputs' tensors, taken in float64, as it is or `rounded` to bfloat16; in float32."""
    for (name, first), *others in zip(*map(tensors_of, inputs), strict=True):
        mean = sum((other.double() for _, other in others), first.double()) / len(inputs)
        yield name, mean.bfloat16().float() if rounded else mean.float()


@torch.inference_mode()
def logits_of(path: Path, tensors: Iterator[tuple[str, Tensor]] | None = None) -> Tensor:
    """Return the logits, in float32, of the model in `path` as transformers opens it, or of `tensors` in its place."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if tensors is not None:
        own = dict(model.named_parameters())
        for name, value in tensors:
            own[name].copy_(value)
    tokens = torch.arange(_TOKENS)[None] * 7 % model.config.vocab_size
    logits = model(tokens).logits.clone()
    del model
    gc.collect()
    return logits


def logits(arguments: argparse.Namespace) -> list[str]:
    """Merge, open and compare."""
    inputs = make_language_models(arguments.size, _COUNT, arguments.work)
    soup = arguments.work / "soup"
    shutil.rmtree(soup, ignore_errors=True)
    merge(inputs, soup)
    exact = logits_of(inputs[0], mean_of(inputs, rounded=False))
    nearest = logits_of(inputs[0], mean_of(inputs, rounded=True))
    ours = logits_of(soup)
    shutil.rmtree(soup)
    scale = float(exact.abs().max())

    def apart(one: Tensor, other: Tensor) -> str:
        return f"{float((one - other).abs().max()) / scale:.1e}"

    return [
        f"## Logits of a soup of {_COUNT} language models ({arguments.size}), beside those of the mean in float64",
        "",
        f"Largest difference, relative to the largest logit, over {_TOKENS} tokens:",
        "",
        "| | from the mean in float64 | from that mean in bfloat16 |",
        "|---|---|---|",
        f"| soupkit's soup, opened by transformers | {apart(ours, exact)} | {apart(ours, nearest)} |",
        f"| the mean in bfloat16 | {apart(nearest, exact)} | 0 |",
    ]


SUBJECT = Subject("logits", __doc__, add_arguments, logits, needs_work=True)
