"""What is published of soupkit's documents: names in the place of places, and the repository as a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soupkit
from soupkit.errors import StorageError, UsageError
from soupkit.publishing.hub.push import PushOptions, PushResult, publish
from soupkit.publishing.hub.without_local_paths import published
from soupkit.publishing.short_names import end_names
from tests.conftest import bytes_of
from tests.publishing.conftest import score

WEIGHTS = "open_clip_model.safetensors"
words = st.text("abcdefg-_.0", min_size=1, max_size=5).filter(lambda w: set(w) - {"."})


@given(st.sets(st.lists(words, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_names_are_ends_that_tell_places_apart(parts: set[tuple[str, ...]]) -> None:
    places = ["/" + "/".join(p) for p in sorted(parts)]
    names = end_names(places)
    assert len(set(names.values())) == len(places)
    assert all(place.endswith("/" + name) for place, name in names.items())


def test_a_name_is_no_longer_than_it_must_be() -> None:
    assert end_names(["/home/me/runs/a", "/home/me/runs/b"]) == {"/home/me/runs/a": "a", "/home/me/runs/b": "b"}
    assert end_names(["/x/a/model.safetensors", "/x/b/model.safetensors", "../x"]) == {
        "/x/a/model.safetensors": "a/model.safetensors", "/x/b/model.safetensors": "b/model.safetensors", "../x": "x",
    }  # fmt: skip


def test_documents_agree_on_names_and_keep_what_is_no_place(search: dict[str, Any]) -> None:
    home = "/home/me/secret runs"
    a, ab, task = f"{home}/a", f"{home}/ab", "/data/mine"
    record = {"ingredients": [{"ref": a, "fingerprint": "xxh3:1"}, {"ref": "hf-hub:org/b@v1"}], "base": {"ref": ab}}
    scores = {"scores": [score(a, 0.5, task), score("hf-hub:org/b@v1", 0.5, "wds/vtab/cifar10")], "notes": [
        f"{ab}: no templates in {task}, see https://example.org/x/y", f"{a} and /tmp/left/over/file.csv, 1/2 of it",
    ]}  # fmt: skip
    others = {"classes": ["cat/dog", "a photo of {c}"]}
    search = json.loads(json.dumps(search).replace("runs/", home + "/"))
    found = {**search, "selected": [a], "settings": {"tasks": [[task, "val"]], **others}}
    said = published({"soup.json": record, "scores.json": scores, "search.json": found})
    assert "/home" not in json.dumps(said) and "/data" not in json.dumps(said) and "/tmp" not in json.dumps(said)
    assert [i["ref"] for i in said["soup.json"]["ingredients"]] == ["a", "hf-hub:org/b@v1"]
    assert said["soup.json"]["base"]["ref"] == "ab" and said["search.json"]["selected"] == ["a"]
    assert [s["task"] for s in said["scores.json"]["scores"]] == ["mine", "wds/vtab/cifar10"]
    assert said["scores.json"]["notes"] == [
        "ab: no templates in mine, see https://example.org/x/y", "a and file.csv, 1/2 of it",
    ]  # fmt: skip
    assert said["search.json"]["settings"] == {"tasks": [["mine", "val"]], **others}
    assert record["ingredients"][0]["ref"] == a, "the soup's own documents stay as they are"


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
