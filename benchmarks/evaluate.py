"""How fast is the evaluator? Its classifier against open_clip's, and ten candidates against clip-benchmark.

    python -m benchmarks.evaluate classifier --classes 50
    python -m benchmarks.evaluate candidates --work /tmp/soupkit-benchmark
    python -m benchmarks.evaluate memory --work /tmp/soupkit-benchmark
    python -m benchmarks.evaluate normalisation

`classifier`: ImageNet's 80 templates on its first classes, ViT-B-32 with random weights, float32 on the CPU: the
function of open_clip, a variant that only drops equal prompts and cuts them to their length, and the prefix tree.
`candidates`: models of one small architecture on JPEG files of ImageNet's usual size (500 x 375, made here), against
clip-benchmark in an environment of its own, one model after the other as it works, and against the bare forward
passes. Start-up (imports, loading the weights) counts for none of them. `memory`: peaks of whole runs with more images,
classes and candidates. Ratios are taken round by round. Prints Markdown; `--output` also saves it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.evaluate_data import config_of, make_images, make_models
from benchmarks.machine import machine, spread
from benchmarks.measure import measure
from benchmarks.peers import environment, versions

PACKAGES = ["clip-benchmark", "requests"]
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["classifier", "candidates", "memory", "normalisation"])
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--width", type=int, default=64, help="of both towers of the candidates, 64 or more")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="directory for images, models and the peer")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.what in ("candidates", "memory") and arguments.work is None:
        parser.error("--work is needed")
    ways = {"classifier": classifier, "candidates": candidates, "memory": memory, "normalisation": normalisation}
    lines = ways[arguments.what](arguments)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def cut_classifier(model: nn.Module, tokens: Tensor, rows: Tensor, classes: int) -> Tensor:
    """The classifier of distinct prompts, batched by length and cut at the longest of a batch: no tree."""
    lengths = tokens.argmax(dim=1) + 1
    order = lengths.argsort()
    parts = []
    text: nn.Module = model
    for part in order.split(256):
        n = int(lengths[part].max())
        x = text.token_embedding(tokens[part, :n]) + text.positional_embedding[:n]  # type: ignore[operator, index]
        x = text.transformer(x, attn_mask=text.attn_mask[:n, :n])  # type: ignore[operator, index]
        x = text.ln_final(x)[torch.arange(len(part)), lengths[part] - 1] @ text.text_projection  # type: ignore[operator]
        parts.append(torch.nn.functional.normalize(x, dim=-1))
    features = torch.empty(len(tokens), parts[0].shape[1])
    features[order] = torch.cat(parts)
    means = features[rows].view(classes, -1, features.shape[1]).mean(dim=1)
    return torch.nn.functional.normalize(means, dim=-1).T


def classifier(arguments: argparse.Namespace) -> list[str]:
    """Time the three ways of making ImageNet's classifier, and say how the tokens they need grow."""
    import open_clip
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    from soupkit.evaluation.classifier import zero_shot_classifier
    from soupkit.evaluation.prompts import PromptEncoder, fill_templates, tokenize

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    templates = [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES]
    names = IMAGENET_CLASSNAMES[: arguments.classes]
    found: dict[str, Tensor] = {}

    def tree() -> None:
        prompts = tokenize(tokenizer, fill_templates(names, templates, ""))
        encoder = PromptEncoder(model, prompts, torch.device("cpu"))
        found["tree"] = zero_shot_classifier(encoder, len(names))

    def cut() -> None:
        prompts = tokenize(tokenizer, fill_templates(names, templates, ""))
        found["cut"] = cut_classifier(model, prompts.tokens, prompts.rows, len(names))

    def theirs() -> None:
        with torch.inference_mode():
            found["open_clip"] = open_clip.build_zero_shot_classifier(
                model, tokenizer, names, OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=10
            )

    ways = {"tree": tree, "open_clip": theirs, "cut": cut}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(arguments.rounds):
        for name, work in ways.items():
            seconds[name].append(timed(work))
            print(f"  round {i + 1}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    lines = [
        f"## Zero-shot classifier: ViT-B-32, {len(names)} classes x {len(templates)} templates, float32",
        "",
        machine(),
        "",
        "| | seconds | open_clip's / this | largest difference from open_clip's weights |",
        "|---|---|---|---|",
    ]
    labels = {"open_clip": "open_clip", "cut": "distinct prompts, cut to their length", "tree": "soupkit, prefix tree"}
    for name, mine in seconds.items():
        ratios = spread([a / b for a, b in zip(seconds["open_clip"], mine, strict=True)])
        difference = float((found[name] - found["open_clip"]).abs().max())
        lines.append(f"| {labels[name]} | {spread(mine)} | {ratios} | {difference:.1e} |")
    lines += ["", "Tokens that go through the tower:", "", "| classes | padded | tree | ratio |", "|---|---|---|---|"]
    for count in (10, 50, 200, 1000):
        prompts = tokenize(tokenizer, fill_templates(IMAGENET_CLASSNAMES[:count], templates, ""))
        needed = PromptEncoder(model, prompts, torch.device("cpu")).tokens_computed
        padded = count * len(templates) * prompts.tokens.shape[1]
        lines.append(f"| {count} | {padded:,} | {needed:,} | {padded / needed:.1f} |")
    return lines


def candidates(arguments: argparse.Namespace) -> list[str]:
    """Time candidates on one task of JPEG files: clip-benchmark, soupkit, and the forward passes alone."""
    from soupkit.checkpoint import open_checkpoint
    from soupkit.evaluation import EvaluationOptions, Evaluator, open_tasks

    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = make_images(work / f"jpeg-{arguments.images}", arguments.images)
    config = config_of(arguments.width, arguments.layers)
    models = make_models(work / f"models-{arguments.width}-{arguments.layers}", arguments.candidates, config)
    python = environment(work / "peers-evaluate", PACKAGES)
    peer = [str(python), str(ROOT / "benchmarks" / "evaluate_peer.py"), str(folder), *map(str, models[:2])]
    rows: dict[str, list[float]] = {"peer": [], "first": [], "later": [], "mean": [], "bare": []}
    for i in range(arguments.rounds):
        done = subprocess.run(peer, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        rows["peer"].append(statistics.mean(json.loads(done.stdout.splitlines()[-1])))
        began = time.perf_counter()
        each = []
        with Evaluator(config, open_tasks([str(folder)]), EvaluationOptions(device="cpu")) as evaluator:
            for model in models:
                with open_checkpoint(model) as checkpoint:
                    evaluator.load(checkpoint)
                    evaluator.score(ref=str(model))
                each.append(time.perf_counter() - began)
                began = time.perf_counter()
            rows["first"].append(each[0])
            rows["later"].append(statistics.median(each[1:]))
            rows["mean"].append(statistics.mean(each))
            rows["bare"].append(timed(lambda e=evaluator: bare_passes(e.model, arguments.images)))  # type: ignore[misc]
        print(f"  round {i + 1}: {', '.join(f'{k} {v[-1]:.2f} s' for k, v in rows.items())}", file=sys.stderr)
    lines = [
        f"## {arguments.candidates} candidates on {arguments.images} JPEG files of 500 x 375",
        "",
        f"width {arguments.width}, {arguments.layers} layers, 224 px, patches of 32, float32",
        "",
        machine(),
        f"clip-benchmark {versions(python, PACKAGES)['clip-benchmark']}, two loader processes, without amp",
        "",
        "| | seconds a candidate | clip-benchmark's / this | this / bare forward passes |",
        "|---|---|---|---|",
    ]
    labels = {
        "peer": "clip-benchmark",
        "first": "soupkit, first candidate (decodes the images)",
        "later": "soupkit, each one after it",
        "mean": f"soupkit, mean of {arguments.candidates}",
        "bare": "bare forward passes",
    }
    for name, label in labels.items():
        mine = rows[name]
        against = spread([a / b for a, b in zip(rows["peer"], mine, strict=True)])
        floor = spread([a / b for a, b in zip(mine, rows["bare"], strict=True)])
        lines.append(f"| {label} | {spread(mine)} | {against} | {floor} |")
    return lines


def normalisation(arguments: argparse.Namespace) -> list[str]:
    """Time what folding the normalisation into the first convolution could save at most: a batch of 32 on its way."""
    import open_clip

    from soupkit.evaluation.fused import normalise

    model = open_clip.create_model("ViT-B-32").eval()
    stored = torch.randint(0, 256, (32, 224, 224 * 3), dtype=torch.uint8)
    x = torch.zeros(32, 224, 224 * 3)
    mean, std = (torch.tensor(v).repeat(224) for v in ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)))

    def prepare() -> None:
        normalise(x, stored, mean, std)

    @torch.inference_mode()
    def forward() -> None:
        model.encode_image(x.view(32, 224, 224, 3).permute(0, 3, 1, 2))

    milliseconds: dict[str, list[float]] = {"normalise": [], "forward": []}
    for _ in range(arguments.rounds + 1):
        milliseconds["normalise"].append(1e3 * timed(prepare))
        milliseconds["forward"].append(1e3 * timed(forward))
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
    """Measure the peak memory of whole runs, one dimension larger at a time."""
    work: Path = arguments.work
    config = config_of(arguments.width, arguments.layers)
    lines = ["## Peak memory of `soupkit evaluate`", "", machine(), ""]
    lines += ["| images | classes | candidates | anonymous, GB | resident, GB |", "|---|---|---|---|---|"]
    for images, classes, count in ((200, 50, 2), (2000, 50, 2), (200, 1000, 2), (200, 50, 10)):
        folder = make_images(work / f"jpeg-{images}-{classes}", images, classes)
        models = make_models(work / f"models-{arguments.width}-{arguments.layers}", count, config)
        command = [sys.executable, "-m", "soupkit", "evaluate", *map(str, models), "--task", str(folder), "--json"]
        run = measure(
            [*command, "--cache", str(work / "cache"), "--no-score-cache", "--device", "cpu"], ROOT, key="images"
        )
        lines.append(f"| {images:,} | {classes:,} | {count} | {run.anonymous / 1e9:.2f} | {run.resident / 1e9:.2f} |")
        print(lines[-1], file=sys.stderr)
    return lines


if __name__ == "__main__":
    main()
