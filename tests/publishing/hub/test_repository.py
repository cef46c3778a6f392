"""What a repository holds, and how it is compared with what is there."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_WEIGHTS as WEIGHTS_NAME
from soupkit.errors import DataError, UsageError
from soupkit.publishing.hub.planned_files import RepositoryFile, plan
from soupkit.publishing.hub.repository import CARD, PushOptions, repository_files, sealed_files
from soupkit.publishing.hub.verify import verify

MIT = PushOptions(license="mit")


def test_a_repository_holds_weights_config_documents_and_the_card_and_nothing_else(small_soup: Path) -> None:
    (small_soup / "notes.txt").write_text("private")
    (small_soup / "scores.png").write_bytes(b"\x89PNG")
    contents = repository_files(verify(small_soup), "me/soup", MIT, None)
    assert list(contents) == sorted(
        [CARD, "open_clip_config.json", WEIGHTS_NAME, "scores.json", "scores.png", "soup.json"]
    )
    assert b"![Scores of each model, with 95 % intervals](scores.png)" in contents[CARD].read()


def test_figures_of_a_report_are_taken_along(small_soup: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "scatter-1.png").write_bytes(b"\x89PNG")
    options = PushOptions(license="mit", figures=tmp_path / "figures")
    assert "scatter-1.png" in repository_files(verify(small_soup), "me/soup", options, None)


def test_scores_of_another_soup_are_refused_where_they_are_named(small_soup: Path, tmp_path: Path) -> None:
    document = json.loads((small_soup / "scores.json").read_text())
    document["scores"][0]["fingerprint"] = "xxh3:other"
    (tmp_path / "other.json").write_text(json.dumps(document))
    options = PushOptions(license="mit", scores=tmp_path / "other.json")
    with pytest.raises(UsageError, match="holds no score of this soup"):
        repository_files(verify(small_soup), "me/soup", options, None)


def test_what_was_taken_for_granted_of_a_task_stands_on_the_card_without_its_place(small_soup: Path) -> None:
    document = json.loads((small_soup / "scores.json").read_text())
    document["scores"][0]["task"] = "/private/data/pets"
    document["notes"] = ["/private/data/pets: classes are taken in their order", "/private/data/cars: has one class"]
    (small_soup / "scores.json").write_text(json.dumps(document))
    card = repository_files(verify(small_soup), "me/soup", MIT, None)[CARD].read().decode()
    assert "- Of its scores: pets: classes are taken in their order" in card
    assert "private" not in card and "one class" not in card


@pytest.mark.parametrize("text", ["", "[]", "{", '{"scores": [{"ref": 1}]}', '{"scores": 3}'])
def test_a_document_beside_the_soup_that_is_damaged_is_named(text: str, small_soup: Path) -> None:
    (small_soup / "scores.json").write_text(text)
    with pytest.raises(DataError) as caught:
        repository_files(verify(small_soup), "me/soup", MIT, None)
    assert "scores.json" in caught.value.where and caught.value.hint


def test_files_are_compared_by_git_s_own_names_and_by_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes\n")
    git = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    sha256 = hashlib.sha256(b"some bytes\n").hexdigest()
    contents = dict.fromkeys(("by-git", "by-sha256", "other-git", "other-sha256", "new"), RepositoryFile.of(path))
    there = {
        "by-git": (git, None),
        "by-sha256": ("x", sha256),
        "other-git": ("0" * 40, None),
        "other-sha256": (git, "0" * 64),
    }
    files = plan({**contents, "bytes": RepositoryFile.of(b"some bytes\n")}, {**there, "bytes": (git, None)})
    assert {f.path: f.status for f in files} == {
        "by-git": "same", "by-sha256": "same", "other-git": "changed", "other-sha256": "changed", "new": "new",
        "bytes": "same",
    }  # fmt: skip
    assert {f.status for f in plan({"new": contents["new"]}, {}, known=False)} == {"unknown"}


def test_soup_json_says_which_files_soupkit_made_and_notices_a_change_of_itself(small_soup: Path) -> None:
    contents = repository_files(verify(small_soup), "me/soup", MIT, None)
    data = contents["soup.json"].read()
    assert sealed_files(data) == {path: hashlib.sha256(file.read()).hexdigest() for path, file in contents.items()}
    assert sealed_files(data.replace(b"float32", b"float64")) == {}
    assert sealed_files(b"{}") == sealed_files(b"[") == sealed_files(b'{"repository": {"files": []}}') == {}


def test_a_link_that_leads_out_of_the_soup_is_refused_by_name(small_soup: Path, tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(b"secret")
    (small_soup / "curve.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(UsageError, match="leads out of the soup's directory") as caught:
        repository_files(verify(small_soup), "me/soup", MIT, None)
    assert caught.value.where == str(small_soup / "curve.png")


@pytest.mark.parametrize("name", ["open_clip_config.json", WEIGHTS_NAME, "scores.json"])
def test_links_out_of_the_soup_are_refused_for_every_kind_of_file(name: str, small_soup: Path, tmp_path: Path) -> None:
    (small_soup / name).rename(tmp_path / name)
    (small_soup / name).symlink_to(tmp_path / name)
    with pytest.raises(UsageError, match="leads out of the soup's directory"):
        repository_files(verify(small_soup), "me/soup", MIT, None)


def test_a_link_within_the_soup_is_a_file_of_it(small_soup: Path) -> None:
    (small_soup / "figures").mkdir()
    (small_soup / "figures" / "a.png").write_bytes(b"\x89PNG")
    (small_soup / "curve.png").symlink_to("figures/a.png")
    assert repository_files(verify(small_soup), "me/soup", MIT, None)["curve.png"].read() == b"\x89PNG"


def test_what_is_no_file_and_names_that_act_are_refused(small_soup: Path) -> None:
    (small_soup / "x.png").mkdir()
    with pytest.raises(UsageError, match="is no regular file"):
        repository_files(verify(small_soup), "me/soup", MIT, None)
    (small_soup / "x.png").rmdir()
    (small_soup / "x\x1b[2J.png").write_bytes(b"\x89PNG")
    with pytest.raises(UsageError, match="control characters"):
        repository_files(verify(small_soup), "me/soup", MIT, None)
