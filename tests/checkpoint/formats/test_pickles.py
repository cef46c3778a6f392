"""Pickled checkpoints are read without running what they may contain, or refused with the way out."""

import argparse
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.errors import CheckpointError
from tests.checkpoint.test_references import same
from tests.conftest import random_state


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
    with pytest.raises(CheckpointError, match="system, which was not run"):
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


def training_checkpoint(state: dict[str, torch.Tensor], **more: Any) -> dict[str, Any]:
    """What open_clip's trainer writes: names with a prefix, and an optimizer whose learning rate numpy computed."""
    parameters = [torch.nn.Parameter(t.float()) for t in state.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    sum((p * p).sum() for p in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(1e-3)
    named = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 1, "name": "x", "state_dict": named, "optimizer": optimizer.state_dict(), **more}


def test_what_stands_beside_the_weights_does_not_matter(tmp_path: Path) -> None:
    state = random_state(0)
    beside = {"args": argparse.Namespace(lr=np.float32(1)), "array": np.arange(3), "path": tmp_path, "kinds": {1, 2}}
    torch.save(training_checkpoint(state, **beside), tmp_path / "epoch_1.pt")
    with open_checkpoint(tmp_path / "epoch_1.pt") as checkpoint:
        same(checkpoint, state)


def test_a_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    state = random_state(0)
    document = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": OrderedDict(lr=np.float64(0.1)),
        "pytorch-lightning_version": "2.5.0",
    }
    torch.save(document, tmp_path / "last.ckpt")
    with open_checkpoint(tmp_path / "last.ckpt") as checkpoint:
        same(checkpoint, state)
        assert "prefix 'model.' stripped from 8 names" in checkpoint.notes


def deepspeed_state(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What DeepSpeed 0.19 writes as mp_rank_00_model_states.pt, as far as it matters."""
    shapes = [OrderedDict((name, tensor.shape) for name, tensor in state.items())]
    return {"module": state, "param_shapes": shapes, "ds_config": {"zero_optimization": {}}, "ds_version": "0.19.8"}


def test_a_file_of_deepspeed_is_read_where_it_is_whole_and_refused_where_zero_3_has_split_it(tmp_path: Path) -> None:
    state = random_state(0)
    steps = {name: tmp_path / name / "global_step2" for name in ("whole", "split")}
    for name, step in steps.items():
        step.mkdir(parents=True)
        held = state if name == "whole" else {n: torch.empty(0, dtype=t.dtype) for n, t in state.items()}
        torch.save(deepspeed_state(held), step / "mp_rank_00_model_states.pt")
        (step.parent / "latest").write_text("global_step2\n")
    with open_checkpoint(steps["whole"] / "mp_rank_00_model_states.pt") as checkpoint:
        same(checkpoint, state)
    for folder in (steps["whole"], steps["whole"].parent):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(folder)
        assert caught.value.hint == f"name the file: {steps['whole'] / 'mp_rank_00_model_states.pt'}"
    with pytest.raises(CheckpointError, match="holds the parts of a DeepSpeed run") as caught:
        open_checkpoint(steps["split"] / "mp_rank_00_model_states.pt")
    run = tmp_path / "split"
    assert f"python {run}/zero_to_fp32.py {run} {run}/fp32" in caught.value.hint


@pytest.mark.parametrize("text", ["../global_step2", "", "x" * 5000, "nowhere", "/", ".."])
def test_a_file_called_latest_that_names_no_step_is_nothing_to_soupkit(text: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "global_step2").mkdir()
    torch.save(deepspeed_state(random_state(0)), tmp_path / "global_step2" / "mp_rank_00_model_states.pt")
    (tmp_path / "run" / "latest").write_text(text)
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(tmp_path / "run")


def test_tensors_without_an_element_are_no_model(tmp_path: Path) -> None:
    torch.save({"a": torch.empty(0), "b": torch.empty(0, 4)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="none of its 2 tensors has an element"):
        open_checkpoint(tmp_path / "x.pt")


def test_the_average_beside_the_weights_is_read_as_ema(tmp_path: Path) -> None:
    state, average = random_state(0), random_state(1)
    torch.save(training_checkpoint(state, state_dict_ema=average), tmp_path / "a.pt")
    torch.save({**state, **{f"ema_model.{n}": t for n, t in average.items()}}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with open_checkpoint(tmp_path / name) as last, open_checkpoint(f"{tmp_path / name}@ema") as mean:
            same(last, state)
            same(mean, average)
    torch.save(state, tmp_path / "c.pt")
    for wrong in ("c.pt@ema", "a.pt@best"):
        with pytest.raises(CheckpointError, match="holds no"):
            open_checkpoint(tmp_path / wrong)


class Wrapped(torch.Tensor):
    """A subclass of torch's tensors, as training frameworks have them."""


def test_every_kind_of_tensor_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    names = (d.torch_name for d in DTYPES.values())
    state = {name: torch.arange(6).view(2, 3).to(getattr(torch, name)) for name in names}
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    state["subclass"] = torch.ones(3).as_subclass(Wrapped)
    state["tied"] = state["float32"]
    state["empty"] = torch.zeros(0, 4)
    state["transposed and empty"] = torch.zeros(4, 0).t()
    state["one element"] = torch.arange(6.0).view(2, 3)[1:, 1:2]
    torch.save(state, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        for name, tensor in state.items():
            found = checkpoint.read(name)
            assert found.dtype == tensor.dtype and found.shape == tensor.shape
            assert torch.equal(found.contiguous().view(torch.uint8), plain_bytes(tensor)), name


def plain_bytes(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.detach().as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
    return whole.contiguous().view(torch.uint8)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "is a sparse tensor"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is a quantized tensor"),
        (torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage"),
        (torch.zeros(2, device="meta"), "does not read"),
    ],
    ids=["sparse", "quantized", "complex", "meta"],
)
def test_a_tensor_that_cannot_be_averaged_is_named_with_the_way_out(
    tensor: torch.Tensor, words: str, tmp_path: Path
) -> None:
    torch.save({"fine": torch.ones(1), "odd": tensor}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert words in caught.value.what and "tensor 'odd'" in caught.value.where and caught.value.hint


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write the archive anew with `change(name, data)` as the content of every record."""
    other = path.with_name("other.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return other


def test_a_storage_shorter_than_its_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100), "b": torch.zeros(100)}, tmp_path / "x.pt")
    path = rewritten(tmp_path / "x.pt", lambda name, data: data[:-8] if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="storage of 392 bytes instead of 400"):
        open_checkpoint(path)


def test_another_byte_order_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "x.pt")
    path = rewritten(tmp_path / "x.pt", lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(CheckpointError, match="byte order") as caught:
        open_checkpoint(path)
    exec(caught.value.hint.split('python -c "')[1].rstrip('"'))
    with open_checkpoint(tmp_path / "other.new.pt") as checkpoint:
        swapped = torch.ones(100).view(torch.uint8).view(100, 4).flip(1)
        assert torch.equal(checkpoint["a"].view(torch.uint8), swapped.flatten())


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about protocols that it does not know
@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_is_refused_or_holds_what_torch_reads(tmp_path: Path, data: st.DataObject) -> None:
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)[1:3]}, tmp_path / "x.pt")

    def damage(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        raw = bytearray(content)
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        return bytes(raw)

    path = rewritten(tmp_path / "x.pt", damage)
    try:
        with open_checkpoint(path) as checkpoint:
            ours = {name: checkpoint.read(name) for name in checkpoint}
    except CheckpointError:
        return
    try:
        theirs = torch.load(path, weights_only=True)
    except Exception:  # what torch refuses beside the tensors, soupkit does not look at
        return
    for name, tensor in theirs.items():
        assert torch.equal(ours[name].view(torch.uint8), tensor.contiguous().view(torch.uint8))


HOSTILE = {
    "a number for a great memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "lists within lists": b"\x80\x02" + b"]" * 50_001 + b"a" * 50_000 + b".",
    "tuples within tuples as a key": b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"Ns.",
    "a long number": b"\x80\x02I" + b"9" * 5_000 + b"\n.",
    "a length beyond the end": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "no end": b"\x80\x02}",
    "a mark for a key": b"\x80\x02}(Ns.",
    "an empty stack": b"\x80\x020000.",
    "a dict of itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    path = rewritten(tmp_path / "x.pt", lambda record, data: HOSTILE[name] if record.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.hint


def test_a_rank_s_part_of_a_sharded_model_is_called_that(tmp_path: Path) -> None:
    """As FSDP2 has it: a state dict of DTensors, saved by each rank for itself."""
    program = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/ranks", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
model = torch.nn.Linear(8, 4)
def shard(name, module, mesh):
    for key, value in list(module.named_parameters(recurse=False)):
        module.register_parameter(key, torch.nn.Parameter(distribute_tensor(value, mesh, [Shard(0)])))
distribute_module(model, mesh, shard)
torch.save(model.state_dict(), f"{sys.argv[1]}/part.pt")
options = StateDictOptions(full_state_dict=True, cpu_offload=True)
torch.save(get_model_state_dict(model, options=options), f"{sys.argv[1]}/full.pt")
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True)
    with pytest.raises(CheckpointError, match="one rank's part of a sharded tensor") as caught:
        open_checkpoint(tmp_path / "part.pt")
    assert "full_state_dict=True" in caught.value.hint
    with open_checkpoint(tmp_path / "full.pt") as full:
        assert {name: spec.shape for name, spec in full.tensors.items()} == {"weight": (4, 8), "bias": (4,)}
