"""What a merge writes: a directory that open_clip opens, and a record of how it was made."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from soupkit import __version__
from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.writer import lay_out
from soupkit.errors import ArchitectureError, StorageError, UsageError
from soupkit.merging import RunOptions, merge
from tests.conftest import CONFIG, SHAPES, random_state, save

WEIGHTS = "open_clip_model.safetensors"


def test_the_soup_opens_with_open_clip_and_is_the_mean(tiny_clips: list[Path], tmp_path: Path) -> None:
    merge(tiny_clips, tmp_path / "soup")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'soup'}")
    states = [load_file(p / WEIGHTS) for p in tiny_clips]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, sum(s[name].double() for s in states).div(3).float(), rtol=1e-7, atol=0)
    assert preprocess.transforms[-1].mean == [0.5, 0.5, 0.5]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'soup'}")(["a photo"])
    assert tokens.shape == (1, 8)
    assert json.loads((tmp_path / "soup" / "open_clip_config.json").read_text()) == CONFIG


def test_equal_weights_are_a_sum_and_one_division(tmp_path: Path) -> None:
    states = [random_state(i, torch.bfloat16) for i in range(3)]
    merge([save(tmp_path / str(i), s) for i, s in enumerate(states)], tmp_path / "soup")
    soup = load_file(tmp_path / "soup" / WEIGHTS)
    for name in SHAPES:
        total = sum((s[name].float().numpy() for s in states[1:]), states[0][name].float().numpy())
        want = torch.from_numpy(np.asarray(total / np.float32(3))).to(torch.bfloat16)
        assert torch.equal(soup[name], want.view(soup[name].shape)), name


def test_soup_json_says_how_it_was_made(tiny_clips: list[Path], tmp_path: Path) -> None:
    result = merge(tiny_clips[:2], tmp_path / "soup", weights=[3, 1], options=RunOptions(sha256=True))
    document = json.loads((tmp_path / "soup" / "soup.json").read_text())

    def sha256(path: Path) -> str:
        return hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()

    assert document["schema"] == 1 and document["soupkit"] == __version__
    assert (document["method"], document["parameters"], document["dtype"]) == ("linear", {"weight": [3, 1]}, "float32")
    assert (document["model"], document["model_from"], document["base"]) == (None, "open_clip_config.json", None)
    assert [i["weight"] for i in document["ingredients"]] == [0.75, 0.25]
    assert [i["ref"] for i in document["ingredients"]] == [str(p) for p in tiny_clips[:2]]
    assert [i["sha256"] for i in document["ingredients"]] == [sha256(p) for p in tiny_clips[:2]]
    assert document["output"]["sha256"] == sha256(tmp_path / "soup")
    assert document["output"]["fingerprint"] == result.fingerprint
    assert set(document["output"]["towers"]) == {"image", "text"}


def test_the_base_is_recorded(tiny_clips: list[Path], tmp_path: Path) -> None:
    merge(tiny_clips[1:], tmp_path / "soup", method="interpolate", base=tiny_clips[0])
    document = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert document["base"]["ref"] == str(tiny_clips[0]) and document["base"]["fingerprint"].startswith("xxh3:")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_soup_is_written_in_the_dtype_that_is_asked_for(three: list[Path], tmp_path: Path, dtype: str) -> None:
    result = merge(three, tmp_path / "soup", dtype=dtype)
    assert {str(t.dtype) for t in load_file(tmp_path / "soup" / WEIGHTS).values()} == {f"torch.{dtype}"}
    assert result.dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float8_e8m0fnu", "half", "bf16"])
def test_a_dtype_that_is_no_float_of_its_own_is_refused(three: list[Path], tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        merge(three, tmp_path / "soup", dtype=dtype)


def test_mixed_dtypes_give_the_widest_and_say_so(tmp_path: Path) -> None:
    pairs = {(torch.bfloat16, torch.float32): "float32", (torch.bfloat16, torch.float16): "float32"}
    for i, ((a, b), want) in enumerate(pairs.items()):
        refs = [save(tmp_path / f"{i}a", random_state(0, a)), save(tmp_path / f"{i}b", random_state(1, b))]
        result = merge(refs, tmp_path / f"{i}soup")
        assert result.dtype == want and any("widest" in note for note in result.notes)


def test_shards_hold_what_one_file_holds(three: list[Path], tmp_path: Path) -> None:
    one = merge(three, tmp_path / "one")
    many = merge(three, tmp_path / "many", max_shard_bytes=250_000)
    assert many.fingerprint == one.fingerprint and any("shards" in note for note in many.notes)
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 1
    with open_checkpoint(tmp_path / "many") as shards, open_checkpoint(tmp_path / "one") as single:
        assert all(torch.equal(shards[n], single[n]) for n in single)
    with pytest.raises(UsageError, match="alone"):
        merge(three, tmp_path / "few", max_shard_bytes=1000)


def test_batch_normalisation_is_averaged_and_that_is_said(tmp_path: Path) -> None:
    refs = []
    for i in range(2):
        state = random_state(i)
        state["visual.bn1.running_mean"] = torch.full((4,), float(i))
        state["visual.bn1.num_batches_tracked"] = torch.tensor(100 + i)
        refs.append(save(tmp_path / str(i), state))
    result = merge(refs, tmp_path / "soup")
    soup = load_file(tmp_path / "soup" / WEIGHTS)
    assert soup["visual.bn1.num_batches_tracked"] == 100 and soup["visual.bn1.running_mean"].tolist() == [0.5] * 4
    assert any("running statistics" in note for note in result.notes)


@pytest.mark.parametrize(
    "values", [(torch.tensor([1, 2]), torch.tensor([1, 3])), (torch.tensor([True]), torch.tensor([False]))]
)
def test_integers_that_differ_are_an_error_and_equal_ones_are_copied(
    values: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    refs = [save(tmp_path / f"{i}", {**random_state(i), "ids": v}) for i, v in enumerate(values)]
    with pytest.raises(ArchitectureError, match="ids"):
        merge(refs, tmp_path / "soup")
    same = [save(tmp_path / f"same{i}", {**random_state(i), "ids": values[0]}) for i in range(2)]
    merge(same, tmp_path / "soup")
    assert torch.equal(load_file(tmp_path / "soup" / WEIGHTS)["ids"], values[0])


def with_tokenizer(path: Path, source: Path, text: str) -> Path:
    shutil.copytree(source, path)
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/tokenizer"
    (path / "open_clip_config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(text)
    return path


def test_tokenizer_files_travel_with_the_weights(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = [with_tokenizer(tmp_path / str(i), tiny_clips[i], "{}") for i in range(2)]
    merge(refs, tmp_path / "soup")
    assert (tmp_path / "soup" / "tokenizer.json").read_text() == "{}"


def test_tokenizers_that_differ_are_an_error(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = [with_tokenizer(tmp_path / str(i), tiny_clips[i], f"{i}") for i in range(2)]
    with pytest.raises(ArchitectureError, match="not the same file"):
        merge(refs, tmp_path / "soup")


def test_a_soup_can_be_an_ingredient(three: list[Path], tmp_path: Path) -> None:
    first = merge(three[:2], tmp_path / "first")
    second = merge([tmp_path / "first", three[2]], tmp_path / "second")
    assert second.ingredients[0]["fingerprint"] == first.fingerprint


def test_a_dry_run_writes_nothing(three: list[Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = merge(three, tmp_path / "soup", options=RunOptions(dry_run=True))
    assert result.status == "planned" and sorted(tmp_path.iterdir()) == before


def test_weights_of_no_known_model_make_a_plain_directory_and_that_is_said(three: list[Path], tmp_path: Path) -> None:
    result = merge(three, tmp_path / "soup")
    assert any("plain safetensors directory" in note for note in result.notes)
    assert sorted(p.name for p in (tmp_path / "soup").iterdir()) == [WEIGHTS, "soup.json"]


def bare(path: Path, model: str) -> Path:
    """A file with the tensors of an open_clip model, all zero, most of it a hole."""
    with torch.device("meta"):
        shapes = open_clip.create_model(model, load_weights=False, device="meta").state_dict()
    layout = lay_out({n: ("BF16", tuple(t.shape)) for n, t in shapes.items()}, {"format": "pt"}, None)
    path.write_bytes(layout.files[0].header)
    os.truncate(path, layout.size)
    return path


@pytest.mark.parametrize(("model", "source"), [(None, "shapes"), ("ViT-S-32-alt", "--model")])
def test_how_the_model_of_bare_weights_is_known_is_said_and_recorded(
    model: str | None, source: str, tmp_path: Path
) -> None:
    refs = [bare(tmp_path / f"{i}.safetensors", "ViT-S-32-alt") for i in range(2)]
    (tmp_path / "p.json").write_text(json.dumps(CONFIG["preprocess_cfg"]))
    result = merge(refs, tmp_path / "soup", model=model, preprocess=tmp_path / "p.json")
    document = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert (document["model"], document["model_from"]) == ("ViT-S-32-alt", source)
    assert any("ViT-S-32-alt" in note for note in result.notes) == (model is None)
    config = json.loads((tmp_path / "soup" / "open_clip_config.json").read_text())
    assert config["model_cfg"] == open_clip.get_model_config("ViT-S-32-alt")
    assert config["preprocess_cfg"] == CONFIG["preprocess_cfg"]


def test_weights_that_look_unrelated_are_warned_about(tmp_path: Path) -> None:
    refs = [save(tmp_path / str(i), random_state(i, spread=30)) for i in range(2)]
    assert any("independently trained" in note for note in merge(refs, tmp_path / "soup").notes)


def test_a_dry_run_says_how_much_memory_the_merge_will_take(tmp_path: Path) -> None:
    """The largest tensor has 4 Mi elements: a method that sees it whole holds it of each source, twice of the output,
    and what it computes in; any other holds blocks."""
    n = 1 << 22
    refs = [save(tmp_path / str(i), {"visual.proj": torch.full((2048, 2048), float(i))}) for i in range(3)]

    def memory(method: str, threads: int = 1, **parameters: Any) -> int:
        options = RunOptions(device="cpu", dry_run=True, threads=threads)
        soup = tmp_path / "soup"
        return merge(refs[:2], soup, method=method, base=refs[2], parameters=parameters, options=options).memory_bytes

    blocks = memory("ties")
    assert blocks < 64 << 20 and memory("ties", threads=2) == 2 * blocks
    whole = memory("ties", trim="tensor")
    assert n * (3 * 4 + 2 * 4 + 8) <= whole < n * (3 * 4 + 2 * 4 + 8) + (64 << 20)
    assert memory("iso_c") > 2 * whole


def test_a_method_whose_bytes_may_differ_elsewhere_says_so(three: list[Path], tmp_path: Path) -> None:
    inexact = merge(three[:2], tmp_path / "iso", method="iso_c", base=three[2])
    assert any("on another machine" in note for note in inexact.notes)
    assert not any("on another machine" in note for note in merge(three, tmp_path / "mean").notes)


@pytest.mark.parametrize("part", ["ingredient", "base"])
def test_a_name_that_the_record_cannot_hold_is_refused_before_anything_is_written(
    part: str, three: list[Path], tmp_path: Path
) -> None:
    odd = three[2].rename(tmp_path / os.fsdecode(b"caf\xe9"))
    refs, base = ([three[0], odd], None) if part == "ingredient" else (three[:2], odd)
    with pytest.raises(UsageError, match=r"'.*caf\\udce9': is no UTF-8"):
        merge(refs, tmp_path / "soup", base=base, method="task_arithmetic" if base else "uniform")
    assert {p.name for p in tmp_path.iterdir()} == {three[0].name, three[1].name, odd.name}


@pytest.mark.parametrize("below", ["", "soup"])
def test_a_link_that_leads_back_to_itself_is_no_place_for_a_soup(below: str, three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageError, match="is a link" if not below else "cannot be written") as caught:
        merge(three[:2], tmp_path / "a" / below)
    assert caught.value.hint and (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()
