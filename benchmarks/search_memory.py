"""Peak memory of searches whose soups take all of their ingredients: a random model, and copies that differ from it in
one number, too little to change what they say of an image."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import spread
from benchmarks.measure import Run, measure

ROOT = Path(__file__).parents[1]
# So small that the merge in the end asks for no second process: what forks share would count twice.
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 256, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


def make_alike(place: Path, count: int) -> list[Path]:
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
        made.append(place / str(i))
        made[-1].mkdir()
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
    found = json.loads((output / "search.json").read_text())
    assert len(found["selected"]) == len(refs), "the soup is to take all"
    return run


def memory_of_all(rounds: int, counts: tuple[int, ...] = (4, 16)) -> list[str]:
    """Return a table of the peaks with so many ingredients."""
    with TemporaryDirectory(prefix="soupkit-") as place:
        made = make_alike(Path(place), max(counts))
        nbytes = (made[0] / "open_clip_model.safetensors").stat().st_size
        lines = [f"Searches whose soups take all; an ingredient is {nbytes / 1e6:.0f} MB:", ""]
        lines += [
            "| strategy | ingredients | of them together, MB | anonymous, MB | resident, MB |",
            "|---|---|---|---|---|",
        ]
        for strategy in ("greedy", "weights"):
            for n in counts:
                runs = [search(made[:n], Path(place) / f"{strategy}-{n}-{i}", strategy) for i in range(rounds)]
                cells = [spread([r.anonymous / 1e6 for r in runs]), spread([r.resident / 1e6 for r in runs])]
                print(f"  {strategy}, {n}: {cells[0]} MB", file=sys.stderr)
                lines.append(f"| `{strategy}` | {n} | {n * nbytes / 1e6:,.0f} | {' | '.join(cells)} |")
    return lines
