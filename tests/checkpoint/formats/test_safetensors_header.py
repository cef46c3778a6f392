"""A safetensors header is untrusted input: whatever it claims, it is read rightly or refused with a reason."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from soupkit.checkpoint.formats.safetensors_header import read_header
from soupkit.errors import CheckpointError


def write(path: Path, header: bytes | dict[str, Any], data: bytes = bytes(24), claim: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claim is None else claim) + text + data)
    return path


def entry(
    begin: int = 0, end: int = 24, dtype: str = "F32", shape: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2, 3] if shape is None else shape, "data_offsets": [begin, end], **more}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message


def test_a_real_file_is_read_as_safetensors_wrote_it(tmp_path: Path) -> None:
    tensors = {
        "b": torch.zeros(2, 3),
        "a": torch.zeros(5, dtype=torch.bfloat16),
        "s": torch.zeros(()),
        "e": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    specs, metadata = read_header(tmp_path / "x.safetensors")
    assert {n: s.shape for n, s in specs.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert metadata == {"format": "pt"}


HOSTILE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown field": ({"x": entry(more=1)}, ("'x'", "unknown fields: more")),
    "a missing field": ({"x": {"dtype": "F32", "shape": []}}, ("'x'", "lacks data_offsets")),
    "an unknown dtype": ({"x": entry(dtype="F7")}, ("'x'", "F7")),
    "a negative size": ({"x": entry(shape=[-2, -3])}, ("'x'", "shape")),
    "a boolean size": ({"x": entry(shape=[True, 6])}, ("'x'", "shape")),
    "a fractional size": ({"x": entry(shape=[2.0, 3])}, ("'x'", "shape")),
    "sizes that overflow 64 bits": ({"x": entry(shape=[2**40, 2**40])}, ("'x'", "bytes")),
    "offsets that do not fit the shape": ({"x": entry(end=20)}, ("'x'", "24 bytes")),
    "offsets past the end": ({"x": entry(shape=[2, 30], end=240)}, ("'x'", "cut short")),
    "reversed offsets": ({"x": entry(begin=24, end=0)}, ("'x'",)),
    "three offsets": ({"x": {**entry(), "data_offsets": [0, 4, 24]}}, ("'x'", "data_offsets")),
    "overlapping tensors": ({"x": entry(0, 16, shape=[4]), "y": entry(8, 24, shape=[4])}, ("'y'", "overlap")),
    "a hole": ({"x": entry(0, 8, shape=[2]), "y": entry(16, 24, shape=[2])}, ("'y'", "belong to no tensor")),
    "bytes after the last tensor": ({"x": entry(0, 16, shape=[4])}, ("its tensors end",)),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "x": entry()}, ("__metadata__",)),
    "an entry that is no object": ({"x": [1, 2]}, ("'x'",)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_with_the_tensor_named(name: str, tmp_path: Path) -> None:
    header, words = HOSTILE[name]
    refused(write(tmp_path / "x.safetensors", header), *words)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b'{"x": }', b"\xff\xfe{}", b"{" * 50_000, b'{"a":' * 30_000 + b"1" + b"}" * 30_000],
    ids=["list", "cut", "syntax", "no utf-8", "deep", "deeper"],
)
def test_what_is_not_json_is_refused(header: bytes, tmp_path: Path) -> None:
    refused(write(tmp_path / "x.safetensors", header))


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 24))
    refused(write(tmp_path / "x.safetensors", f'{{"x": {one}, "x": {one}}}'.encode()), "'x' twice")
    twice = one.replace('"dtype"', '"dtype": "F16", "dtype"')
    refused(write(tmp_path / "y.safetensors", f'{{"x": {twice}}}'.encode()), "'dtype' twice")


@pytest.mark.parametrize("claim", [10**8 + 1, 2**63, 2**64 - 1, 5000])
def test_a_header_longer_than_the_file_or_the_format_allows_is_refused(claim: int, tmp_path: Path) -> None:
    refused(write(tmp_path / "x.safetensors", {"x": entry()}, claim=claim), "claims")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 100])
def test_a_file_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:size])
    refused(path)


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_or_leaves_a_header_that_fits_the_file(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        specs, _ = read_header(path)
    except CheckpointError:
        return
    assert sum(s.nbytes for s in specs.values()) <= len(raw)
    assert all(s.offset + s.nbytes <= len(raw) for s in specs.values())
