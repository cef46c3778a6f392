"""The prefix tree at more and more classes, with parts of the other two ways, which cost each class the same.

The classifier of `classifier`, towards all of ImageNet's classes. Stopped at any moment, the same command with `--work`
goes on with the next size.
"""

import argparse
import statistics
from collections.abc import Callable

from benchmarks.evaluate.three_ways import TOGETHER, open_maker, setting, timed_as
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import spread
from benchmarks.tools.rounds import Round, add_disturbance, column, run_rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, nargs="+", default=[50, 100, 200, 500, 1000], help="sizes to measure")
    add_disturbance(parser)


def growth(arguments: argparse.Namespace) -> list[str]:
    """Time the prefix tree at several numbers of classes, with parts of the other two ways before and after."""
    from open_clip import IMAGENET_CLASSNAMES

    maker = open_maker()

    def measured(title: str, work: Callable[[], Round]) -> Round:
        return run_rounds(f"growth, {title}", 1, lambda _: work(), arguments.record, arguments.disturbance)[0]

    def part(first: int) -> Round:
        """Seconds of a class."""
        names = IMAGENET_CLASSNAMES[first : first + TOGETHER]
        theirs, _ = timed_as(lambda: maker.open_clip(names), "open_clip", 1 / len(names))
        cut, _ = timed_as(lambda: maker.cut(names), "cut", 1 / len(names))
        return theirs | cut

    parts = [measured("before", lambda: part(0))]
    trees = {
        n: measured(f"{n} classes", lambda n=n: timed_as(lambda: maker.tree(IMAGENET_CLASSNAMES[:n]), "tree")[0])  # type: ignore[misc]
        for n in sorted(arguments.classes)
    }
    parts.append(measured("after", lambda: part(500)))
    lines = [
        "## Zero-shot classifier towards ImageNet's 1000 classes: ViT-B-32, 80 templates, float32",
        "",
        f"{setting()}.",
        f"The tree is timed whole, once at each size. open_clip makes {TOGETHER} classes at a time and each time does",
        "the same, so its time is linear in the classes, as is that of prompts that are cut alone: of both",
        f"{TOGETHER} classes were timed before the trees and {TOGETHER} after them, and multiplied up; a class took",
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


SUBJECT = Subject("growth", __doc__, add_arguments, growth, keeps=True)
