"""Statistics of models on data: Grams against what hooks see, Fisher information against autograd, all in float64."""

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
from soupkit.evaluation.statistics import Collected, StatisticsOptions, collect_statistics
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging.statistics import TRANSPOSED
from tests.conftest import CONFIG

IMAGES = 6
CPU = EvaluationOptions(device="cpu", batch_size=4)
Subject = tuple[nn.Module, torch.Tensor, torch.Tensor, np.ndarray]


def collect(ref: Path, output: Path, kind: str, task: str = "digits:train", **options: object) -> Collected:
    asked = StatisticsOptions(kind=kind, **{"examples": IMAGES, **options})  # type: ignore[arg-type]
    return collect_statistics(ref, task, output, asked, evaluation=CPU)


@pytest.fixture(scope="module")
def subject(tiny_clips: list[Path]) -> Subject:
    """A model in float64 without fused attention, its images, its classifier times its scale, and their labels."""
    config = CONFIG if "model_cfg" in CONFIG else {"model_cfg": CONFIG}
    options = EvaluationOptions(device="cpu", limit=IMAGES)
    with open_checkpoint(tiny_clips[1]) as checkpoint, Evaluator(config, open_tasks(["digits:train"]), options) as one:
        one.load(checkpoint)
        classifier = one.text_side(0).double() * one.scale
        rows = one.pixels[0].rows
        stored = torch.from_numpy(one.pixels[0].take(rows).copy()).double().permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (one.how.mean, one.how.std))
        labels = one.pixels[0].labels[rows]
        model = build_model(config, torch.device("cpu"), torch.float64, random=False)
        fill_model(model, checkpoint)
    return model, (stored / 255 - mean) / std, classifier, labels


def attention_outputs(module: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Return what goes into the out-projection for inputs [n, length, width], by attention's formula."""
    n, length, width = x.shape
    q, k, v = (x @ module.in_proj_weight.T + module.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (t.view(n, length, module.num_heads, -1).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / (width // module.num_heads) ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(n, length, width)


def test_grams_are_those_of_what_hooks_see(subject: Subject, tiny_clips: list[Path], tmp_path: Path) -> None:
    model, images, _, _ = subject
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in model.visual.named_modules(prefix="visual"):
        if isinstance(module, nn.MultiheadAttention):

            def attend(module: nn.Module, given: tuple[torch.Tensor, ...], named: dict, name: str = name) -> None:
                x = given[0] if given else named["query"]
                assert module.batch_first
                seen[f"{name}.in_proj_weight"], seen[f"{name}.out_proj.weight"] = x, attention_outputs(module, x)

            handles.append(module.register_forward_pre_hook(attend, with_kwargs=True))
        elif isinstance(module, nn.Linear) and not name.endswith("out_proj"):
            handles.append(
                module.register_forward_pre_hook(lambda _, x, name=name: seen.update({f"{name}.weight": x[0]}))
            )
        elif name == "visual.ln_post":
            handles.append(module.register_forward_hook(lambda _, x, y: seen.update({"visual.proj": y})))
    with torch.no_grad():
        model.encode_image(images)
    for handle in handles:
        handle.remove()
    seen["visual.proj"] = seen["visual.proj"][:, 0] if seen["visual.proj"].ndim == 3 else seen["visual.proj"]
    result = collect(tiny_clips[1], tmp_path / "a.safetensors", "gram")
    grams = load_file(tmp_path / "a.safetensors")
    assert set(grams) == set(seen) and result.tensors == len(seen) and result.status == "written"
    for name, x in seen.items():
        rows = x.reshape(-1, x.shape[-1])
        expected = (rows.T @ rows / len(rows)).numpy()
        np.testing.assert_allclose(grams[name].numpy(), expected, 1e-3, 1e-6 * np.abs(expected).max(), err_msg=name)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()[TRANSPOSED] == '["visual.proj"]'


def test_fisher_is_the_mean_squared_gradient(subject: Subject, tiny_clips: list[Path], tmp_path: Path) -> None:
    model, images, classifier, labels = subject
    parameters = dict(model.visual.named_parameters(prefix="visual"))
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)
    for image, label in zip(images, labels, strict=True):
        features = model.encode_image(image[None])
        logits = features / features.norm() @ classifier
        gradients = torch.autograd.grad(logits.log_softmax(-1)[0, int(label)], list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            expected[name] += gradient.square() / len(images)
    for p in parameters.values():
        p.requires_grad_(False)
    collect(tiny_clips[1], tmp_path / "a.safetensors", "fisher", labels="true")
    fisher = load_file(tmp_path / "a.safetensors")
    assert set(fisher) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(fisher[name].numpy(), values.numpy(), 5e-3, 1e-4 * float(values.max()), err_msg=name)


@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_several_passes_make_the_same_statistics(kind: str, tiny_clips: list[Path], tmp_path: Path) -> None:
    collect(tiny_clips[1], tmp_path / "one.safetensors", kind)
    collect(tiny_clips[1], tmp_path / "many.safetensors", kind, memory=1 << 15)
    one, many = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "many"))
    for name in one:  # how autograd adds up depends, in the last bits, on what is asked of it
        np.testing.assert_allclose(many[name].numpy(), one[name].numpy(), 1e-4, 1e-5 * float(one[name].abs().max()))
    again = collect(tiny_clips[1], tmp_path / "one.safetensors", kind)
    assert again.status == "unchanged" and again.tensors == len(load_file(tmp_path / "one.safetensors"))


def test_labels_are_drawn_by_the_seed(tiny_clips: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, file in enumerate(files):
        collect(tiny_clips[1], file, "fisher", seed=seed)
    one, other = map(load_file, files)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_collected_is_refused_and_nothing_is_written(
    tiny_clips: list[Path], tmp_path: Path, inline: Callable[..., object]
) -> None:
    def words(kind: str = "gram", **options: object) -> str:
        with pytest.raises(SoupkitError) as refusal:
            collect(tiny_clips[1], tmp_path / "out", kind, **options)  # type: ignore[arg-type]
        return f"{refusal.value.where}: {refusal.value.what}"

    assert words("grams") == "--kind grams: is no kind of statistics"
    assert words("fisher", labels="false") == "--labels false: is no kind of labels"
    assert words(examples=0) == "--examples 0: asks for no image"
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    assert words().endswith("out: holds something else") and (tmp_path / "out").read_text() == "mine"


def test_the_commands_make_a_soup_by_statistics(
    tiny_clips: list[Path], tmp_path: Path, inline: Callable[..., object]
) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for ref, file in zip(tiny_clips[1:], files, strict=True):
        run = inline("statistics", ref, "--task", "digits:val", "--kind", "gram", "--examples", 3, "-o", file)
        assert run.returncode == 0, run.stderr  # type: ignore[attr-defined]
    options = [word for file in files for word in ("--statistics", file)]
    run = inline("merge", *tiny_clips[1:], "--method", "regmean", *options, "-o", tmp_path / "soup")
    assert run.returncode == 0, run.stderr  # type: ignore[attr-defined]
    assert (tmp_path / "soup/open_clip_model.safetensors").is_file()
