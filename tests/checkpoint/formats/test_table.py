"""Every row of the table of formats recognises, reads and is written as it says; rows of strangers are rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import soupkit
from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.formats.folder import LocalFolder
from soupkit.checkpoint.formats.table import (
    FORMATS,
    FileFormat,
    choose_weights,
    families,
    family_named,
    family_of,
    file_formats,
    format_of,
)
from soupkit.errors import CheckpointError, UsageError
from tests.checkpoint.formats.samples import SAMPLES
from tests.conftest import environment, random_state

FILES = [row.name for row in file_formats()]
FOLDERS = [row.name for row in families() if row.refuse is None]
MODELS = [name for name in FOLDERS if name != "peft"]  # an adapter opens in its base
REFUSED = [row.name for row in families() if row.refuse is not None]


def test_every_row_has_a_sample() -> None:
    assert set(SAMPLES) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_says_what_it_is_in_one_line(name: str) -> None:
    summary = FORMATS[name].summary
    assert summary and "\n" not in summary and len(summary) < 120 and not summary.endswith(".")


@pytest.mark.parametrize("name", [*FILES, *MODELS])
def test_a_sample_opens_to_its_tensors(name: str, tmp_path: Path) -> None:
    state = random_state(0)
    with open_checkpoint(SAMPLES[name](tmp_path, state)) as checkpoint:
        assert name in (checkpoint.family, checkpoint.file_format)
        assert set(checkpoint) == set(state)
        for tensor in state:
            assert torch.equal(checkpoint[tensor], state[tensor])


def test_an_adapter_opens_in_the_base_that_it_names(tmp_path: Path) -> None:
    state = random_state(0)
    with open_checkpoint(SAMPLES["peft"](tmp_path, state)) as checkpoint:  # its B is zero
        assert checkpoint.family == "open_clip" and set(checkpoint) == set(state)
        assert all(torch.equal(checkpoint[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_by_the_header_that_its_row_reads(name: str, tmp_path: Path) -> None:
    row = FORMATS[name]
    assert isinstance(row, FileFormat)
    path = SAMPLES[name](tmp_path, random_state(0))
    assert format_of(path) is row
    if row.header is None:
        pytest.skip("it is read whole")
    data = path.read_bytes()
    before, _ = row.read(path)
    header = row.header(lambda start, stop: data[start:stop], len(data))
    path.write_bytes(header)
    os.truncate(path, len(data))
    assert row.read(path)[0] == before


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_of_one_family(name: str, tmp_path: Path) -> None:
    folder = LocalFolder.list(SAMPLES[name](tmp_path, random_state(0)))
    family = family_of(folder)
    assert family.name == name
    assert choose_weights(folder, family) in folder.names


@pytest.mark.parametrize("name", MODELS)
def test_a_soup_comes_out_in_the_family_of_its_ingredients(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    refs = [SAMPLES[name](tmp_path / part, random_state(i)) for i, part in enumerate("ab")]
    soupkit.merge(refs, tmp_path / "soup")
    soupkit.merge(refs, tmp_path / "shards", max_shard_bytes=500_000)
    output = family_named({"run": "open_clip", "plain": "open_clip"}.get(name, name)).output  # CLIPs by their names
    assert (tmp_path / "soup" / output.weights).is_file()
    assert (tmp_path / "shards" / output.index).is_file()
    with open_checkpoint(tmp_path / "soup") as one, open_checkpoint(tmp_path / "shards") as many:
        assert one.tensors.keys() == many.tensors.keys()
        assert one.family == many.family == {"run": "open_clip"}.get(name, name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name](tmp_path, random_state(0))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)
    way_out = {
        "deepspeed": "zero_to_fp32.py",
        "fsdp_local": "full_state_dict=True",
        "diffusers_pipeline": f"{path}:unet",
    }
    assert way_out[name] in caught.value.hint


STATE = ["scheduler.pt", "optimizer.pt", "training_args.bin", "rng_state_0.pth", "scaler.pt"]


def test_what_a_trainer_goes_on_with_is_not_taken_for_weights(tmp_path: Path) -> None:
    """As transformers' Trainer leaves a run that FSDP shards, and one that it does not."""
    step = tmp_path / "run" / "checkpoint-10"
    step.mkdir(parents=True)
    for name in STATE:
        torch.save({"state": torch.ones(2)}, step / name)
    with pytest.raises(CheckpointError, match=r"holds no weights\n"):
        open_checkpoint(step)
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        dcp.save({"model": random_state(0)}, checkpoint_id=step / name)
    for folder in (step, step.parent):
        with pytest.raises(CheckpointError, match="holds no weights itself") as caught:
            open_checkpoint(folder)
        assert caught.value.hint == f"name one of {step / 'pytorch_model_fsdp_0'}"
    torch.save(random_state(0), step / "weights.bin")
    with open_checkpoint(step) as checkpoint:
        assert checkpoint.tensors.keys() == random_state(0).keys()


def test_folders_that_could_have_been_meant_are_named_and_links_are_not_followed(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "all" / f"run{i:02}").mkdir(parents=True)
        save_file({"w": torch.ones(2, 2)}, tmp_path / "all" / f"run{i:02}" / "model.safetensors")
    (tmp_path / "all" / "again").symlink_to(tmp_path / "all")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "all")
    named = ", ".join(str(tmp_path / "all" / f"run{i:02}") for i in range(8))
    assert caught.value.hint == f"name one of {named}, and 4 more"


def test_an_unknown_suffix_is_refused_with_those_that_are_read() -> None:
    with pytest.raises(CheckpointError) as caught:
        format_of("weights.xyz")
    assert caught.value.where == "weights.xyz" and ".safetensors" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("model-Q4_K_M.gguf", "llama.cpp", "merge the checkpoints that it was made from"),
        ("flax_model.msgpack", "Flax", "from_flax=True"),
        ("tf_model.h5", "TensorFlow", "from_tf=True"),
        ("siglip.npz", "numpy", "big_vision"),
        ("model.onnx", "a graph", "merge the checkpoints that it was made from"),
        ("model.safetensors.gz", "compressed", "gunzip"),
        ("MODEL.TAR.GZ", "an archive", "tar -xf"),
    ],
)
def test_weights_of_other_frameworks_are_named_with_the_way_to_ones_that_are_read(
    name: str, what: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"x" * 64)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for path, where in ((tmp_path, tmp_path), (tmp_path / name, tmp_path / name)):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert caught.value.where == str(where)
        assert what in caught.value.what and hint in caught.value.hint
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert len(open_checkpoint(tmp_path)) == 1, "weights that are read go before them"


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(UsageError, match="pickle"):
        FORMATS.add(FORMATS["pickle"])


PLUGIN = '''
"""Formats of a stranger: raw float32 files, and folders with card.txt whose soups are called soup.safetensors."""
from soupkit.checkpoint.formats.table import Description, Family, FileFormat
from soupkit.checkpoint.formats.weight_files import OutputFiles
from soupkit.checkpoint.tensors import Extent, TensorSpec


def read(path):
    size = path.stat().st_size
    return {"visual.proj": TensorSpec("F32", (size // 4,), (Extent(path, 0, size),))}, {}


rows = [
    FileFormat(name="raw", summary="float32 values and nothing else", suffixes=(".raw",), read=read),
    Family(
        name="carded",
        summary="a folder with card.txt",
        recognises=lambda folder: "card.txt" in folder.names,
        describe=lambda folder, tensors: Description(tensors, notes=("has a card",)),
        companions=("card.txt",),
        output=OutputFiles("soup.safetensors"),
    ),
]
'''


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """An installed package with two formats; returns the environment in which it is there."""
    site = tmp_path / "site"
    (site / "raw_formats-1.0.dist-info").mkdir(parents=True)
    (site / "raw_formats.py").write_text(PLUGIN)
    information = site / "raw_formats-1.0.dist-info"
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-formats\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[soupkit.formats]\nraw = raw_formats:rows\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return {**environment(), "PYTHONPATH": path}


def test_formats_of_another_package_are_inspected_and_merged(plugin: dict[str, str], tmp_path: Path) -> None:
    for name, values in (("a", [1.0, 2.0]), ("b", [3.0, 5.0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.txt").write_text("a card")
        (tmp_path / name / "x.raw").write_bytes(torch.tensor(values).numpy().tobytes())

    def soupkit_of_a_user(*arguments: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "soupkit", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=plugin, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    seen = soupkit_of_a_user("inspect", tmp_path / "a")
    assert (seen["family"], seen["file_format"], seen["notes"]) == ("carded", "raw", ["has a card"])
    soupkit_of_a_user("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "soup")
    with open_checkpoint(tmp_path / "soup" / "soup.safetensors") as soup:
        assert soup["visual.proj"].tolist() == [2.0, 3.5]
