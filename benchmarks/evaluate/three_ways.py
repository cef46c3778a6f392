"""Three ways of making a zero-shot classifier of ImageNet's 80 templates, with ViT-B-32, float32 on the CPU.

The function of open_clip, a variant that only drops equal prompts and cuts them to their length, and soupkit's prefix
tree. Weights are random.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tools.machine import machine
from benchmarks.tools.rounds import Round

TOGETHER = 10  # classes, open_clip's default


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the classifier of some classes, float32 [embed, classes], in any of the three ways."""

    model: nn.Module
    tokenizer: Any

    def tree(self, names: Sequence[str]) -> Tensor:
        """The way of soupkit."""
        from soupkit.evaluation.classifier import zero_shot_classifier
        from soupkit.evaluation.prompts import PromptEncoder

        return zero_shot_classifier(PromptEncoder(self.model, self.prompts(names), torch.device("cpu")), len(names))

    def cut(self, names: Sequence[str]) -> Tensor:
        """Distinct prompts, cut to their length."""
        prompts = self.prompts(names)
        return cut_classifier(self.model, prompts.tokens(), prompts.rows, len(names))

    def open_clip(self, names: Sequence[str]) -> Tensor:
        """The way of open_clip."""
        from open_clip import OPENAI_IMAGENET_TEMPLATES, build_zero_shot_classifier

        with torch.inference_mode():
            return build_zero_shot_classifier(
                self.model, self.tokenizer, names, OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=TOGETHER
            )

    def prompts(self, names: Sequence[str]) -> Any:
        """Return soupkit's prompts of the classes `names`."""
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        from soupkit.evaluation.prompts import fill_templates, tokenize

        return tokenize(self.tokenizer, fill_templates(names, [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES], ""))

    def tokens(self, count: int) -> tuple[int, int]:
        """Return how many tokens the first `count` classes take: as open_clip pads them, and in prefix trees."""
        from open_clip import IMAGENET_CLASSNAMES

        from soupkit.evaluation.prompts import PromptEncoder

        prompts = self.prompts(IMAGENET_CLASSNAMES[:count])
        encoder = PromptEncoder(self.model, prompts, torch.device("cpu"), uses_tree=True)
        return len(prompts.rows) * prompts.context, encoder.tokens_computed


def open_maker() -> Maker:
    """Return what makes classifiers, after each way has made one: the first call pays for what later ones find."""
    import open_clip

    torch.manual_seed(0)
    maker = Maker(open_clip.create_model("ViT-B-32").eval(), open_clip.get_tokenizer("ViT-B-32"))
    for work in (maker.tree, maker.cut, maker.open_clip):
        work(["tench"])
    return maker


@torch.inference_mode()
def cut_classifier(model: nn.Module, tokens: Tensor, rows: Tensor, classes: int) -> Tensor:
    """The classifier of distinct prompts, batched by length and cut at the longest of a batch: no tree."""
    lengths = tokens.argmax(dim=1) + 1
    order = lengths.argsort()
    parts = []
    text: nn.Module = model
    for part in order.split(256):
        n = int(lengths[part].max())
        x = text.token_embedding(tokens[part, :n]) + text.positional_embedding[:n]  # type: ignore[operator, index]
        x = text.transformer(x, attn_mask=text.attn_mask[:n, :n])  # type: ignore[operator, index]
        x = text.ln_final(x)[torch.arange(len(part)), lengths[part] - 1] @ text.text_projection  # type: ignore[operator]
        parts.append(torch.nn.functional.normalize(x, dim=-1))
    features = torch.empty(len(tokens), parts[0].shape[1])
    features[order] = torch.cat(parts)
    means = features[rows].view(classes, -1, features.shape[1]).mean(dim=1)
    return torch.nn.functional.normalize(means, dim=-1).T


def timed_as(work: Callable[[], Tensor], name: str, times: float = 1.0) -> tuple[Round, Tensor]:
    """Return the seconds that `work` takes, multiplied, under `name`; and what it returns."""
    started = time.perf_counter()
    result = work()
    return {name: (time.perf_counter() - started) * times}, result


def setting() -> str:
    """Name the machine and the versions."""
    import open_clip

    return f"{machine()}; torch {torch.__version__}, open_clip {open_clip.__version__}"
