"""Merge methods beside mergekit's: whole processes of both over one YAML file, in turns, all that they read in memory.

Makes synthetic checkpoints (kept for the next time): the ingredients and, last, the base that they are near. Both
programs read mergekit's own file (`soupkit merge --mergekit`), so that they do the same work with the same parameters;
mergekit runs as `mergekit-pytorch` with the flags that make it fastest without a GPU. Ratios are taken round by round
over the seconds of the whole processes, the start of the interpreters included, and over the seconds that they take of
the processors, which other work on the machine disturbs least. Stopped at any moment, the same command
goes on with the next run.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.merge.speed import WEIGHTS, remove, rounds, warm
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import Run
from benchmarks.tools.peers import environment, versions
from benchmarks.tools.synthetic import make_checkpoints

_PEER_SCRIPT = Path(__file__).with_name("peer_merges.py")
# What is said of each method besides its models; slerp takes two, and what it calls its base is the first.
PARAMETERS: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 1.0, "density": 0.2},
    "dare_ties": {"weight": 1.0, "density": 0.5},
    # mergekit 0.1.5 ends with an error where it would drop a scalar.
    "della": {"weight": 1.0, "density": [{"filter": "logit_scale", "value": 1.0}, {"value": 0.5}], "epsilon": 0.15},
    "breadcrumbs": {"weight": 1.0, "density": 0.9, "gamma": 0.01},
    "sce": {"select_topk": 0.5},
    "model_stock": {},
    "slerp": {"t": 0.5},
    "karcher": {},
}
_WITHOUT_BASE = ("karcher",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="any open_clip architecture")
    parser.add_argument("--dtype", default="bfloat16", help="of the ingredients, torch's name")
    parser.add_argument("--count", type=int, default=3, help="ingredients besides the base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(PARAMETERS), help="comma-separated")
    parser.add_argument("--python", type=Path, help="a Python that has mergekit; made with pip unless given")


def file_of(method: str, inputs: list[Path]) -> dict[str, Any]:
    """Return mergekit's document for `method` over `inputs`, of which the last is the base."""
    *paths, base = [str(p / WEIGHTS) for p in inputs]
    document: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        paths = paths[:2]
        document["base_model"] = paths[0]
    elif method not in _WITHOUT_BASE:
        document["base_model"] = base
    return {**document, "models": [{"model": p} for p in paths], "parameters": PARAMETERS[method]}


def methods(arguments: argparse.Namespace) -> list[str]:
    """Run every method by both, in turns."""
    import yaml

    python = arguments.python or environment(arguments.work / "peers", ["mergekit"])
    inputs = make_checkpoints(arguments.model, arguments.count + 1, arguments.dtype, arguments.work)
    out = arguments.work / "out"
    lines = [
        f"## Merge methods: {arguments.model}, {arguments.dtype}, {arguments.count} ingredients and their base",
        "",
    ]
    lines += [machine(), ", ".join(f"{p} {v}" for p, v in versions(python, ["mergekit", "torch"]).items()), ""]
    lines += [
        "| | soupkit, s | mergekit, s | mergekit / soupkit | of the processor's time | anonymous, GB | mergekit's "
        "| resident, GB | mergekit's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    failed: dict[str, str] = {}
    for method in arguments.methods.split(","):
        recipe = arguments.work / f"{method}.yaml"
        recipe.write_text(yaml.safe_dump(file_of(method, inputs)))
        ours = [sys.executable, "-m", "soupkit", "merge", "--mergekit", str(recipe), "-o", str(out)]
        commands = {
            "soupkit": [*ours, "--model", arguments.model, "--device", "cpu", "--json"],
            "mergekit": [str(python), str(_PEER_SCRIPT), "mergekit-file", str(out), str(recipe)],
        }

        def ready(read: list[Path]) -> None:
            """Have the inputs and both programs' libraries in the page cache, as far as memory allows."""
            warm(read)
            for program in (sys.executable, str(python)):
                subprocess.run([program, "-c", "import torch, transformers"], check=True, capture_output=True)

        read = inputs[:2] if method == "slerp" else inputs[:-1] if method in _WITHOUT_BASE else inputs
        title = f"{arguments.model}, {arguments.dtype}, {arguments.count}, {method}"
        runs, failures = rounds(commands, out, partial(ready, read), arguments.rounds, arguments.record, title)
        failed |= {f"{method}, {name}": error for name, error in failures.items()}
        if len(runs) == len(commands):
            lines.append(_row(method, runs["soupkit"], runs["mergekit"]))
    remove(out)
    return [*lines, "", *(f"{name} failed: {error.splitlines()[-1]}" for name, error in failed.items())]


def _row(method: str, ours: list[Run], theirs: list[Run]) -> str:
    both = (ours, theirs)
    seconds = [spread([r.process for r in runs]) for runs in both]
    ratios = [
        spread([getattr(b, k) / getattr(a, k) for a, b in zip(*both, strict=True)]) for k in ("process", "processor")
    ]
    memory = [f"{max(getattr(r, k) for r in runs) / 1e9:.2f}" for k in ("anonymous", "resident") for runs in both]
    return "| " + " | ".join([method, *seconds, *ratios, *memory]) + " |"


SUBJECT = Subject("methods", __doc__, add_arguments, methods, keeps=True, needs_work=True)
