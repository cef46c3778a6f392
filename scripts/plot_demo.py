"""Draws the README's picture: the demo's accuracies with their intervals.

soupkit demo --json > demo.json && python scripts/plot_demo.py demo.json docs/demo.svg
"""

import json
import sys
from pathlib import Path

from soupkit.publishing import plot_scores


def main(source: str, target: str) -> None:
    plot_scores(json.loads(Path(source).read_text())["scores"], Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:3])
