"""A soup is published only if it is what its record says, is finite, and opens in open_clip."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.checkpoint import fingerprint, open_checkpoint
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_WEIGHTS as WEIGHTS_NAME
from soupkit.errors import SoupkitError
from soupkit.publishing.hub.verify import verify


def change_record(soup: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((soup / "soup.json").read_text())
    change(record)
    (soup / "soup.json").write_text(json.dumps(record))


def change_weights(soup: Path, name: str, value: float) -> None:
    """Set one element, and let the record say the fingerprint of what then is there."""
    state = load_file(soup / WEIGHTS_NAME)
    state[name].view(-1)[-1] = value
    save_file(state, soup / WEIGHTS_NAME, {"format": "pt"})
    with open_checkpoint(soup) as opened:
        value_now = fingerprint(opened).value
    change_record(soup, lambda record: record["output"].update(fingerprint=value_now, sha256=None))


def test_a_soup_that_is_what_it_says_is_verified(plain_soup: Path) -> None:
    soup = verify(plain_soup)
    state = load_file(plain_soup / WEIGHTS_NAME)
    assert soup.parameters == sum(t.numel() for t in state.values())
    assert soup.fingerprint == soup.record.output.fingerprint and len(soup.record.output.sha256 or "") == 64


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["logit_scale", "token_embedding.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, small_soup: Path) -> None:
    change_weights(small_soup, name, value)
    with pytest.raises(SoupkitError, match="holds NaN or infinity") as caught:
        verify(small_soup)
    assert f"tensor {name!r}" in caught.value.where


def test_a_bit_that_is_not_as_it_was_written_is_refused(small_soup: Path) -> None:
    weights = bytearray((small_soup / WEIGHTS_NAME).read_bytes())
    weights[-1] ^= 1
    (small_soup / WEIGHTS_NAME).write_bytes(weights)
    with pytest.raises(SoupkitError, match="has the fingerprint"):
        verify(small_soup)


def test_another_sha256_than_was_recorded_is_refused(small_soup: Path) -> None:
    """The same tensors in another file: the fingerprint is that of the record, the file is not."""
    change_record(small_soup, lambda record: record["output"].update(sha256="0" * 64))
    with pytest.raises(SoupkitError, match="has the sha256"):
        verify(small_soup)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda soup: (soup / "soup.json").unlink(), "holds no soup.json"),
        (lambda soup: (soup / "soup.json").write_text("{"), "does not say what the soup is"),
        (lambda soup: (soup / "soup.json").write_text("[]"), "does not say what the soup is"),
        (lambda soup: change_record(soup, lambda r: r.update(ingredients=[])), "does not say what the soup is"),
        (lambda soup: change_record(soup, lambda r: r.update(ingredients={"a": 1})), "does not say what the soup is"),
        (lambda soup: change_record(soup, lambda r: r.update(output=None)), "does not say what the soup is"),
        (lambda soup: (soup / WEIGHTS_NAME).unlink(), f"holds no {WEIGHTS_NAME}"),
        (lambda soup: (soup / "open_clip_config.json").unlink(), "holds no open_clip_config.json"),
    ],
)
def test_what_a_soup_lacks_is_named(damage: Callable[[Path], object], said: str, small_soup: Path) -> None:
    damage(small_soup)
    with pytest.raises(SoupkitError, match=said) as caught:
        verify(small_soup)
    assert str(small_soup) in caught.value.where and caught.value.hint


@pytest.mark.parametrize("name", ["/home/me/roberta", "./roberta", "../models/roberta", "~/roberta", "a/b/c"])
def test_a_text_tower_that_is_a_folder_of_this_machine_is_refused(name: str, small_soup: Path) -> None:
    config = json.loads((small_soup / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = name
    (small_soup / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(SoupkitError, match=r"as model_cfg\.text_cfg\.hf_model_name: nobody else") as caught:
        verify(small_soup)
    assert caught.value.where == str(small_soup / "open_clip_config.json")


def test_a_folder_that_happens_to_be_here_is_one_too(
    small_soup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roberta-base").mkdir()
    monkeypatch.chdir(tmp_path)
    config = json.loads((small_soup / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "roberta-base"
    (small_soup / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(SoupkitError, match="hf_tokenizer_name"):
        verify(small_soup)


def test_shards_are_refused_since_open_clip_does_not_open_them(small_soup: Path) -> None:
    shutil.move(small_soup / WEIGHTS_NAME, small_soup / "model-00001-of-00001.safetensors")
    (small_soup / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(SoupkitError, match="is in shards"):
        verify(small_soup)


def test_integers_are_never_taken_for_infinities(small_soup: Path) -> None:
    state = load_file(small_soup / WEIGHTS_NAME)
    assert all(t.dtype == torch.float32 for t in state.values())
    verify(small_soup)
