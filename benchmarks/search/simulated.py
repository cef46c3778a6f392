"""Count images per trial on pools that are tables of hits: what a rejected trial needs, what an order is worth.

Every image has a latent margin, normal with mean 1.05 and deviation 1.2; every ingredient adds noise of its own to it
(deviation 0.55) and a small bias (0.06). A soup's margin is the mean of its members'; an image is a hit where it is
above 0. The best ingredient then gets about 79 % right and the greedy soup about 81 %, as models of ImageNet do.

The sequential rule's constants were chosen on a pool of a seed below 10; what is reported comes from seed 100 on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.tools.commands import Subject
from soupkit.search.hit_score import hit_metric
from soupkit.search.stopping import open_rule

FIRST_SEED = 100
RULES = ("none", "exact", "sequential")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--ingredients", type=int, default=24)
    parser.add_argument("--images", type=int, default=50_000)


def simulated(arguments: argparse.Namespace) -> list[str]:
    """Count images per trial, looking after every batch of a CPU's size and of a GPU's."""
    return images_per_trial(arguments.pools, arguments.ingredients, arguments.images, (32, 512))


@dataclass(frozen=True)
class SimulatedPool:
    """One pool: `alone` are the ingredients' hits, bool [models, images]."""

    seed: int
    margin: np.ndarray
    own: np.ndarray
    bias: np.ndarray
    alone: np.ndarray

    def hits(self, members: Sequence[int]) -> np.ndarray:
        """Return the hits of a soup, bool [images]."""
        chosen = list(members)
        return self.margin + self.own[chosen].mean(axis=0) + self.bias[chosen].mean() > 0


def simulated_pool(seed: int, models: int, images: int) -> SimulatedPool:
    """Draw a pool."""
    generator = np.random.default_rng(seed)
    margin = generator.normal(1.05, 1.2, images)
    own, bias = generator.normal(0, 0.55, (models, images)), generator.normal(0, 0.06, models)
    return SimulatedPool(seed, margin, own, bias, margin + own + bias[:, None] > 0)


@dataclass
class Search:
    """What a greedy search of one pool took. `rejected` and `accepted` hold the shares of all images that those trials
    saw; `good` counts candidates that were no worse than the soup, `lost` those of them that were turned away."""

    rejected: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    good: int = 0
    lost: int = 0
    accuracy: float = 0.0
    members: tuple[int, ...] = ()


def search(pool: SimulatedPool, rule: str, batch: int, order: Sequence[int] | None = None) -> Search:
    """Search greedily by `rule`, looking after every `batch` images, in `order` (None: by all of the images)."""
    n = pool.alone.shape[1]
    if order is None:
        order = np.argsort(-pool.alone.sum(axis=1), kind="stable").tolist()
    share = pool.alone.mean(axis=0)
    metric = hit_metric(["acc1"], [np.zeros(n, np.int64)])
    soup, current, result = [order[0]], pool.alone[order[0]], Search()
    for candidate in order[1:]:
        hits = pool.hits([*soup, candidate])
        good = int(hits.sum()) >= int(current.sum())
        seed = (pool.seed, int(candidate))
        watch = open_rule(
            rule, current, np.minimum(share, 1 - share), metric, strict=False, seed=seed, pulls_to=pool.alone[candidate]
        )
        images, ended = 0, False
        for start in range(0, n, batch):
            part = watch.order[start : start + batch]
            images += len(part)
            if ended := watch.sees(part, hits[part]):
                break
        result.good += good
        result.lost += ended and good
        if good and not ended:
            soup, current = [*soup, candidate], hits
            result.accepted.append(images / n)
        else:
            result.rejected.append(images / n)
    result.accuracy, result.members = float(current.mean()), tuple(soup)
    return result


def images_per_trial(pools: int, models: int, images: int, batches: Sequence[int]) -> list[str]:
    """Count images per trial under each rule; Markdown."""
    drawn = [simulated_pool(FIRST_SEED + i, models, images) for i in range(pools)]
    lines = [
        f"## Images per trial: {pools} simulated pools of {models} ingredients, {images:,} images",
        "",
        "In per cent of all images: mean, and in brackets the least and largest mean of a pool. The last columns count",
        f"candidates as good as the soup, and those of them that were turned away. Seeds from {FIRST_SEED} on.",
        "",
        "| rule | looks after every | a rejected trial | all trials | trials and ingredients | as good | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        for batch in batches if rule != "none" else batches[:1]:
            results = [search(pool, rule, batch) for pool in drawn]
            rejected = [f.rejected for f in results]
            trials = [f.rejected + f.accepted for f in results]
            whole = [[(models + sum(t)) / (models + len(t))] for t in trials]
            cells = " | ".join(_spread(x) for x in (rejected, trials, whole))
            good, lost = sum(f.good for f in results), sum(f.lost for f in results)
            lines.append(f"| `{rule}` | {batch} | {cells} | {good} | {lost} |")
    accepted, rejected_count = (
        [len(getattr(search(pool, "exact", images), name)) for pool in drawn] for name in ("accepted", "rejected")
    )
    lines += ["", f"Of {models - 1} trials {_range(accepted)} are accepted and {_range(rejected_count)} rejected."]
    return [*lines, "", *_orders(drawn)]


def _orders(drawn: Sequence[SimulatedPool]) -> list[str]:
    """Say what the soup loses when its ingredients are sorted on a part of the images."""
    images = drawn[0].alone.shape[1]
    lines = [
        "### Sorted on a part of the images",
        "",
        "The order of the ingredients by their hits on some images drawn at random; decisions on all images.",
        "",
        "| images that sort | soup, points of accuracy against sorting on all | members |",
        "|---|---|---|",
    ]
    full = [search(pool, "exact", images) for pool in drawn]
    for share in (0.02, 0.05, 0.1, 0.25, 1.0):
        gains, sizes = [], []
        for pool, whole in zip(drawn, full, strict=True):
            some = np.random.default_rng([pool.seed, 1]).permutation(images)[: round(share * images)]
            order = np.argsort(-pool.alone[:, some].sum(axis=1), kind="stable").tolist()
            result = search(pool, "exact", images, order)
            gains.append(100 * (result.accuracy - whole.accuracy))
            sizes.append(len(result.members))
        gain = f"{np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})"
        lines.append(f"| {100 * share:.0f} % | {gain} | {_range(sizes)} |")
    return lines


def _spread(pools: Sequence[Sequence[float]]) -> str:
    """Write the mean over the pools' trials, and the least and largest mean of a pool."""
    means = [100 * float(np.mean(values)) for values in pools if len(values)]
    every = [value for values in pools for value in values]
    return f"{100 * float(np.mean(every)):.1f} ({min(means):.1f} to {max(means):.1f})"


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}"


SUBJECT = Subject("simulated", __doc__, add_arguments, simulated)
