"""Images that a search takes with and without guesses from averaged logits, and whether its soup is as good.

Several pools of small fine-tunes on Fashion-MNIST, drawn as recipes/sweep.yaml draws them. Each is searched greedily
with the exact rule, then with `--proxy`; the soups are compared image by image on images that neither trained nor
selected, by McNemar's exact test. Constants were chosen on pools of other seeds. Stopped, the same command goes on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.several_pools import add_pool_arguments, held_out_hits, make_pools
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pool_arguments(parser, 32)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05], help="of the images that guess")


def proxy(arguments: argparse.Namespace) -> list[str]:
    """Search every pool in each way, and compare."""
    task, pools = make_pools(arguments)
    runs = []
    for seed, refs in pools.items():
        title = f"pool {seed} of {arguments.ingredients}, shares {arguments.shares}"
        known = arguments.record.read(title)
        run = known[0] if known else compare(refs, task, arguments.work / f"searched-{seed}", arguments.shares)
        if not known:
            arguments.record.add(title, run)
        runs.append(run)
        print(f"  {title}: {run['ways']}", file=sys.stderr)
    return report(arguments, runs)


def compare(refs: list[Path], task: Path, directory: Path, shares: list[float]) -> dict[str, Any]:
    """Search one pool without guesses and with each share of the images; returns what each took and found."""
    import soupkit
    from soupkit.evaluation import EvaluationOptions
    from soupkit.evaluation.intervals import mcnemar

    cache = directory / "cache"
    options = EvaluationOptions(device="cpu", cache=cache, scores=False)
    ways: list[dict[str, Any]] = []
    plain: np.ndarray | None = None
    for share in (0.0, *shares):
        output = directory / f"soup-{share:g}"
        document = soupkit.search(refs, output, tasks=str(task), proxy=share, evaluation=options).document
        hits = held_out_hits(output, task, cache)
        plain = hits if plain is None else plain
        agreed = document.proxy
        ways.append(
            {
                "share": share,
                "images": document.images_scored,
                "trials": len(document.decisions) - 1,
                "members": len(document.selected),
                "selecting": document.score.value,
                "held_out": float(hits.mean()),
                "more": int((hits & ~plain).sum()),
                "less": int((plain & ~hits).sum()),
                "p": mcnemar(hits, plain),
                "rank": agreed.rank_correlation if agreed is not None else None,
                "pruned": agreed.pruned if agreed is not None else None,
            }
        )
    best, uniform = document.best_ingredient.value, document.uniform
    return {"ways": ways, "best": best, "uniform": uniform.value if uniform is not None else None}


def mcnemar_of(more: int, less: int) -> float:
    """Return p of McNemar's exact test, two-sided, for so many images that only one or only the other gets right."""
    from scipy.stats import binomtest

    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


def report(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> list[str]:
    """Return the table, and how many pools reach a third of the images for a soup that is as good."""
    import torch

    lines = [
        f"## Greedy search with averaged logits: {len(runs)} pools of {arguments.ingredients} ingredients",
        "",
        f"{machine()}; torch {torch.__version__}; float32. 5,000 images select, 20,000 others compare: soup, points "
        "of accuracy over the soup of the search without guesses, images that only one of them gets right, and p of "
        "McNemar's exact test. Images count the ingredients' own scores.",
        "",
        "| pool | share | images | of the exact search's | trials | pruned | members | selecting | held out | points | "
        "only this / only exact | p | rank correlation |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, run in zip(arguments.seeds, runs, strict=True):
        exact = run["ways"][0]
        for way in run["ways"]:
            share = f"{100 * way['share']:g} %" if way["share"] else "exact"
            rank = f"{way['rank']:.2f}" if way["rank"] is not None else ""
            cells = [
                seed, share, f"{way['images']:,}", f"{way['images'] / exact['images']:.2f}", way["trials"],
                way["pruned"] if way["pruned"] is not None else "", way["members"], f"{100 * way['selecting']:.2f}",
                f"{100 * way['held_out']:.2f}", f"{100 * (way['held_out'] - exact['held_out']):+.2f}",
                f"{way['more']} / {way['less']}", f"{way['p']:.2g}", rank,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append("")
    for i, share in enumerate(arguments.shares, 1):
        pairs = [(run["ways"][i], run["ways"][0]) for run in runs]
        cheap = [way["images"] <= exact["images"] / 3 for way, exact in pairs]
        good = [way["p"] > 0.05 or way["more"] > way["less"] for way, _ in pairs]
        more, less = (sum(way[name] for way, _ in pairs) for name in ("more", "less"))
        both = sum(c and g for c, g in zip(cheap, good, strict=True))
        lines.append(
            f"- {100 * share:g} % of the images: {sum(cheap)} of {len(runs)} pools with at most a third of the images, "
            f"{sum(good)} with a soup not worse (p > 0.05 or better), {both} with both; over all pools {more} images "
            f"gained and {less} lost (p = {mcnemar_of(more, less):.2g})"
        )
    return lines


SUBJECT = Subject("proxy", __doc__, add_arguments, proxy, keeps=True, needs_work=True)
