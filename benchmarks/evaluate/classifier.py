"""A zero-shot classifier of ImageNet's first classes in its 80 templates: three ways of making it, side by side.

ViT-B-32 with random weights, float32 on the CPU: the function of open_clip, a variant that only drops equal prompts and
cuts them to their length, and soupkit's prefix tree. Stopped at any moment, the same command with `--work` goes on with
the next round.
"""

import argparse

from benchmarks.evaluate.three_ways import TOGETHER, open_maker, setting, timed_as
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import spread
from benchmarks.tools.rounds import Round, add_round_arguments, column, ratios, run_rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, default=50)
    add_round_arguments(parser)


def classifier(arguments: argparse.Namespace) -> list[str]:
    """Time the three ways of making the classifier of some classes."""
    from open_clip import IMAGENET_CLASSNAMES

    maker, names = open_maker(), IMAGENET_CLASSNAMES[: arguments.classes]
    slices = [range(i, min(i + TOGETHER, len(names))) for i in range(0, len(names), TOGETHER)]

    def one_round(number: int) -> Round:
        """Make the whole classifier twice, and with open_clip the part of it whose turn it is."""
        part = slices[number % len(slices)]
        theirs = [names[i] for i in part]
        figures, tree = timed_as(lambda: maker.tree(names), "tree")
        taken, reference = timed_as(lambda: maker.open_clip(theirs), "open_clip", len(names) / len(theirs))
        figures |= taken
        taken, cut = timed_as(lambda: maker.cut(names), "cut")
        figures |= taken
        for name, weights in (("tree", tree), ("cut", cut)):
            figures[f"{name} differs by"] = float((weights[:, part.start : part.stop] - reference).abs().max())
        return figures

    title = f"classifier {len(names)}"
    rounds = run_rounds(title, arguments.rounds, one_round, arguments.record, arguments.disturbance)
    lines = [
        f"## Zero-shot classifier: ViT-B-32, {len(names)} classes x 80 templates, float32",
        "",
        f"{setting()}; {len(rounds)} rounds.",
        f"open_clip makes {TOGETHER} classes at a time and each time does the same; a round times one such part, the",
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


SUBJECT = Subject("classifier", __doc__, add_arguments, classifier, keeps=True)
