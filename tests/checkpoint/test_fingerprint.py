"""Fingerprints, against a computation that follows the definition word by word."""

import json
from pathlib import Path

import torch
import xxhash

from soupkit.checkpoint import fingerprint, open_checkpoint
from tests.conftest import random_state, save


def by_definition(state: dict[str, torch.Tensor], dtype: str, keep: str = "") -> str:
    lines = b""
    for name in sorted(n for n in state if n.startswith(keep)):
        raw = state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        chunks = [raw[i : i + 2**24] for i in range(0, len(raw), 2**24)]
        tensor = xxhash.xxh3_128(b"".join(xxhash.xxh3_128(c).digest() for c in chunks)).hexdigest()
        lines += (json.dumps([name, dtype, list(state[name].shape), tensor], separators=(",", ":")) + "\n").encode()
    return "xxh3:" + xxhash.xxh3_128(lines).hexdigest()


def test_a_fingerprint_follows_its_definition(tmp_path: Path) -> None:
    state = random_state(0)
    state["visual.proj"] = torch.randn(2100, 2048)  # 16.4 MiB: a chunk and a bit
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        found = fingerprint(checkpoint)
    assert found.value == by_definition(state, "F32")
    assert found.image == by_definition(state, "F32", "visual.")
    assert found.text == by_definition({k: v for k, v in state.items() if k[:6] not in ("visual", "logit_")}, "F32")


def test_one_flipped_bit_changes_the_fingerprint_of_its_tower_alone(tmp_path: Path) -> None:
    state = random_state(0)
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        before = fingerprint(checkpoint)
    state["visual.ln_pre.bias"].view(torch.int32)[3] ^= 1
    with open_checkpoint(save(tmp_path / "y", state)) as checkpoint:
        after = fingerprint(checkpoint)
    assert before.value != after.value and before.image != after.image and before.text == after.text
