"""A program in soupkit's functions, which pyright checks strictly; it is not run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import soupkit
from soupkit import EvaluationOptions, PushOptions, RunOptions, SearchOptions, SoupkitError, TrainOptions


class Pictures(Dataset[tuple[Tensor, int]]):
    """Two classes of grey."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, 8, 8), index / 4), int(index > 1)


def small(weights: Mapping[str, Tensor]) -> float:
    """A score: the smaller, the better."""
    return -float(sum(tensor.abs().sum() for tensor in weights.values()))


runs = [Path("runs/a"), "runs/b"]
merged = soupkit.merge(runs, "soups/mean", method="linear", weights=[1, 2], threads=2)
planned = soupkit.merge("runs/a", Path("soups/one"), options=RunOptions(dry_run=True), progress=True)
state: dict[str, Tensor] = soupkit.merge([nn.Linear(2, 2), nn.Linear(2, 2).state_dict()])
found = soupkit.search(runs, "soups/best", tasks="digits", strategy="swap", limit=20)
own = soupkit.search(runs, "soups/own", score=small, evaluation=EvaluationOptions(device="cpu"))
curve = soupkit.interpolate("runs/base", runs, tasks=["digits"], points=5)
scores = soupkit.evaluate(runs, ["digits", Path("data")], limit=100)
live = soupkit.evaluate(nn.Linear(1, 2), Pictures(), classnames=["dark", "light"], batch_size=2)
alike = soupkit.compare(runs, weights=True)
labelled = soupkit.classify("runs/a", [Path("picture.png")], ["a dog", "a cat"])
trained = soupkit.train("recipe.yaml", "out", settings=["a.lr=1e-4"], options=TrainOptions(workers=0))
page = soupkit.report(["scores.json"], "report.html")
repository = soupkit.publish("soups/best", "me/soup", options=PushOptions(license="mit", folder=Path("hub")))
done = soupkit.run_recipe("recipe.yaml", until="soup.best")

keywords = soupkit.merge(runs, "soups/mean", device="cpu", slab_bytes=1 << 20, sha256=True, rank=8)
decided = soupkit.search(runs, "soups/best", tasks="digits", orders=3, stopping="none", blocks=["visual.*"], fresh=True)
passed = soupkit.search(runs, "soups/best", tasks="digits", options=SearchOptions("greedy", orders=3))
line = soupkit.interpolate("runs/base", runs, tasks="digits", limit=20, precision="fp32")
short = soupkit.train("recipe.yaml", "out", cores=1, cache=Path("cache"))
public = soupkit.publish("soups/best", "me/soup", license="mit", folder="hub", scores="scores.json")

names: list[str] = [ingredient["ref"] for ingredient in merged.ingredients]
value: float = scores.scores[0].value
best_alpha: float | None = curve.best_alpha
gain: float = found.document.score.value - found.document.best_ingredient.value
loss: float | None = trained["a"].loss
share: float = labelled.probabilities[0][0]
outputs: list[Path] = [planned.output, own.output, page.output, keywords.output, decided.output, passed.output]
statuses: list[str] = [repository.status, public.status, short["a"].status, *(step.status for step in done.steps)]
print(scores.to_frame().sort_values("value"), live.to_dict(), alike.mergeable, names, value, best_alpha, gain, loss)
print(share, outputs, statuses, sorted(state), line.best_alpha)
try:
    soupkit.merge(runs, "soups/mean", method="unheard of")
except SoupkitError as error:
    print(error.what, error.where, error.hint)
