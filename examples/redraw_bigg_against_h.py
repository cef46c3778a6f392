"""Draws ViT-bigG-14 against ViT-H-14, task by task, from the table of results that open_clip publishes.

python examples/redraw_bigg_against_h.py openclip_results.csv differences.png
"""

import sys
from pathlib import Path

from soupkit.publishing import plot_differences, read_results

FIRST, SECOND = "ViT-bigG-14/laion2b_s39b_b160k", "ViT-H-14/laion2b_s32b_b79k"


def main(source: str, target: str) -> None:
    scores: dict[str, dict[str, float]] = {FIRST: {}, SECOND: {}}
    for score in read_results(Path(source)):
        if score.ref in scores:
            scores[score.ref][score.task] = score.value
    gains = {task: value - scores[SECOND][task] for task, value in scores[FIRST].items()}
    plot_differences(gains, Path(target), first="ViT-bigG-14", second="ViT-H-14")
    better = sum(gain > 0 for gain in gains.values())
    print(f"{FIRST} is better on {better} of {len(gains)} tasks, by {100 * gains['ImageNet 1k']:.2f} on ImageNet")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
