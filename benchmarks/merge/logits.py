"""Does a soup of language models open in transformers, and compute what the mean of their weights does?

Merges three synthetic models, opens the soup with AutoModelForCausalLM, and compares its logits, computed in float32,
with those of the mean of the weights taken in float64: as it is, and rounded to the soup's bfloat16, which no soup in
bfloat16 can be nearer than. One model is held at a time, in bfloat16; the mean is made module by module.
"""

import argparse
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def mean_of(inputs: list[Path], *, rounded: bool) -> Callable[[str], Tensor]:
    """Return the mean of the inputs' tensors by their names, taken in float64, as it is or `rounded` to bfloat16."""
    files = [{name: f for shard in sorted(path.glob("*.safetensors")) for f, name in _names(shard)} for path in inputs]

    def mean(name: str) -> Tensor:
        first, *others = (file[name].get_tensor(name) for file in files)
        total = first.double()
        for other in others:
            total += other
        total /= len(inputs)
        return total.bfloat16() if rounded else total

    return mean


def _names(shard: Path) -> Iterator[tuple[Any, str]]:
    file = safe_open(shard, framework="pt")
    for name in file.keys():  # noqa: SIM118 - not a mapping
        yield file, name


@torch.inference_mode()
def logits_of(path: Path, weights: Callable[[str], Tensor] | None = None) -> Tensor:
    """Return the logits, computed in float32, of the model in `path` as transformers opens it, in bfloat16; or with the
    `weights` of a name, in float32, in place of its own. Each module has weights in float32 only while it works."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # tied ones by their first name
    kept: dict[int, Tensor] = {}

    def widen(module: torch.nn.Module, _: object) -> None:
        for parameter in module.parameters(recurse=False):
            kept[id(parameter)] = parameter.data
            own = parameter.data if weights is None else weights(names[id(parameter)])
            parameter.data = own.float()

    def narrow(module: torch.nn.Module, *_: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = kept.pop(id(parameter))

    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)
    tokens = torch.arange(_TOKENS)[None] * 7 % model.config.vocab_size
    logits = model(tokens).logits.clone()
    assert logits.dtype == torch.float32
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
