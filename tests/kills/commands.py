"""The commands that write, each in its shortest form: what it reads is laid out, and its words are returned."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import CONFIG, TINY_MODEL, random_state, save

Words = list[object]
RUN: dict[str, Any] = {
    "model": TINY_MODEL, "data": {"shards": "digits:train"}, "batch_size": 16, "samples": 64, "lr": 1e-3,
    "checkpoint_every": 16, "ema": 0.9, "snapshots": [32],
}  # fmt: skip


def clips(root: Path, count: int = 3) -> list[str]:
    """Lay out real open_clip models of one lineage."""
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(TINY_MODEL["embed_dim"], dict(TINY_MODEL["vision_cfg"]), dict(TINY_MODEL["text_cfg"]))
    base = {k: v.clone() for k, v in model.state_dict().items()}
    names = [f"clip{i}" for i in range(count)]
    for i, name in enumerate(names):
        save(root / name, {k: v + 0.01 * i * torch.randn_like(v) for k, v in base.items()}, CONFIG)
    return names


def _merge(root: Path) -> Words:
    for i in range(2):
        save(root / f"in{i}", random_state(i))
    return ["merge", "in0", "in1", "-o", "out", "--device", "cpu", "--threads", 1, "--slab-size", "64KiB"]


def _merge_fresh(root: Path) -> Words:
    words = _merge(root)
    save(root / "out", random_state(5))
    (root / "out" / "soup.json").write_text('{"schema": 1, "method": "uniform", "ingredients": []}')
    (root / "out" / "notes.txt").write_text("of the soup that makes way")
    return [*words, "--fresh"]


def _evaluate(root: Path) -> Words:
    return ["evaluate", *clips(root, 2), "--task", "digits:val", "--limit", 20, "--device", "cpu", "-o", "scores.json"]


def _search(strategy: str) -> Callable[[Path], Words]:
    def lay_out(root: Path) -> Words:
        options: Words = ["--task", "digits:val", "--limit", 20, "--device", "cpu", "--strategy", strategy]
        if strategy in ("weights", "experts"):
            options += ["--budget", 4]
        if strategy == "experts":
            options += ["--task", "digits:train"]
        names = clips(root)
        if strategy == "methods":
            options += [
                "--base",
                names.pop(0),
                "--option",
                "methods=uniform",
                "--option",
                "methods=task_arithmetic",
                "--budget",
                4,
            ]
        if strategy == "learned":
            options += ["--option", "epochs=2"]
        return ["search", *names, "-o", "out", *options]

    return lay_out


_SCORE = """
import sys
import safetensors
with safetensors.safe_open(f"{sys.argv[1]}/open_clip_model.safetensors", "np") as weights:
    print("asked about", sys.argv[1])
    print(-abs(float(weights.get_tensor("text_projection").mean()) - 0.03))
"""


def _search_by_score(root: Path) -> Words:
    for i in range(3):
        save(root / f"in{i}", random_state(i))
    (root / "score.py").write_text(_SCORE)
    command = f"{sys.executable} score.py {{model}}"
    return ["search", "in0", "in1", "in2", "--score", command, "--score-file", "score.py", "-o", "out"]


def _merge_in_passes(root: Path) -> Words:
    for i in range(3):
        save(root / f"in{i}", random_state(i))
    words: Words = ["merge", "in1", "in2", "--base", "in0", "--method", "ties", "--max-shard-size", "420000"]
    return [*words, "-o", "out", "--device", "cpu", "--threads", 1, "--slab-size", "64KiB"]


def _merge_adapters(root: Path) -> Words:
    from safetensors.torch import save_file

    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], "base_model_name_or_path": "base"}
    for i in range(2):
        (root / f"in{i}").mkdir()
        (root / f"in{i}" / "adapter_config.json").write_text(json.dumps(config))
        state = random_state(i)["text_projection"]
        factors = {"lora_A": state[:2], "lora_B": state[:6, :2]}
        named = {f"base_model.model.q.{name}.weight": value.contiguous() for name, value in factors.items()}
        save_file(named, root / f"in{i}" / "adapter_model.safetensors")
    return ["merge", "in0", "in1", "-o", "out", "--rank", 2, "--device", "cpu"]


def _interpolate(root: Path) -> Words:
    words: Words = ["interpolate", *clips(root, 2), "--task", "digits:val", "--limit", 20, "--device", "cpu"]
    return [*words, "--points", 3, "-o", "curve.json", "--plot", "curve.svg"]


def _statistics(root: Path) -> Words:
    return [
        "statistics", *clips(root, 1), "--kind", "fisher", "--task", "digits", "--examples", 8, "--device", "cpu",
        "-o", "a.safetensors",
    ]  # fmt: skip


def _train(root: Path) -> Words:
    (root / "run.yaml").write_text(json.dumps(RUN))
    return ["train", "run.yaml", "-o", "out", "--device", "cpu", "--workers", 0, "--threads", 1]


def _train_on_two_ranks(root: Path) -> Words:
    (root / "run.yaml").write_text(json.dumps({**RUN, "samples": 48, "shard": True, "ema": None, "snapshots": []}))
    return ["train", "run.yaml", "-o", "out", "--device", "cpu", "--workers", 0, "--threads", 1]


def _train_fresh(root: Path) -> Words:
    words = _train(root)
    (root / "out").mkdir()
    (root / "out" / "notes.txt").write_text("of the run that makes way")
    return [*words, "--fresh"]


def _run(root: Path) -> Words:
    a, b, _ = clips(root)
    run = {**RUN, "samples": 32, "ema": None, "snapshots": []}
    recipe = {
        "version": 1,
        "name": "small",
        "train": {"a": {**run, "model": None, "init": a}},
        "soup": {"two": {"ingredients": ["${train.a}", b]}},
        "evaluate": {"refs": ["${soup.two}"], "tasks": ["digits:val"], "limit": 20},
        "report": {},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return ["run", "recipe.yaml", "-o", "out", "--device", "cpu", "--workers", 0, "--threads", 1]


def _soup(root: Path) -> None:
    import soupkit

    names = clips(root)
    soupkit.merge([root / name for name in names], root / "soup")


def _push_folder(root: Path) -> Words:
    _soup(root)
    return ["push", "soup", "me/soup", "--folder", "hub", "--license", "mit"]


def _push_over(root: Path) -> Words:
    """Over a repository that was laid out before, and in which the user has files and a link of their own."""
    import soupkit
    from soupkit.publishing.hub.push import PushOptions, publish

    words = _push_folder(root)
    publish(root / "soup", "me/soup", options=PushOptions(folder=root / "hub", license="mit"))
    shutil.rmtree(root / "soup")
    soupkit.merge([root / "clip1", root / "clip2"], root / "soup")
    (root / "hub" / "mine").mkdir()
    (root / "hub" / "mine" / "notes.txt").write_text("mine")
    (root / "hub" / "link").symlink_to("mine/notes.txt")
    return words


def _report(root: Path) -> Words:
    scores = [
        {
            "ref": ref, "fingerprint": ref, "task": "digits", "split": "test", "metric": "acc1", "value": value,
            "n": 500, "low": value - 0.03, "high": value + 0.03, "metrics": {"acc1": value},
        }
        for ref, value in (("a", 0.5), ("b", 0.6))
    ]  # fmt: skip
    (root / "scores.json").write_text(json.dumps({"schema": 1, "command": "evaluate", "scores": scores}))
    return ["report", "scores.json", "-o", "report.html", "--png", "figures"]


RANKS = {"train on two ranks": 2}
COMMANDS: dict[str, Callable[[Path], Words]] = {
    "merge": _merge,
    "merge --fresh": _merge_fresh,
    "merge in passes": _merge_in_passes,
    "merge of adapters": _merge_adapters,
    "evaluate": _evaluate,
    "search greedy": _search("greedy"),
    "search backward": _search("backward"),
    "search swap": _search("swap"),
    "search weights": _search("weights"),
    "search experts": _search("experts"),
    "search learned": _search("learned"),
    "search methods": _search("methods"),
    "search by a score": _search_by_score,
    "interpolate": _interpolate,
    "statistics": _statistics,
    "train": _train,
    "train on two ranks": _train_on_two_ranks,
    "train --fresh": _train_fresh,
    "run": _run,
    "push --folder": _push_folder,
    "push --folder, over another": _push_over,
    "report": _report,
}
