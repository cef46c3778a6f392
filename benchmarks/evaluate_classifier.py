"""Zero-shot classifiers of ImageNet's 80 templates: how long three ways of making them take, and how that grows.

ViT-B-32 with random weights, float32 on the CPU: the function of open_clip, a variant that only drops equal prompts and
cuts them to their length, and soupkit's prefix tree.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import machine, spread
from benchmarks.rounds import Round, column, ratios, run_rounds

RECORD = "rounds-evaluate.jsonl"
COUNTS = (50, 100, 200, 500, 1000)  # classes
_TOGETHER = 10  # classes, open_clip's default


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
                self.model, self.tokenizer, names, OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=_TOGETHER
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


def classifier(arguments: argparse.Namespace) -> list[str]:
    """Time the three ways of making the classifier of some classes."""
    from open_clip import IMAGENET_CLASSNAMES

    maker, names = open_maker(), IMAGENET_CLASSNAMES[: arguments.classes]
    slices = [range(i, min(i + _TOGETHER, len(names))) for i in range(0, len(names), _TOGETHER)]

    def one_round(number: int) -> Round:
        """Make the whole classifier twice, and with open_clip the part of it whose turn it is."""
        part = slices[number % len(slices)]
        theirs = [names[i] for i in part]
        figures, tree = timed(lambda: maker.tree(names), "tree")
        taken, reference = timed(lambda: maker.open_clip(theirs), "open_clip", len(names) / len(theirs))
        figures |= taken
        taken, cut = timed(lambda: maker.cut(names), "cut")
        figures |= taken
        for name, weights in (("tree", tree), ("cut", cut)):
            figures[f"{name} differs by"] = float((weights[:, part.start : part.stop] - reference).abs().max())
        return figures

    record = arguments.work / RECORD if arguments.work else None
    rounds = run_rounds(f"classifier {len(names)}", arguments.rounds, one_round, record, arguments.disturbance)
    lines = [
        f"## Zero-shot classifier: ViT-B-32, {len(names)} classes x 80 templates, float32",
        "",
        f"{_versions()}; {len(rounds)} rounds.",
        f"open_clip makes {_TOGETHER} classes at a time and each time does the same; a round times one such part, the",
        f"next round the next, and counts it {len(slices)} times.",
        "",
        "| | seconds | open_clip's / this | largest difference from open_clip's weights |",
        "|---|---|---|---|",
    ]
    labels = {"open_clip": "open_clip", "cut": "distinct prompts, cut to their length", "tree": "soupkit, prefix tree"}
    for name, label in labels.items():
        difference = max((r.get(f"{name} differs by", 0.0) for r in rounds), default=0.0)
        row = [label, spread(column(rounds, name)), spread(ratios(rounds, "open_clip", name)), f"{difference:.1e}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def growth(arguments: argparse.Namespace) -> list[str]:
    """Time the prefix tree at several numbers of classes, with parts of the other two ways before and after."""
    from open_clip import IMAGENET_CLASSNAMES

    maker, record = open_maker(), arguments.work / RECORD if arguments.work else None

    def measured(title: str, work: Callable[[], Round]) -> Round:
        return run_rounds(f"growth, {title}", 1, lambda _: work(), record, arguments.disturbance)[0]

    def part(first: int) -> Round:
        """Seconds of a class."""
        names = IMAGENET_CLASSNAMES[first : first + _TOGETHER]
        theirs, _ = timed(lambda: maker.open_clip(names), "open_clip", 1 / len(names))
        cut, _ = timed(lambda: maker.cut(names), "cut", 1 / len(names))
        return theirs | cut

    parts = [measured("before", lambda: part(0))]
    trees = {
        n: measured(f"{n} classes", lambda n=n: timed(lambda: maker.tree(IMAGENET_CLASSNAMES[:n]), "tree")[0])  # type: ignore[misc]
        for n in sorted(arguments.growth or COUNTS)
    }
    parts.append(measured("after", lambda: part(500)))
    lines = [
        "## Zero-shot classifier towards ImageNet's 1000 classes: ViT-B-32, 80 templates, float32",
        "",
        f"{_versions()}.",
        f"The tree is timed whole, once at each size. open_clip makes {_TOGETHER} classes at a time and each time does",
        "the same, so its time is linear in the classes, as is that of prompts that are cut alone: of both",
        f"{_TOGETHER} classes were timed before the trees and {_TOGETHER} after them, and multiplied up; a class took",
        f"{spread(column(parts, 'open_clip'))} s and {spread(column(parts, 'cut'))} s.",
        "",
        "| classes | tokens, padded | tokens, tree | padded / tree | open_clip, s | cut, s | soupkit, s "
        "| open_clip / soupkit | cut / soupkit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for count, figures in trees.items():
        padded, needed = maker.tokens(count)
        theirs, cut = (statistics.mean(column(parts, name)) * count for name in ("open_clip", "cut"))
        row = [f"{count:,}", f"{padded:,}", f"{needed:,}", f"{padded / needed:.1f}", f"{theirs:.0f}", f"{cut:.1f}"]
        row += [f"{figures['tree']:.1f}"]
        row += [spread([p[name] * count / figures["tree"] for p in parts]) for name in ("open_clip", "cut")]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def timed(work: Callable[[], Tensor], name: str, times: float = 1.0) -> tuple[Round, Tensor]:
    """Return the seconds that `work` takes, multiplied, under `name`; and what it returns."""
    started = time.perf_counter()
    result = work()
    return {name: (time.perf_counter() - started) * times}, result


def _versions() -> str:
    import open_clip

    return f"{machine()}; torch {torch.__version__}, open_clip {open_clip.__version__}"
