"""Draws the README's picture, light and dark: the demo's accuracies with their intervals.

soupkit demo --json > demo.json && python scripts/plot_demo.py demo.json docs
"""

import json
import sys
from pathlib import Path

from soupkit.publishing import plot_scores
from soupkit.publishing.reports.style import DARK, Style


def main(source: str, directory: str) -> None:
    scores = json.loads(Path(source).read_text())["scores"]
    plot_scores(scores, Path(directory) / "demo.svg")
    plot_scores(scores, Path(directory) / "demo-dark.svg", style=Style(DARK))


if __name__ == "__main__":
    main(*sys.argv[1:3])
