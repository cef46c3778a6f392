"""The repository laid out in a folder: what the Hub would hold, and nothing of anybody else's touched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import soupkit
from soupkit.errors import StorageError, UsageError
from soupkit.publishing.hub.push import PushOptions, PushResult, publish
from tests.conftest import bytes_of
from tests.publishing.conftest import score

WEIGHTS = "open_clip_model.safetensors"


def in_folder(soup: Path, folder: Path, **options: Any) -> PushResult:
    return publish(soup, "me/soup", options=PushOptions(license="mit", folder=folder, **options))


@pytest.fixture
def soup(tiny_clips: list[Path], tmp_path: Path) -> Path:
    made = tmp_path / "soup"
    result = soupkit.merge(tiny_clips[1:], made)
    assert result.fingerprint is not None
    scores = [{**score("x", 0.75), "fingerprint": result.fingerprint}]
    (made / "scores.json").write_text(json.dumps({"scores": scores}))
    return made


def test_a_repository_is_laid_out_in_a_folder_renewed_and_kept(soup: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    assert in_folder(soup, hub, dry_run=True).status == "planned" and not hub.exists()
    assert in_folder(soup, hub).status == "written"
    assert set(bytes_of(hub)) == {"README.md", "open_clip_config.json", WEIGHTS, "scores.json", "soup.json"}
    assert (hub / WEIGHTS).samefile(soup / WEIGHTS), "gigabytes are not written twice"
    assert not (tmp_path / "hub.partial").exists()
    before = bytes_of(hub)
    assert in_folder(soup, hub).status == "unchanged" and bytes_of(hub) == before

    (hub / "README.md").write_text("By hand.\n\n" + (hub / "README.md").read_text().split("---\n", 2)[2])
    (hub / "notes.txt").write_text("mine")
    (soup / "scores.json").unlink()
    again = in_folder(soup, hub)
    assert again.status == "written" and {f.path: f.status for f in again.files}[WEIGHTS] == "same"
    assert "By hand." in (hub / "README.md").read_text() and "75.00" not in (hub / "README.md").read_text()
    assert (hub / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_something_else_is_left_alone(soup: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years")
    with pytest.raises(StorageError, match="not a soup's repository"):
        in_folder(soup, other)
    assert bytes_of(other) == {"thesis.tex": b"years"}
    with pytest.raises(UsageError, match="the soup itself"):
        in_folder(soup, soup)
    with pytest.raises(UsageError, match="private, tag"):
        in_folder(soup, tmp_path / "hub", private=True, tag="v1")


def test_what_push_refuses_is_not_laid_out_either(soup: Path, tmp_path: Path) -> None:
    weights = bytearray((soup / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (soup / WEIGHTS).write_bytes(weights)
    with pytest.raises(soupkit.SoupkitError, match="has the fingerprint"):
        in_folder(soup, tmp_path / "hub")
    with pytest.raises(UsageError, match=r"holds no soup\.json"):
        in_folder(Path(shutil.copytree(soup, tmp_path / "no", ignore=lambda *_: ["soup.json"])), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
