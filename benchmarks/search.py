"""What does a greedy search cost? Images per rejected trial on a simulated pool; time on a real one.

    python -m benchmarks.search simulated
    python -m benchmarks.search pool --work /tmp/soupkit-benchmark
    python -m benchmarks.search real --work /tmp/soupkit-benchmark
    python -m benchmarks.search memory --work /tmp/soupkit-benchmark

`simulated`: every image has a latent margin, every ingredient adds noise of its own to it and a small bias; a soup's
margin is the mean of its members'. `pool` trains ingredients from one base on the shipped digits, for the other two.
`real`: the published procedure written down plainly (load, average, build, decode, evaluate in full, trial by trial)
against soupkit with stopping rule `none`, which shows what the evaluator saves, and `exact`. Start-up (imports) counts
for none of them. `memory`: peaks of whole searches with more ingredients. Prints Markdown.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from soupkit.search.metric import hit_metric
from soupkit.search.stopping import open_rule

ROOT = Path(__file__).parents[1]
_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulated", "pool", "real", "memory", "one"])
    parser.add_argument("--ingredients", type=int, default=12)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--pools", type=int, default=5)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    if arguments.what != "simulated" and arguments.work is None:
        parser.error("--work is needed")
    actions = {"simulated": simulated, "pool": pool, "real": real, "memory": memory, "one": one}
    print("\n".join(actions[arguments.what](arguments)))


def simulated(arguments: argparse.Namespace) -> list[str]:
    """Images per rejected trial, as shares of all images, over several pools of 24 ingredients."""
    shares: dict[str, list[float]] = {"exact": [], "sequential": []}
    wrong = rejected = 0
    for seed in range(arguments.pools):
        generator = np.random.default_rng(seed)
        n, m = arguments.images, 24
        margin = generator.normal(1.05, 1.2, n)
        own, bias = generator.normal(0, 0.55, (m, n)), generator.normal(0, 0.06, m)
        alone = np.array([margin + own[i] + bias[i] > 0 for i in range(m)])
        share = alone.mean(axis=0)
        metric = hit_metric(["acc1"], [np.zeros(n, np.int64)])
        order = np.argsort(-alone.sum(axis=1), kind="stable")
        for rule in shares:
            soup, current, seen = [order[0]], alone[order[0]], []
            for candidate in order[1:]:
                members = [*soup, candidate]
                hits = margin + own[members].mean(axis=0) + bias[members].mean() > 0
                watch = open_rule(
                    rule, current, np.minimum(share, 1 - share), metric, strict=False, seed=(seed, int(candidate))
                )
                images, ended = 0, False
                for start in range(0, n, _BATCH):
                    part = watch.order[start : start + _BATCH]
                    images += len(part)
                    if ended := watch.sees(part, hits[part]):
                        break
                better = int(hits.sum()) >= int(current.sum())
                if ended or not better:
                    seen.append(images / n)
                    rejected += rule == "sequential"
                    wrong += ended and better
                else:
                    soup, current = members, hits
            shares[rule].append(float(np.mean(seen)))
    lines = [f"{arguments.pools} pools of 24 ingredients, {arguments.images:,} images; images per rejected trial:", ""]
    lines += ["| rule | mean | lowest and highest of the pools |", "|---|---|---|"]
    for rule, found in shares.items():
        lines.append(f"| {rule} | {100 * np.mean(found):.1f} % | {100 * min(found):.1f} to {100 * max(found):.1f} % |")
    return [*lines, "", f"wrong rejections of the sequential rule: {wrong} of {rejected}"]


def pool(arguments: argparse.Namespace) -> list[str]:
    """Train the ingredients: fine-tunes of one base that differ in rate, length and data."""
    from soupkit.cli.demo import RECIPE
    from soupkit.progress import SILENT
    from soupkit.training import TrainOptions, read_runs, train

    stage1, *tunes = read_runs(RECIPE)
    options = TrainOptions(device="cpu", workers=0, threads=1)
    place = arguments.work / "ingredients"
    train(stage1.entry, place / "stage1", options=options, progress=SILENT)
    for i in range(arguments.ingredients):
        own = {"seed": 10 + i, "samples": 2400 + 800 * (i % 4), "lr": 4e-4 * 1.25 ** (i % 5), "warmup": 400}
        entry = tunes[i % 3].entry.model_copy(update={**own, "init": str(place / "stage1")})
        train(entry, place / f"run{i:02}", options=options, progress=SILENT)
    return [f"{arguments.ingredients} ingredients in {place}"]


def ingredients(work: Path) -> list[str]:
    return [str(p) for p in sorted((work / "ingredients").glob("run*")) if p.is_dir()]


def real(arguments: argparse.Namespace) -> list[str]:
    refs = ingredients(arguments.work)
    rounds = []
    for _ in range(2):  # the first warms up
        times: dict[str, float] = {}
        soups: dict[str, list[str]] = {}
        times["published"], soups["published"] = published(refs)
        images: dict[str, tuple[int, int]] = {}
        for rule in ("none", "exact"):
            times[rule], soups[rule], images[rule] = searched(refs, rule)
        rounds.append(times)
    assert soups["published"] == soups["none"] == soups["exact"], soups
    t = rounds[-1]
    return [
        f"{len(refs)} ingredients; all three found the same soup of {len(soups['exact'])}.",
        "",
        "| | seconds | against the published procedure |",
        "|---|---|---|",
        f"| the published procedure | {t['published']:.2f} | |",
        f"| soupkit, `none` | {t['none']:.2f} | {t['published'] / t['none']:.1f} x less |",
        f"| soupkit, `exact` | {t['exact']:.2f} | {t['published'] / t['exact']:.1f} x less |",
        "",
        f"images: {images['none'][0]:,} with `none`, {images['exact'][0]:,} with `exact`",
    ]


def searched(refs: list[str], rule: str) -> tuple[float, list[str], tuple[int, int]]:
    """Search with an empty cache; returns the seconds, the soup and the images scored out of those of a full search."""
    from soupkit.evaluation import EvaluationOptions
    from soupkit.search import SearchOptions, greedy_search

    with TemporaryDirectory() as place:
        started = time.perf_counter()
        found = greedy_search(
            refs,
            Path(place) / "soup",
            tasks=["digits"],
            search=SearchOptions(stopping=rule),
            evaluation=EvaluationOptions(cache=Path(place) / "cache", device="cpu"),
        ).document
        seconds = time.perf_counter() - started
    return seconds, found["selected"], (found["images_scored"], found["images_full"])


def published(refs: list[str]) -> tuple[float, list[str]]:
    """Recipe 1 as the scripts do it: every trial loads its members, averages, builds a model and evaluates in full."""
    import torch
    from safetensors.torch import load_file

    started = time.perf_counter()

    def average(members: list[str]) -> dict[str, torch.Tensor]:
        states = [load_file(f"{m}/open_clip_model.safetensors") for m in members]
        return {
            k: torch.stack([s[k] / len(states) for s in states]).sum(dim=0) if v.is_floating_point() else v
            for k, v in states[0].items()
        }

    alone = {ref: full_evaluation(ref, average([ref])) for ref in refs}
    order = sorted(refs, key=lambda ref: -alone[ref])
    soup, best = [order[0]], alone[order[0]]
    for candidate in order[1:]:
        score = full_evaluation(candidate, average([*soup, candidate]))
        if score >= best:
            soup, best = [*soup, candidate], score
    return time.perf_counter() - started, soup


def full_evaluation(place: str, state: dict[str, "torch.Tensor"]) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Build the model of `place`, decode the images and count the hits, as open_clip's own evaluation does."""
    import io

    import open_clip
    import torch
    from PIL import Image

    from soupkit.evaluation import open_tasks

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{place}")
    model.load_state_dict(state)
    model.eval()
    (task,) = open_tasks(["digits"], split="val")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{place}")
    templates = [lambda c, t=t: t.format(c=c) for t in task.templates]
    with torch.no_grad():
        head = open_clip.build_zero_shot_classifier(model, tokenizer, task.classnames, templates, device="cpu")
        hits = 0
        for start in range(0, len(task.dataset), _BATCH):
            samples = [task.dataset.read(i) for i in range(start, min(start + _BATCH, len(task.dataset)))]
            images = torch.stack([transform(Image.open(io.BytesIO(s.data)).convert("RGB")) for s in samples])
            found = (model.encode_image(images, normalize=True) @ head).argmax(dim=1)
            hits += int((found == torch.tensor([s.label for s in samples])).sum())
    return hits


def memory(arguments: argparse.Namespace) -> list[str]:
    lines = ["| ingredients | peak memory, MB |", "|---|---|"]
    for n in (3, 6, arguments.ingredients):
        command = [
            sys.executable,
            "-m",
            "benchmarks.search",
            "one",
            "--work",
            str(arguments.work),
            "--ingredients",
            str(n),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        lines.append(f"| {n} | {json.loads(result.stdout)['peak'] / 1024:.0f} |")
    return lines


def one(arguments: argparse.Namespace) -> list[str]:
    searched(ingredients(arguments.work)[: arguments.ingredients], "exact")
    return [json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})]


if __name__ == "__main__":
    main()
