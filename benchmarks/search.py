"""What does a greedy search cost? Images per rejected trial on simulated pools; time and memory on a real one.

    python -m benchmarks.search simulated
    python -m benchmarks.search pool --work DIR
    python -m benchmarks.search real --work DIR
    python -m benchmarks.search memory --work DIR
    python -m benchmarks.search arithmetic --work DIR

`simulated` counts images per trial on tables of hits (benchmarks/search_simulated.py says how they are drawn). `pool`
trains ingredients from one base on Fashion-MNIST, for the next two; made once, kept under `--work`. `real`: the
published procedure written down plainly (load, average, build, decode, evaluate in full, trial by trial) against
soupkit with stopping rule `none`, which shows what the evaluator saves, with `exact`, which shows what stopping saves,
with `sequential`, and with `exact` where `soupkit evaluate` has scored the ingredients before. Imports count for none
of them; soupkit's searches also score the uniform soup and write, check and describe the soup. Every run has a process
of its own; they take turns, and ratios are taken round by round. Stopped, the same command goes on with the next run.
`--clock processor` with OMP_NUM_THREADS=1 and `--workers 0` is for a machine that has other work to do too.
`memory`: peaks of whole searches with more ingredients, and of those whose soups take all of them
(benchmarks/search_memory.py). `arithmetic`: a search over ViT-bigG-14 on one GPU of 80 GB, from sizes, counted
operations and rates. Prints Markdown; `--output` also saves it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import machine, spread
from benchmarks.measure import measure
from benchmarks.search_memory import memory_of_all
from benchmarks.search_pool import FASHION_MNIST, make_pool, write_task

ROOT = Path(__file__).parents[1]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
WAYS = {
    "published": "the published procedure",
    "none": "soupkit, `none`",
    "exact": "soupkit, `exact`",
    "known": "soupkit, `exact`, ingredients scored before",
    "sequential": "soupkit, `sequential`",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulated", "pool", "real", "memory", "arithmetic", "one"])
    parser.add_argument("--work", type=Path, help="directory for images, ingredients and what is measured")
    parser.add_argument("--ingredients", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="loader processes of the published procedure")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of real")
    parser.add_argument("--fashion-mnist", type=Path, default=FASHION_MNIST, help="folder of the four files")
    parser.add_argument("--pools", type=int, default=10, help="of simulated")
    parser.add_argument("--images", type=int, default=50_000, help="of simulated and arithmetic")
    parser.add_argument("--model", default="ViT-bigG-14", help="of arithmetic")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--way", choices=list(WAYS), default="exact", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what != "simulated" and arguments.work is None:
        parser.error("--work is needed")
    if arguments.what == "one":
        print(json.dumps(one(arguments)))
        return
    lines = {"simulated": simulated, "pool": pool, "real": real, "memory": memory, "arithmetic": arithmetic}
    text = "\n".join(lines[arguments.what](arguments)) + "\n"
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)


def simulated(arguments: argparse.Namespace) -> list[str]:
    from benchmarks.search_simulated import simulated as run

    return run(arguments.pools, 24, arguments.images, (32, 512))


def arithmetic(arguments: argparse.Namespace) -> list[str]:
    from benchmarks.search_arithmetic import arithmetic as run

    return run(arguments.model, arguments.work, images=arguments.images)


def pool(arguments: argparse.Namespace) -> list[str]:
    task = write_task(arguments.fashion_mnist, arguments.work / "fashion-mnist")
    made = make_pool(task, arguments.work / "pool", arguments.ingredients)
    return [f"{len(made)} ingredients in {arguments.work / 'pool'}"]


def ingredients(arguments: argparse.Namespace) -> list[str]:
    """Return the first ingredients of the pool that `pool` made."""
    try:
        made = json.loads((arguments.work / "pool" / "pool.json").read_text())
    except FileNotFoundError:
        sys.exit(f"no pool in {arguments.work}: python -m benchmarks.search pool --work {arguments.work}")
    if len(made) < arguments.ingredients:
        sys.exit(f"the pool has {len(made)} ingredients; make more with `pool --ingredients {arguments.ingredients}`")
    return made[: arguments.ingredients]


@dataclass
class Phases:
    """A soupkit Progress that counts the seconds of each kind of work, by the clock `now`."""

    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _kind: str = ""
    _since: float = 0.0

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin."""
        words = label.split()
        kinds = {"scoring": "ingredients", "trial": "trials", "soup": "uniform soup", "decoding": "decoding"}
        self._kind, self._since = kinds.get(words[0], "rest"), self.now()

    def advance(self, n: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Count what was begun."""
        self.seconds[self._kind] += self.now() - self._since


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search once, in this process; returns the seconds, their parts, the soup and the images."""
    refs, task = ingredients(arguments), str(arguments.work / "fashion-mnist")
    now = CLOCKS[arguments.clock]
    if arguments.way == "published":
        return published(refs, task, arguments.workers, now)
    return searched(refs, task, arguments.way, now, arguments.limit)


def searched(
    refs: list[str], task: str, way: str, now: Callable[[], float], limit: int | None = None
) -> dict[str, Any]:
    """Search with soupkit and a cache that is empty at the beginning, or, where `way` is "known", that holds the pixels
    and the ingredients' scores."""
    # All that a search imports on its way is imported before the clock runs, as it is for the published procedure.
    import matplotlib.pyplot  # noqa: F401
    import open_clip  # noqa: F401
    import torchvision  # noqa: F401

    import soupkit
    from soupkit.evaluation import EvaluationOptions
    from soupkit.search import SearchOptions, greedy_search

    phases = Phases(now)
    with TemporaryDirectory() as place:
        evaluation = EvaluationOptions(cache=Path(place) / "cache", device="cpu", limit=limit)
        if way == "known":
            soupkit.evaluate(refs, [f"{task}:val"], options=evaluation)
        started = now()
        found = greedy_search(
            refs, Path(place) / "soup", tasks=[task], evaluation=evaluation, progress=phases,
            search=SearchOptions(stopping="exact" if way == "known" else way),
        ).document  # fmt: skip
        seconds = now() - started
    trials = found["decisions"][1:]
    rejected = [d["images"] for d in trials if d["decision"] == "rejected"]
    images = found["score"]["n"]
    return {
        "seconds": seconds,
        "parts": {**phases.seconds, "rest": seconds - sum(v for k, v in phases.seconds.items() if k != "rest")},
        "soup": found["selected"],
        "score": found["score"]["value"],
        "best": found["best_ingredient"]["value"],
        "uniform": found["uniform"]["value"],
        "accepted": len(trials) - len(rejected),
        "rejected": len(rejected),
        "images": images,
        "share": sum(rejected) / (images * len(rejected)) if rejected else 0.0,
        "images_scored": found["images_scored"],
        "images_full": found["images_full"],
    }


def published(refs: list[str], task: str, workers: int, now: Callable[[], float]) -> dict[str, Any]:
    """Search as the published scripts do."""
    from benchmarks.search_published import Clock, PublishedSearch
    from soupkit.evaluation import open_tasks

    clock = Clock(now)
    started = now()
    (opened,) = open_tasks([task], split="val")
    soup, hits = PublishedSearch(refs[0], opened, workers, clock).greedy(refs)
    seconds = now() - started
    parts = {**clock.seconds, "rest": seconds - sum(clock.seconds.values())}
    return {"seconds": seconds, "parts": parts, "soup": soup, "score": hits / len(opened.dataset)}


def _command(arguments: argparse.Namespace, way: str, count: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.search", "one", "--way", way, "--work", str(arguments.work)]
    return [*command, "--ingredients", str(count), "--workers", str(arguments.workers), "--clock", arguments.clock]


def real(arguments: argparse.Namespace) -> list[str]:
    """Run every way in turns, in processes of their own, and compare."""
    record = arguments.work / "rounds.jsonl"
    title = f"{arguments.ingredients} ingredients, {arguments.clock}"
    titles = {way: f"{title}, {arguments.workers} workers" if way == "published" else title for way in WAYS}
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for entry in done:
        if entry["title"] == titles[entry["way"]]:
            runs[entry["way"]].append(entry["run"])
    for i in range(arguments.rounds):
        ways = list(WAYS)[i % len(WAYS) :] + list(WAYS)[: i % len(WAYS)]
        for way in (way for way in ways if len(runs[way]) <= i):
            command = _command(arguments, way, arguments.ingredients)
            result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if result.returncode:
                sys.exit(result.stderr[-2000:])
            run = json.loads(result.stdout.splitlines()[-1])
            runs[way].append(run)
            with record.open("a") as file:
                file.write(json.dumps({"title": titles[way], "way": way, "run": run}) + "\n")
            print(f"  round {i + 1}, {way}: {run['seconds']:.1f} s", file=sys.stderr)
    return report(arguments, {way: found[: arguments.rounds] for way, found in runs.items()})


def report(arguments: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write what the runs of every way say."""
    import open_clip
    import torch

    first = {way: found[0] for way, found in runs.items()}
    exact, theirs = first["exact"], [run["seconds"] for run in runs["published"]]
    same = {way for way in WAYS if all(run["soup"] == exact["soup"] for run in runs[way])}
    lines = [
        f"## Greedy search over {arguments.ingredients} ingredients, {exact['images']:,} images",
        "",
        f"{machine()}; torch {torch.__version__}, open_clip {open_clip.__version__}; float32; {arguments.rounds} "
        f"rounds, by the {arguments.clock} clock; {torch.get_num_threads()} threads, the published procedure with "
        f"{arguments.workers} loader processes",
        "",
        f"{exact['accepted']} candidates accepted, {exact['rejected']} rejected. Soup of {len(exact['soup'])} "
        f"{100 * exact['score']:.2f} %, best ingredient {100 * exact['best']:.2f} %, uniform soup "
        f"{100 * exact['uniform']:.2f} %.",
        "",
        "| | soup | seconds | published / this | images scored | images per rejected trial |",
        "|---|---|---|---|---|---|",
    ]
    for way, label in WAYS.items():
        seconds = [run["seconds"] for run in runs[way]]
        ratio = spread([a / b for a, b in zip(theirs, seconds, strict=True)])
        found = first[way]
        soup = "the same" if way in same else f"another of {len(found['soup'])}, {100 * found['score']:.2f} %"
        images = f"{found['images_scored']:,} | {100 * found['share']:.1f} %" if "share" in found else " | 100 %"
        lines.append(f"| {label} | {soup} | {spread(seconds)} | {ratio} | {images} |")
    steps = {"published": "none", "none": "exact", "exact": "known"}
    words = ["the evaluator", "stopping", "scores known before"]
    lines += ["", "| what is saved by | seconds | as a ratio |", "|---|---|---|"]
    for word, (before, after) in zip(words, steps.items(), strict=True):
        pairs = [(a["seconds"], b["seconds"]) for a, b in zip(runs[before], runs[after], strict=True)]
        lines.append(f"| {word} | {spread([a - b for a, b in pairs])} | {spread([a / b for a, b in pairs])} |")
    lines += ["", "Where the seconds go (medians of the rounds):", ""]
    for way, label in WAYS.items():
        names = sorted({name for run in runs[way] for name in run["parts"]})
        cells = [f"{n} {spread([run['parts'].get(n, 0.0) for run in runs[way]]).split()[0]}" for n in names]
        lines.append(f"- {label}: {', '.join(cells)}")
    return lines


def memory(arguments: argparse.Namespace) -> list[str]:
    """Measure the peak memory of whole searches with more and more ingredients, on a tenth of the images."""
    counts = sorted({n for n in (4, 8, 12, arguments.ingredients) if n <= arguments.ingredients})
    peaks: dict[int, list[tuple[float, float]]] = {n: [] for n in counts}
    for _ in range(arguments.rounds):
        for n in counts:
            run = measure([*_command(arguments, "exact", n), "--limit", "300"], ROOT, key="seconds")
            peaks[n].append((run.anonymous / 1e6, run.resident / 1e6))
            print(f"  {n}: {run.anonymous / 1e6:.0f} MB", file=sys.stderr)
    nbytes = (Path(ingredients(arguments)[0]) / "open_clip_model.safetensors").stat().st_size
    lines = [f"## Peak memory of a search; an ingredient is {nbytes / 1e6:.1f} MB", "", machine(), ""]
    lines += ["| ingredients | of them together, MB | anonymous, MB | resident, MB |", "|---|---|---|---|"]
    for n, found in peaks.items():
        cells = [spread([pair[i] for pair in found]) for i in range(2)]
        lines.append(f"| {n} | {n * nbytes / 1e6:.0f} | {' | '.join(cells)} |")
    return [*lines, "", *memory_of_all(arguments.rounds)]


if __name__ == "__main__":
    main()
