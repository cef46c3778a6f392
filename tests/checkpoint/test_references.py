"""Every kind of reference opens to the same tensors, and what cannot be trusted is refused."""

import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soupkit.checkpoint import Checkpoint, fingerprint, open_checkpoint
from soupkit.errors import CheckpointError
from tests.conftest import CONFIG, random_state, save


def same(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint) == set(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint[name], tensor), name


def shard(path: Path, state: dict[str, torch.Tensor], suffix: str = "safetensors") -> Path:
    """Write two shards and their index."""
    path.mkdir()
    names = list(state)
    parts = {f"model-{i + 1}-of-2.{suffix}": names[i::2] for i in range(2)}
    for file, members in parts.items():
        part = {n: state[n] for n in members}
        save_file(part, path / file) if suffix == "safetensors" else torch.save(part, path / file)
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    index = {"metadata": {}, "weight_map": {n: f for f, members in parts.items() for n in members}}
    (path / f"{stem}.index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_all_kinds_of_files_hold_the_same_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    state = random_state(0, dtype)
    state["visual.bn1.num_batches_tracked"] = torch.tensor(7)
    places = [save(tmp_path / "dir", state, CONFIG), tmp_path / "x.safetensors", shard(tmp_path / "shards", state)]
    save_file(state, tmp_path / "x.safetensors")
    for name, document in {
        "plain.pt": state,
        "nested.pth": {"epoch": 3, "name": "x", "state_dict": OrderedDict(state), "optimizer": {"lr": 0.1}},
        "wrapped.bin": {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    }.items():
        torch.save(document, tmp_path / name)
        places.append(tmp_path / name)
    places.append(shard(tmp_path / "bins", state, "bin"))
    (tmp_path / "old").mkdir()
    shutil.copyfile(tmp_path / "plain.pt", tmp_path / "old" / "open_clip_pytorch_model.bin")
    places.append(tmp_path / "old")
    prints = set()
    for place in places:
        with open_checkpoint(place) as checkpoint:
            same(checkpoint, state)
            prints.add(fingerprint(checkpoint).value)
    assert len(prints) == 1


def test_prefixes_are_stripped_and_that_is_said(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in random_state(0).items()}
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        assert not any(name.startswith("module.") for name in checkpoint)
        assert any("module." in note for note in checkpoint.notes)


def test_names_that_collide_without_their_prefix_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x", {"module.a": torch.zeros(2), "a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="twice"):
        open_checkpoint(path)


def test_views_and_transposed_tensors_in_a_pickle_are_read_in_order(tmp_path: Path) -> None:
    whole = torch.arange(60.0).view(6, 10)
    state = {
        "view": whole[2:4, 3:7],
        "turned": whole.t(),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "offset": whole.flatten()[7:11],
    }
    torch.save(state, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        same(checkpoint, {k: v.contiguous() for k, v in state.items()})


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Bomb(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not opened"):
        open_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_an_old_pickle_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "x.pt")
    code = caught.value.hint.split('python -c "')[1].rstrip('"')
    exec(code)
    with open_checkpoint(tmp_path / "x.new.pt") as checkpoint:
        same(checkpoint, {"a": torch.zeros(2)})


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="zip"):
        open_checkpoint(tmp_path / "x.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript") as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert "torch.jit.load" in caught.value.hint


@pytest.mark.parametrize("cut", [1, 10, 300, 2000])
def test_a_pickle_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    torch.save(random_state(0), tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[:-cut])
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(200)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match="compressed"):
        open_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize(
    "document", [{"lr": 0.1}, [torch.zeros(2)], {"a": torch.zeros(2), "b": 3}, {1: torch.zeros(2)}]
)
def test_a_pickle_without_a_state_dict_is_refused(document: object, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3])
def test_a_shard_name_that_leaves_the_directory_is_refused(name: object, tmp_path: Path) -> None:
    path = shard(tmp_path / "x", random_state(0))
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "secret.safetensors")
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["logit_scale"] = name
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="outside its directory"):
        open_checkpoint(path)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "x", random_state(0))
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    moved = dict(document["weight_map"], ghost="model-1-of-2.safetensors")
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(path)
    del document["weight_map"]["logit_scale"]
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="logit_scale"):
        open_checkpoint(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "x", random_state(0))
    (path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-2-of-2"):
        open_checkpoint(path)


def test_a_directory_with_several_checkpoints_asks_which(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors, two\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["empty", "nowhere", "notes.txt"])
def test_what_is_no_checkpoint_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / place)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_cfg": {"vision_cfg": 3}}'])
def test_a_config_that_is_none_is_refused(config: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x", random_state(0))
    (path / "open_clip_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="open_clip_config"):
        open_checkpoint(path)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_transformers_clip_computes_the_same_after_a_merge(activation: str, safe: bool, tmp_path: Path) -> None:
    import open_clip
    import transformers

    import soupkit

    config = transformers.CLIPConfig(
        text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "vocab_size": 1000, "max_position_embeddings": 16, "eos_token_id": 999, "bos_token_id": 998,
                     "hidden_act": activation},
        vision_config={"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 32, "patch_size": 8, "hidden_act": activation},
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "hf")
    if not safe:
        torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
        (tmp_path / "hf" / "model.safetensors").unlink()
    shutil.copytree(tmp_path / "hf", tmp_path / "twin")
    soupkit.merge([tmp_path / "hf", tmp_path / "twin"], tmp_path / "soup")
    soup, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'soup'}")
    soup.eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = torch.randint(0, 900, (3, 16))
    tokens[:, 9] = 999
    with torch.no_grad():
        out = model(pixel_values=images, input_ids=tokens)
        got_image, got_text, _ = soup(images, tokens)
    torch.testing.assert_close(got_image, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_text, out.text_embeds, rtol=1e-4, atol=1e-5)
