"""Many candidates on one task of JPEG files, against clip-benchmark and against the bare forward passes.

Models are of one small architecture, images of ImageNet's usual size (500 x 375), made here. clip-benchmark, in an
environment of its own, takes one model after the other as it works. Start-up (imports, building a model and its
tokenizer) counts for none of them; reading the weights counts for soupkit alone. Ratios are taken round by round.
Stopped at any moment, the same command goes on with the next round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evaluate.data import add_model_arguments, config_of, make_images, make_models
from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.peers import environment, versions
from benchmarks.tools.rounds import Round, add_round_arguments, column, ratios, run_rounds

PACKAGES = ["clip-benchmark", "requests"]
_PEER_SCRIPT = Path(__file__).with_name("clip_benchmark_peer.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    add_model_arguments(parser)
    add_round_arguments(parser)


def candidates(arguments: argparse.Namespace) -> list[str]:
    """Time candidates on one task of JPEG files: clip-benchmark, soupkit, and the forward passes alone."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = make_images(work / f"jpeg-{arguments.images}", arguments.images)
    config = config_of(arguments.width, arguments.layers)
    models = make_models(work / f"models-{arguments.width}-{arguments.layers}", arguments.candidates, config)
    python = environment(work / "peers-evaluate", PACKAGES)
    peer = [str(python), str(_PEER_SCRIPT), str(folder), *map(str, models[:2])]

    def one_round(_: int) -> Round:
        done = subprocess.run(peer, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        theirs = statistics.median(json.loads(done.stdout.splitlines()[-1]))
        return {"peer": theirs, **score_all(folder, config, models, arguments.images)}

    title = f"candidates {arguments.candidates} {arguments.images} {arguments.width} {arguments.layers}"
    rounds = run_rounds(title, arguments.rounds, one_round, arguments.record, arguments.disturbance)
    lines = [
        f"## {arguments.candidates} candidates on {arguments.images} JPEG files of 500 x 375",
        "",
        f"width {arguments.width}, {arguments.layers} layers, 224 px, patches of 32, float32",
        "",
        f"{machine()}; torch {torch.__version__}; {len(rounds)} rounds",
        f"clip-benchmark {versions(python, PACKAGES)['clip-benchmark']}, two loader processes, without amp",
        "",
        "| | seconds a candidate | clip-benchmark's / this | this / bare forward passes |",
        "|---|---|---|---|",
    ]
    labels = {
        "peer": "clip-benchmark, mean of two models",
        "first": "soupkit, the first one (decodes the images)",
        "later": "soupkit, each one after it (median)",
        "mean": f"soupkit, mean of {arguments.candidates}",
        "bare": "bare forward passes",
    }
    for name, label in labels.items():
        against = [spread(ratios(rounds, "peer", name)), spread(ratios(rounds, name, "bare"))]
        lines.append(f"| {label} | {spread(column(rounds, name))} | {' | '.join(against)} |")
    return lines


def score_all(folder: Path, config: dict[str, Any], models: list[Path], images: int) -> Round:
    """Score every model with one evaluator, with the bare forward passes in between; seconds of a candidate.

    A candidate's seconds hold all that the evaluator does for it, reading its weights included; those of the first one
    decoding the images too, but no start-up: what opening an evaluator takes that has one image to decode.
    """
    from soupkit.checkpoint import open_checkpoint
    from soupkit.evaluation import EvaluationOptions, Evaluator, open_tasks

    def start_up() -> None:
        Evaluator(config, open_tasks([str(folder)]), EvaluationOptions(device="cpu", limit=1)).close()

    start_up()  # what is loaded when it is first used counts for nobody
    each: list[float] = [-timed(start_up)]
    bare: list[float] = []
    began = time.perf_counter()
    with Evaluator(config, open_tasks([str(folder)]), EvaluationOptions(device="cpu")) as evaluator:
        for model in models:
            with open_checkpoint(model) as checkpoint:
                evaluator.load(checkpoint)
                evaluator.score(ref=str(model))
            seconds = time.perf_counter() - began
            each = [each[0] + seconds] if not bare else [*each, seconds]
            bare.append(timed(lambda: bare_passes(evaluator.model, images)))
            began = time.perf_counter()
    later = statistics.median(each[1:])
    return {"first": each[0], "later": later, "mean": statistics.mean(each), "bare": statistics.median(bare[1:])}


@torch.inference_mode()
def bare_passes(model: nn.Module, images: int, batch: int = 32) -> None:
    """Run the image tower over as many images as the task has, and the text tower not at all."""
    x = torch.randn(batch, 3, 224, 224)
    for _ in range(-(-images // batch)):
        model.encode_image(x)  # type: ignore[operator]


SUBJECT = Subject("candidates", __doc__, add_arguments, candidates, keeps=True, needs_work=True)
