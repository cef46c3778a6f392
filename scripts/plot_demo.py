"""Draws the README's picture: the demo's accuracies with their intervals.

soupkit demo --json > demo.json && python scripts/plot_demo.py demo.json docs/demo.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def main(source: str, target: str) -> None:
    """Plot each model as a dot with its 95 % interval, the soup in colour."""
    scores = json.loads(Path(source).read_text())["scores"]
    plt.rcParams.update({"svg.hashsalt": "soupkit", "font.size": 11, "svg.fonttype": "path"})
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for y, score in enumerate(reversed(scores)):
        soup = score["ref"].endswith("soup")
        value, low, high = (100 * score[k] for k in ("value", "low", "high"))
        colour = "#d1495b" if soup else "#4a6fa5"
        axes.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=4)
        axes.annotate(f"{value:.1f}", (value, y), xytext=(0, 6), textcoords="offset points", ha="center", color=colour)
    axes.set_yticks(range(len(scores)), [Path(s["ref"]).name for s in reversed(scores)])
    axes.set_ylim(-0.6, len(scores) - 0.3)
    axes.set_xlabel(f"zero-shot accuracy on {scores[0]['n']} held-out digits, %, with 95 % intervals")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:3])
