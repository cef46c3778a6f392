"""Adapters on the Hub, and their bases there or here, give the bytes that the same folders on this machine give."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.hub.server import HubServer
from tests.hub.user import Run, files_of

SHAPES = {"layers.0.proj": (10, 6), "layers.1.proj": (10, 6), "out": (6, 6)}
ADAPTER = "adapter_model.safetensors"


def adapter(folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (rows, columns) in SHAPES.items():
        for side, shape in (("A", (2, columns)), ("B", (rows, 2))):
            factors[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    folder.mkdir()
    save_file(factors, folder / ADAPTER)
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 3}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["proj", "out"]}))
    return folder


@pytest.fixture
def places(hub: HubServer, tmp_path: Path) -> Mapping[str, Path]:
    """Two adapters and their base, in folders and under the same names on the Hub."""
    generator = torch.Generator().manual_seed(9)
    (tmp_path / "base").mkdir()
    state = {f"{module}.weight": torch.randn(shape, generator=generator) for module, shape in SHAPES.items()}
    save_file(state, tmp_path / "base" / "model.safetensors")
    folders = {"base": tmp_path / "base", "a": adapter(tmp_path / "a", 0), "b": adapter(tmp_path / "b", 1)}
    for name, folder in folders.items():
        hub.put(f"org/{name}", files_of(folder), private=name == "b")
    return folders


CALLS: list[list[str]] = [
    ["{a}", "{b}"],
    ["{a}", "{b}", "--rank", "3"],
    ["{a}", "{b}", "--base", "{base}"],
    ["{base}+{a}", "{base}+{b}"],
    ["{base}+{a}", "{base}"],
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("on_hub", ["adapters", "all"])
def test_what_is_on_the_hub_merges_as_what_is_here(
    call: list[str], on_hub: str, places: Mapping[str, Path], as_user: Run, tmp_path: Path
) -> None:
    far: dict[str, Any] = {name: f"hf-hub:org/{name}" for name in places}
    if on_hub == "adapters":
        far["base"] = places["base"]
    local = as_user("merge", *(word.format(**places) for word in call), "-o", tmp_path / "local")
    assert local.returncode == 0, local.stderr
    refs = [word.format(**far) for word in call]
    done = as_user("merge", *refs, "-o", tmp_path / "far")
    assert done.returncode == 0, done.stderr
    offline = as_user("merge", *refs, "-o", tmp_path / "offline", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    names = {path.name for path in (tmp_path / "local").iterdir()} - {"soup.json"}
    assert any(name.endswith(".safetensors") for name in names)
    for name in names:
        here = (tmp_path / "local" / name).read_bytes()
        assert (tmp_path / "far" / name).read_bytes() == here == (tmp_path / "offline" / name).read_bytes()
    record, told = (json.loads((tmp_path / name / "soup.json").read_text()) for name in ("local", "far"))
    assert record["output"]["fingerprint"] == told["output"]["fingerprint"]
    assert told.get("approximation") == record.get("approximation")
    assert ("--rank" in call) == ("approximation" in told and 0 < told["approximation"]["error"] < 1)


def test_an_adapter_on_the_hub_without_a_base_that_is_here_says_how_to_name_it(
    places: Mapping[str, Path], as_user: Run, tmp_path: Path
) -> None:
    done = as_user("merge", "hf-hub:org/a", places["base"], "-o", tmp_path / "soup")
    assert done.returncode == 1 and "hf-hub:org/base+hf-hub:org/a downloads it" in done.stderr, done.stderr
    assert not (tmp_path / "soup").exists()


def test_an_adapter_that_needs_a_token_says_so(places: Mapping[str, Path], as_user: Run, tmp_path: Path) -> None:
    done = as_user("merge", f"{places['base']}+hf-hub:org/b", places["base"], "-o", tmp_path / "soup", token=None)
    assert done.returncode == 1 and "HF_TOKEN" in done.stderr, done.stderr
