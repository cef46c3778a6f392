"""How fast is the evaluator? Its classifier against open_clip's, and ten candidates against clip-benchmark.

    python -m benchmarks.evaluate classifier --classes 50
    python -m benchmarks.evaluate growth --growth 50 200 1000
    python -m benchmarks.evaluate candidates --work /tmp/soupkit-benchmark
    python -m benchmarks.evaluate memory --work /tmp/soupkit-benchmark
    python -m benchmarks.evaluate normalisation
    python -m benchmarks.evaluate throughput --model ViT-bigG-14 --precision bf16 --device cuda --images 20000

`classifier`: ImageNet's 80 templates on its first classes, ViT-B-32 with random weights, float32 on the CPU: the
function of open_clip, a variant that only drops equal prompts and cuts them to their length, and the prefix tree.
`growth`: the prefix tree at more and more classes, with a part of the other two ways, which cost each class the same.
`candidates`: models of one small architecture on JPEG files of ImageNet's usual size (500 x 375, made here), against
clip-benchmark in an environment of its own, one model after the other as it works, and against the bare forward
passes. Start-up (imports, building a model and its tokenizer) counts for none of them, reading the weights counts for
soupkit alone.
`memory`: peaks of whole runs with more images, classes and candidates. Ratios are taken round by round. Stopped at any
moment, the same command goes on with the next round (`rounds-evaluate.jsonl` under `--work` holds those that are done,
until a table is saved with `--output`).
`throughput`: the pass alone on pixels in memory, beside a loop like open_clip_train's, in images per second and as a
share of the device's rate for large matrix products. Prints Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evaluate_classifier import COUNTS, RECORD, classifier, growth
from benchmarks.evaluate_data import config_of, make_images, make_models
from benchmarks.evaluate_throughput import throughput
from benchmarks.machine import machine, spread
from benchmarks.measure import measure
from benchmarks.peers import environment, versions
from benchmarks.rounds import Round, column, ratios, run_rounds

PACKAGES = ["clip-benchmark", "requests"]
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["classifier", "growth", "candidates", "memory", "normalisation", "throughput"])
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--growth", type=int, nargs="*", default=[], help=f"classes of growth, by default {COUNTS}")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--width", type=int, default=64, help="of both towers of the candidates, 64 or more")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32", help="of throughput")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of throughput")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="of throughput")
    parser.add_argument("--batch", type=int, default=64, help="of throughput, images")
    parser.add_argument("--compile", action="store_true", help="of throughput: torch.compile soupkit's image tower")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--disturbance",
        type=float,
        default=1.0,
        help="rounds of which other processes took a larger share are measured again; 0.05 is little",
    )
    parser.add_argument("--work", type=Path, help="directory for images, models and the peer")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.what in ("candidates", "memory") and arguments.work is None:
        parser.error("--work is needed")
    ways = {
        "classifier": classifier,
        "growth": growth,
        "candidates": candidates,
        "memory": memory,
        "normalisation": normalisation,
        "throughput": throughput,
    }
    lines = ways[arguments.what](arguments)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        if arguments.work:
            (arguments.work / RECORD).unlink(missing_ok=True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def candidates(arguments: argparse.Namespace) -> list[str]:
    """Time candidates on one task of JPEG files: clip-benchmark, soupkit, and the forward passes alone."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = make_images(work / f"jpeg-{arguments.images}", arguments.images)
    config = config_of(arguments.width, arguments.layers)
    models = make_models(work / f"models-{arguments.width}-{arguments.layers}", arguments.candidates, config)
    python = environment(work / "peers-evaluate", PACKAGES)
    peer = [str(python), str(ROOT / "benchmarks" / "evaluate_peer.py"), str(folder), *map(str, models[:2])]

    def one_round(_: int) -> Round:
        done = subprocess.run(peer, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        theirs = statistics.median(json.loads(done.stdout.splitlines()[-1]))
        return {"peer": theirs, **score_all(folder, config, models, arguments.images)}

    record = work / RECORD
    title = f"candidates {arguments.candidates} {arguments.images} {arguments.width} {arguments.layers}"
    rounds = run_rounds(title, arguments.rounds, one_round, record, arguments.disturbance)
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


def normalisation(arguments: argparse.Namespace) -> list[str]:
    """Time what folding the normalisation into the first convolution could save at most: a batch of 32 on its way."""
    import open_clip

    from soupkit.evaluation.image_pass import Pass, normalise, scale_and_shift

    model = open_clip.create_model("ViT-B-32").eval()
    stored = torch.randint(0, 256, (32, 224, 224 * 3), dtype=torch.uint8)
    x = torch.zeros(32, 224, 224 * 3)
    how = Pass(torch.device("cpu"), torch.float32, 32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    scale, shift = scale_and_shift(how, 224)

    def prepare() -> None:
        normalise(x, stored, scale, shift)

    @torch.inference_mode()
    def forward() -> None:
        model.encode_image(x.view(32, 224, 224, 3).permute(0, 3, 1, 2))

    def convert() -> None:
        x.copy_(stored)  # what is left of it when it is folded

    ways = {"to float32 and normalise": prepare, "to float32 alone": convert, "the image tower": forward}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, work in ways.items():
            milliseconds[name].append(1e3 * timed(work))
    lines = ["## Normalisation: 32 images of 224 px, ViT-B-32, float32", "", machine(), ""]
    lines += ["| | milliseconds |", "|---|---|"]
    return lines + [f"| {name} | {spread(values[1:])} |" for name, values in milliseconds.items()]


@torch.inference_mode()
def bare_passes(model: nn.Module, images: int, batch: int = 32) -> None:
    """Run the image tower over as many images as the task has, and the text tower not at all."""
    x = torch.randn(batch, 3, 224, 224)
    for _ in range(-(-images // batch)):
        model.encode_image(x)  # type: ignore[operator]


def memory(arguments: argparse.Namespace) -> list[str]:
    """Measure the peak memory of whole runs, one dimension larger at a time; all classes in ImageNet's 80 templates."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    work: Path = arguments.work
    config = config_of(arguments.width, arguments.layers)
    templates = [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES]
    lines = ["## Peak memory of `soupkit evaluate`", "", machine(), ""]
    lines += ["| images | classes | candidates | anonymous, GB | resident, GB |", "|---|---|---|---|---|"]
    for images, classes, count in ((200, 50, 2), (2000, 50, 2), (200, 1000, 2), (200, 50, 10)):
        folder = make_images(work / f"memory-{images}-{classes}", images, classes, templates)
        models = make_models(work / f"models-{arguments.width}-{arguments.layers}", count, config)
        command = [sys.executable, "-m", "soupkit", "evaluate", *map(str, models), "--task", str(folder), "--json"]
        run = measure([*command, "--no-cache", "--device", "cpu"], ROOT, key="images")
        lines.append(f"| {images:,} | {classes:,} | {count} | {run.anonymous / 1e9:.2f} | {run.resident / 1e9:.2f} |")
        print(lines[-1], file=sys.stderr)
    return lines


if __name__ == "__main__":
    main()
