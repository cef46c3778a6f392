"""Documents as the commands write them, small and made up."""

from typing import Any

import pytest


def score(ref: str, value: float, task: str = "digits", split: str = "val", n: int = 500) -> dict[str, Any]:
    return {
        "ref": ref, "fingerprint": "xxh3:" + "0" * 32, "task": task, "split": split, "metric": "acc1", "value": value,
        "n": n, "low": value - 0.02, "high": value + 0.02, "metrics": {"acc1": value, "acc5": None},
    }  # fmt: skip


@pytest.fixture
def search() -> dict[str, Any]:
    """A greedy search over six: two additions kept, one trial given up before all images were scored."""
    refs = [f"runs/{c}" for c in "abcdef"]
    values = [0.91, 0.90, 0.89, 0.885, 0.88, 0.84]
    trials = [("start", 0.91, True), ("add", 0.92, True), ("add", 0.925, True), ("add", 0.915, False),
              ("add", None, False), ("add", 0.905, False)]  # fmt: skip
    decisions = [
        {
            "n": i, "action": action, "ref": refs[i], "soup": refs[: min(i, 2) + 1], "value": value,
            "low": None if value is None else value - 0.02, "high": None if value is None else value + 0.02,
            "hits": None if value is None else int(500 * value), "images_scored": 500, "images": 500,
            "decision": "accepted" if kept else "rejected",
        }
        for i, (action, value, kept) in enumerate(trials)
    ]  # fmt: skip
    decisions[4] |= {"hits": 170, "images_scored": 200, "images": 200}
    return {
        "schema": 1, "soupkit": "0.1.0", "strategy": "greedy", "stopping": "none", "accept": "not-worse",
        "ingredients": [score(r, v) for r, v in zip(refs, values, strict=True)], "decisions": decisions,
        "selected": refs[:3], "score": score("soups/greedy", 0.925), "best_ingredient": score("runs/a", 0.91),
        "uniform": score("uniform", 0.9), "images_scored": 2700, "images_full": 3000,
        "report": [score("soups/greedy", 0.93, split="test")], "optimistic": False, "why": None,
    }  # fmt: skip


@pytest.fixture
def interpolation() -> dict[str, Any]:
    points = [(0.0, 0.80, 0.70), (0.25, 0.86, 0.72), (0.5, 0.90, 0.71), (0.75, 0.91, 0.66), (1.0, 0.905, 0.6)]
    return {
        "schema": 1, "command": "interpolate", "base": "runs/base", "refs": ["runs/a"], "best_alpha": 0.75,
        "task": "digits:val",
        "points": [
            {"alpha": a, "scores": [score(f"alpha={a}", v), score(f"alpha={a}", w, "noise", "test")]}
            for a, v, w in points
        ],
    }  # fmt: skip
