"""Which model a checkpoint is, and whether several are the same."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.architecture import (
    Architecture,
    architecture_of,
    candidates_by_shape,
    count_parameters,
    known_models,
    named_config,
)
from soupkit.checkpoint.compatibility import agree
from soupkit.checkpoint.config_differences import config_differences
from soupkit.errors import ArchitectureError, CheckpointError, UsageError
from tests.conftest import CONFIG, random_state, save


def shapes_of_open_clip(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def rn50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rn50") / "rn50.safetensors"
    shapes = shapes_of_open_clip("RN50")
    kinds = {n: torch.int64 if n.endswith("num_batches_tracked") else torch.bfloat16 for n in shapes}
    save_file({n: torch.zeros(s, dtype=kinds[n]) for n, s in shapes.items()}, path)
    return path


def opened(path: Path, **options: Any) -> Architecture:
    with open_checkpoint(path) as checkpoint:
        return architecture_of(checkpoint, **options)


def test_bigg_is_counted_as_published() -> None:
    known = known_models()["ViT-bigG-14"]
    assert (round(known["image"] / 1e6, 1), round(known["text"] / 1e6, 1)) == (1844.9, 694.7)


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "RN50", "ViT-bigG-14", "ViT-B-16-SigLIP", "convnext_base", "coca_ViT-B-32"]
)
def test_the_table_of_known_models_is_what_open_clip_builds(name: str) -> None:
    shapes = shapes_of_open_clip(name)
    assert name in candidates_by_shape(shapes)
    total, image, text = count_parameters(shapes)
    assert {"parameters": total, "image": image, "text": text}.items() <= known_models()[name].items()


def test_parameters_are_counted_as_torch_counts_them() -> None:
    with torch.device("meta"):
        model = open_clip.create_model("RN50", pretrained=None, load_weights=False, device="meta")
    total, image, _ = count_parameters({k: tuple(v.shape) for k, v in model.state_dict().items()})
    assert total == sum(p.numel() for p in model.parameters())
    assert image == sum(p.numel() for p in model.visual.parameters())


def test_bare_weights_are_found_by_their_shapes_without_quickgelu(rn50: Path) -> None:
    found = opened(rn50)
    assert (found.model, found.source, found.candidates) == ("RN50", "shapes", ("RN50", "RN50-quickgelu"))


def test_a_name_speaks_for_bare_weights(rn50: Path) -> None:
    found = opened(rn50, model="RN50-quickgelu")
    assert found.model == "RN50-quickgelu" and found.source == "--model"
    assert found.config is not None and found.config["model_cfg"]["quick_gelu"] is True


def test_the_config_of_a_name_is_the_one_open_clip_has() -> None:
    assert named_config("ViT-L-14-336")["model_cfg"] == open_clip.get_model_config("ViT-L-14-336")


def test_a_name_of_other_shapes_is_refused(rn50: Path) -> None:
    with pytest.raises(ArchitectureError, match="not those of ViT-B-32"):
        opened(rn50, model="ViT-B-32")


def test_an_unknown_name_suggests_the_nearest(rn50: Path) -> None:
    with pytest.raises(UsageError) as caught:
        opened(rn50, model="RN51")
    assert "RN50" in caught.value.hint


def test_preprocessing_of_bare_weights_comes_from_a_file(rn50: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(CONFIG["preprocess_cfg"]))
    found = opened(rn50, preprocess=tmp_path / "p.json")
    assert found.config is not None and found.config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(UsageError, match="preprocess_cfg"):
        opened(rn50, preprocess=tmp_path / "p.json")


def test_a_config_that_names_a_model_of_other_shapes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x", random_state(0), named_config("ViT-B-32"))
    with pytest.raises(ArchitectureError, match="ViT-B-32"):
        opened(path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("preprocess_cfg", "mean", [0.1, 0.2, 0.3]),
        ("preprocess_cfg", "interpolation", "bilinear"),
        ("model_cfg", "quick_gelu", True),
    ],
)
def test_configs_that_differ_are_shown(
    tiny_clips: list[Path], tmp_path: Path, section: str, key: str, value: Any
) -> None:
    config = copy.deepcopy(CONFIG)
    config[section][key] = value  # type: ignore[index]
    with open_checkpoint(tiny_clips[0]) as first:
        state = {n: first[n].clone() for n in first}
        with open_checkpoint(save(tmp_path / "x", state, config)) as other, pytest.raises(ArchitectureError) as caught:
            agree([first, other])
    assert f"{section}.{key}" in caught.value.what


def test_configs_that_build_the_same_model_are_equal_however_they_are_written() -> None:
    written_out = copy.deepcopy(CONFIG)
    written_out["model_cfg"]["vision_cfg"] |= {"mlp_ratio": 4.0, "patch_dropout": 0.5, "timm_model_name": None}  # type: ignore[index]
    written_out["model_cfg"] |= {"quick_gelu": False, "init_logit_scale": 2.0}  # type: ignore[operator]
    written_out["preprocess_cfg"] |= {"fill_color": 0, "mode": "RGB"}  # type: ignore[operator]
    assert config_differences(CONFIG, written_out) == {}
    written_out["model_cfg"]["vision_cfg"]["no_ln_pre"] = True  # type: ignore[index]
    assert config_differences(CONFIG, written_out) == {"model_cfg.vision_cfg.no_ln_pre": (False, True)}


def test_sizes_written_in_two_ways_are_the_same(tiny_clips: list[Path], tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    config["preprocess_cfg"]["size"] = [16, 16]  # type: ignore[index]
    with open_checkpoint(tiny_clips[0]) as first:
        state = {n: first[n].clone() for n in first}
        with open_checkpoint(save(tmp_path / "x", state, config)) as other:
            assert agree([first, other]).config is not None


def test_bare_weights_among_others_take_their_config(tiny_clips: list[Path], tmp_path: Path) -> None:
    with open_checkpoint(tiny_clips[0]) as first:
        state = {n: first[n].clone() for n in first}
        with open_checkpoint(save(tmp_path / "x", state)) as other:
            found = agree([other, first])
    assert found.config == CONFIG and any("no config" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_cfg": [1]}, "has no model_cfg with vision_cfg and text_cfg"),
        ({"model_cfg": {"vision_cfg": {}}}, "has no model_cfg with vision_cfg and text_cfg"),
        ({"preprocess_cfg": [1]}, "has a preprocess_cfg that is no object"),
        ({"preprocess_cfg": None}, "has a preprocess_cfg that is no object"),
    ],
)
def test_the_section_of_a_config_that_is_wrong_is_the_one_that_is_named(
    change: dict[str, object], said: str, tiny_clips: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_clips[0], tmp_path / "a")
    (tmp_path / "a" / "open_clip_config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path / "a")
