"""Draws figure 1 of the model-soups paper again, from the results published with it, and says what a greedy soup tries.

python examples/redraw_soup_paper.py model_soups/ scatter.png
(the *_results.jsonl of github.com/mlfoundations/model-soups)
"""

import sys
from pathlib import Path
from statistics import fmean

from soupkit.publishing import plot_scatter, read_results
from soupkit.publishing.reports.plots import Point

SHIFTS = ("ImageNetV2", "ImageNetR", "ImageNetSketch", "ObjectNet", "ImageNetA")


def main(source: str, target: str) -> None:
    scores: dict[str, dict[str, float]] = {}
    for path in sorted(Path(source).glob("*_results.jsonl")):
        for score in read_results(path):
            scores.setdefault(score.ref, {})[score.task] = score.value
    points = [
        Point(name, of["ImageNet"], fmean(of[shift] for shift in SHIFTS), name.removesuffix("_soup"))
        if name.endswith("_soup")
        else Point(name, of["ImageNet"], fmean(of[shift] for shift in SHIFTS))
        for name, of in scores.items()
    ]
    plot_scatter(points, Path(target), x="ImageNet", y="mean of five shifts")
    # A greedy soup tries its ingredients in the order of their held-out accuracy, here that on ImageNet2p.
    tried = sorted((n for n in scores if not n.endswith("_soup")), key=lambda n: -scores[n]["ImageNet2p"])
    print(f"{len(tried)} fine-tuned models; a greedy soup tries {', '.join(tried[:5])} first")
    for name in (tried[0], "uniform_soup", "greedy_soup"):
        shifts = fmean(scores[name][shift] for shift in SHIFTS)
        print(f"{name:14} ImageNet {100 * scores[name]['ImageNet']:.2f}, mean of the shifts {100 * shifts:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
