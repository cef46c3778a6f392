"""Peak memory of searches whose soups take all of their ingredients, which are nearly alike.

A random model, and copies that differ from it in one number, too little to change what they say of an image.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import ROOT
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import Run, measure

# So small that the merge in the end asks for no second process: what forks share would count twice.
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 256, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ingredients", type=int, nargs="+", default=[4, 16], help="how many, for each row")
    parser.add_argument("--rounds", type=int, default=3)


def make_alike(directory: Path, count: int) -> list[Path]:
    """Write `count` ingredients in float32; return their directories."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {name: tensor.contiguous() for name, tensor in CLIP(**MODEL).state_dict().items()}
    pixels = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    made = []
    for i in range(count):
        state["visual.class_embedding"][0] += 1e-7
        made.append(directory / str(i))
        made[-1].mkdir(parents=True)
        save_file(state, made[-1] / "open_clip_model.safetensors", {"format": "pt"})
        config = json.dumps({"model_cfg": MODEL, "preprocess_cfg": pixels})
        (made[-1] / "open_clip_config.json").write_text(config)
    return made


def search(refs: list[Path], output: Path, strategy: str) -> Run:
    """Search among `refs` on a few of the digits; every trial is a tie, and `ge` accepts it."""
    options = ["--task", "digits", "--limit", "32", "--batch-size", "16", "--device", "cpu", "--no-cache", "--json"]
    options += ["--accept", "ge", "--strategy", strategy, "--budget", "6"]
    command = [sys.executable, "-m", "soupkit", "greedy-search", *map(str, refs), *options, "-o", str(output)]
    run = measure(command, ROOT, key="seconds")
    selected = json.loads((output / "search.json").read_text())["selected"]
    assert len(selected) == len(refs), "the soup is to take all"
    return run


def alike(arguments: argparse.Namespace) -> list[str]:
    """Search with each number of ingredients, and return the peaks."""
    counts: list[int] = arguments.ingredients
    with TemporaryDirectory(prefix="soupkit-") as directory:
        made = make_alike(Path(directory), max(counts))
        nbytes = (made[0] / "open_clip_model.safetensors").stat().st_size
        lines = [f"## Peak memory of searches whose soups take all; an ingredient is {nbytes / 1e6:.0f} MB", ""]
        lines += [machine(), ""]
        lines += [
            "| strategy | ingredients | of them together, MB | anonymous, MB | resident, MB |",
            "|---|---|---|---|---|",
        ]
        for strategy in ("greedy", "weights"):
            for n in counts:
                outputs = [Path(directory) / f"{strategy}-{n}-{i}" for i in range(arguments.rounds)]
                runs = [search(made[:n], output, strategy) for output in outputs]
                cells = [spread([r.anonymous / 1e6 for r in runs]), spread([r.resident / 1e6 for r in runs])]
                print(f"  {strategy}, {n}: {cells[0]} MB", file=sys.stderr)
                lines.append(f"| `{strategy}` | {n} | {n * nbytes / 1e6:,.0f} | {' | '.join(cells)} |")
    return lines


SUBJECT = Subject("alike", __doc__, add_arguments, alike)
