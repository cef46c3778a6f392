"""Grams behind merged blocks, and RegMean++ by them, against the same in float64 through open_clip's own modules."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import SoupkitError
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.evaluation.adapter import build_model, fill_model
from soupkit.evaluation.merged_statistics import merged_statistics
from soupkit.evaluation.statistics import Collected, StatisticsOptions
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging import RunOptions, merge
from soupkit.merging.statistics import BEHIND
from tests.conftest import CONFIG
from tests.evaluation.test_statistics import attention_outputs

IMAGES, ALPHA, RIDGE = 6, 0.9, 1e-3
TASKS = ("digits:train", "digits:val")
CPU = EvaluationOptions(device="cpu", batch_size=4)
Seen = dict[str, torch.Tensor]


def collect(refs: list[Path], root: Path, tasks: tuple[str, ...] = TASKS, **options: object) -> list[Collected]:
    asked = {"kind": "merged_gram", "examples": IMAGES, "alpha": ALPHA, "ridge": RIDGE, **options}
    files = [root / f"{i}.safetensors" for i in range(len(refs))]
    return merged_statistics(refs, tasks, files, StatisticsOptions(**asked), evaluation=CPU)  # type: ignore[arg-type]


def opened(ref: Path, task: str) -> tuple[nn.Module, torch.Tensor]:
    """A model in float64, and its images, normalised."""
    config = CONFIG if "model_cfg" in CONFIG else {"model_cfg": CONFIG}
    options = EvaluationOptions(device="cpu", limit=IMAGES)
    with open_checkpoint(ref) as checkpoint, Evaluator(config, open_tasks([task]), options) as one:
        rows = one.pixels[0].rows
        stored = torch.from_numpy(one.pixels[0].take(rows).copy()).double().permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (one.how.mean, one.how.std))
        model = build_model(config, torch.device("cpu"), torch.float64, random=False)
        fill_model(model, checkpoint)
    return model, (stored / 255 - mean) / std


def before_blocks(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.visual.transformer.resblocks[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model.encode_image(images)
    handle.remove()
    return seen[0]


def inside(block: nn.Module, x: torch.Tensor) -> Seen:
    """What goes into the linear layers of a pre-norm block for inputs [n, length, width]."""
    normed = block.ln_1(x)
    mixed = attention_outputs(block.attn, normed)
    x = x + block.attn.out_proj(mixed)
    hidden = block.ln_2(x)
    return {
        "attn.in_proj_weight": normed, "attn.out_proj.weight": mixed, "mlp.c_fc.weight": hidden,
        "mlp.c_proj.weight": block.mlp.gelu(block.mlp.c_fc(hidden)),
    }  # fmt: skip


def gram(x: torch.Tensor) -> np.ndarray:
    rows = x.reshape(-1, x.shape[-1]).numpy()
    return rows.T @ rows / len(rows)


def solved(grams: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """The regression's solution, [in, out]."""
    grams = [ALPHA * g + (1 - ALPHA) * np.diag(np.diag(g)) for g in grams]
    ridge = RIDGE * np.trace(sum(grams)) / len(sum(grams)) / len(grams)
    grams = [g + ridge * np.eye(len(g)) for g in grams]
    return np.linalg.solve(sum(grams), sum(g @ w for g, w in zip(grams, weights, strict=True)))


@torch.no_grad()
def reference(refs: list[Path]) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The Grams of each ingredient, and the merged image tower."""
    models, images = zip(*(opened(ref, task) for ref, task in zip(refs, TASKS, strict=True)), strict=True)
    merged, _ = opened(refs[0], TASKS[0])
    state = merged.visual.state_dict()
    for name, tensor in state.items():
        tensor.copy_(sum(m.visual.state_dict()[name] for m in models) / len(models))
    grams: list[dict[str, np.ndarray]] = [{} for _ in models]
    blocks = [list(m.visual.transformer.resblocks) for m in (merged, *models)]
    hidden = [before_blocks(merged, pixels) for pixels in images]
    for depth, (block, *others) in enumerate(zip(*blocks, strict=True)):
        seen = [inside(other, x) for other, x in zip(others, hidden, strict=True)]
        for name in seen[0]:
            full = f"visual.transformer.resblocks.{depth}.{name}"
            for i, s in enumerate(seen):
                grams[i][full] = gram(s[name])
            weight = solved([g[full] for g in grams], [dict(o.named_parameters())[name].T.numpy() for o in others])
            dict(block.named_parameters())[name].copy_(torch.from_numpy(weight.T))
        hidden = [block(x) for x in hidden]
    pooled: list[torch.Tensor] = []
    handle = merged.visual.ln_post.register_forward_hook(lambda _, x, y: pooled.append(y[:, 0] if y.ndim == 3 else y))
    for i, pixels in enumerate(images):
        merged.encode_image(pixels)
        grams[i]["visual.proj"] = gram(pooled[i])
    handle.remove()
    weight = solved([g["visual.proj"] for g in grams], [m.visual.proj.numpy() for m in models])
    merged.visual.proj.copy_(torch.from_numpy(weight))
    return grams, {f"visual.{name}": tensor.numpy() for name, tensor in merged.visual.state_dict().items()}


def test_each_block_is_merged_behind_the_merged_ones(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = tiny_clips[1:3]
    grams, tower = reference(refs)
    collected = collect(refs, tmp_path)
    for i, expected in enumerate(grams):
        found = load_file(tmp_path / f"{i}.safetensors")
        assert set(found) == set(expected) and collected[i].tensors == len(found)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, 2e-3, 1e-5 * np.abs(values).max(), err_msg=name)
    files = [str(one.path) for one in collected]
    soup = merge(refs, method="regmean_plusplus", parameters={"statistics": files}, options=RunOptions(device="cpu"))
    for name, values in tower.items():
        np.testing.assert_allclose(soup[name].double(), values, 5e-3, 1e-4 * np.abs(values).max(), err_msg=name)
    written = merge(refs, tmp_path / "soup", method="regmean_plusplus", parameters={"statistics": files})
    assert any("have no statistics and are averaged" in n and "of the text tower" in n for n in written.notes)
    plain = merge(refs, options=RunOptions(device="cpu"))
    assert torch.equal(soup["text_projection"], plain["text_projection"])  # of what there are no Grams
    assert not torch.equal(soup["visual.proj"], plain["visual.proj"])


def test_a_little_memory_makes_the_same_grams(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = tiny_clips[1:3]
    collect(refs, tmp_path / "one")
    collect(refs, tmp_path / "many", memory=1 << 15)
    for i in range(2):
        one, many = (load_file(tmp_path / f"{name}/{i}.safetensors") for name in ("one", "many"))
        for name in one:
            np.testing.assert_allclose(many[name], one[name], 1e-4, 1e-6 * float(one[name].abs().max()))
    with safe_open(tmp_path / "one/0.safetensors", "pt") as file:
        behind = json.loads(file.metadata()[BEHIND])
    assert (behind["alpha"], behind["ridge"], len(behind["weights"])) == (ALPHA, RIDGE, 2)
    assert [one.status for one in collect(refs, tmp_path / "one")] == ["unchanged"] * 2
    with pytest.raises(SoupkitError, match="holds something else"):
        collect(refs, tmp_path / "one", alpha=0.5)
    assert load_file(tmp_path / "one/0.safetensors").keys() == one.keys()


def test_one_ingredient_gives_itself(tiny_clips: list[Path], tmp_path: Path) -> None:
    files = [str(one.path) for one in collect(tiny_clips[1:2], tmp_path, TASKS[:1])]
    soup = merge(tiny_clips[1:2], method="regmean_plusplus", parameters={"statistics": files})
    with open_checkpoint(tiny_clips[1]) as own:
        for name in soup:
            np.testing.assert_allclose(soup[name], own.read(name), 1e-3, 1e-4)


def test_files_of_another_merge_are_refused(tiny_clips: list[Path], tmp_path: Path) -> None:
    pair, three = collect(tiny_clips[1:3], tmp_path / "2"), collect(tiny_clips[:3], tmp_path / "3", ("digits",) * 3)

    def words(refs: list[Path], files: list[Collected]) -> str:
        given = {"statistics": [str(one.path) for one in files]}
        with pytest.raises(SoupkitError) as refusal:
            merge(refs, tmp_path / "soup", method="regmean_plusplus", parameters=given)
        assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()
        return refusal.value.what

    assert "behind a merge of 3 models" in words(tiny_clips[1:3], three[1:])
    assert "behind another merge" in words(tiny_clips[1:3], [pair[0], three[2]])


def test_calls_that_make_no_sense_are_refused(
    tiny_clips: list[Path], tmp_path: Path, inline: Callable[..., object]
) -> None:
    def words(*given: object) -> str:
        run = inline("statistics", *given, "--examples", 3)
        assert run.returncode  # type: ignore[attr-defined]
        return run.stderr  # type: ignore[attr-defined]

    pair, kind = tiny_clips[1:3], ("--kind", "merged_gram")
    file, other = tmp_path / "a", tmp_path / "b"
    assert "is given 1 times for 2 checkpoints" in words(*pair, *kind, "--task", "digits", "-o", file, "-o", other)
    tasks = ("--task", "digits", "--task", "digits")
    assert "names one file twice" in words(*pair, *kind, *tasks, "-o", file, "-o", file)
    assert "is not between 0 and 1" in words(*pair, *kind, *tasks, "-o", file, "-o", other, "--alpha", "2")
    assert list(tmp_path.iterdir()) == []
    run = inline("statistics", *pair, *kind, *tasks, "--examples", 3, "-o", file, "-o", other, "--json")
    assert [one["kind"] for one in json.loads(run.stdout)["files"]] == ["merged_gram"] * 2  # type: ignore[attr-defined]
