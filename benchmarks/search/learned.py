"""Mixing weights learned by gradient beside those that CMA-ES finds, on about the same budget of images.

Several pools of small fine-tunes on Fashion-MNIST. An image that the gradient saw counts three times, for its way back
costs about two ways forth. The soups are compared on images that neither trained nor selected, by McNemar's exact test.
Stopped, the same command goes on.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.search.several_pools import add_pool_arguments, held_out_hits, make_pools
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine

_FORTH_AND_BACK = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pool_arguments(parser, 32)
    parser.add_argument("--of", type=int, default=8, help="ingredients of each pool that are searched among")
    parser.add_argument("--epochs", type=int, default=3)


def learned(arguments: argparse.Namespace) -> list[str]:
    """Search every pool in each way, and compare."""
    task, pools = make_pools(arguments)
    # What learning costs in passes: its epochs, the uniform soup, and the mixture after each epoch.
    budget = _FORTH_AND_BACK * arguments.epochs + 1 + arguments.epochs
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"strategy": "greedy"},
        f"weights, {budget} mixtures": {"strategy": "weights", "budget": budget},
        "learned per model": {"strategy": "learned", "epochs": arguments.epochs},
        "learned per layer": {"strategy": "learned", "epochs": arguments.epochs, "learned_per": "layer"},
    }
    runs = []
    for seed, refs in pools.items():
        title = f"pool {seed}: {arguments.of} of {arguments.ingredients}, {arguments.epochs} epochs"
        known = arguments.record.read(title)
        directory = arguments.work / f"learned-{seed}"
        run = known[0] if known else compare(refs[: arguments.of], task, directory, ways)
        if not known:
            arguments.record.add(title, run)
        runs.append(run)
        print(f"  {title}: {run}", file=sys.stderr)
    return report(arguments, runs)


def compare(refs: list[Path], task: Path, directory: Path, ways: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Search one pool in each way; returns what each took and found, with CMA-ES as what is compared with."""
    import soupkit
    from soupkit.evaluation import EvaluationOptions
    from soupkit.evaluation.intervals import mcnemar

    cache = directory / "cache"
    options = EvaluationOptions(device="cpu", cache=cache, scores=False)
    found: dict[str, dict[str, Any]] = {}
    hits = {}
    for i, (name, given) in enumerate(ways.items()):
        started = time.process_time()
        document = soupkit.search(
            refs, directory / f"soup{i}", tasks=str(task), evaluation=options, fresh=True, **given
        ).document
        hits[name] = held_out_hits(directory / f"soup{i}", task, cache)
        differentiated = document.facts.get("learned", {}).get("images_differentiated", 0)
        found[name] = {
            "images": (document.images_scored or 0) + _FORTH_AND_BACK * differentiated,
            "selecting": document.score.value,
            "held_out": float(hits[name].mean()),
            "seconds": time.process_time() - started,
        }
    compared = next(name for name in ways if name.startswith("weights"))
    for name, run in found.items():
        run["more"] = int((hits[name] & ~hits[compared]).sum())
        run["less"] = int((hits[compared] & ~hits[name]).sum())
        run["p"] = mcnemar(hits[name], hits[compared])
    return found


def report(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> list[str]:
    """Return the table."""
    import torch

    lines = [
        f"## Learned mixing weights beside CMA-ES: {len(runs)} pools, {arguments.of} ingredients each",
        "",
        f"{machine()}; torch {torch.__version__}; float32. 5,000 images select and are learned from, 20,000 others "
        "compare: images that only one of the soups gets right, and p of McNemar's exact test. Images count the "
        "ingredients' own scores, and those of the gradient three times; seconds are the processor's.",
        "",
        "| pool | strategy | images | seconds | selecting | held out | only this / only `weights` | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, run in zip(arguments.seeds, runs, strict=True):
        for name, way in run.items():
            lines.append(
                f"| {seed} | {name} | {way['images']:,} | {way['seconds']:.0f} | {100 * way['selecting']:.2f} | "
                f"{100 * way['held_out']:.2f} | {way['more']} / {way['less']} | {way['p']:.2g} |"
            )
    return lines


SUBJECT = Subject("learned", __doc__, add_arguments, learned, keeps=True, needs_work=True)
