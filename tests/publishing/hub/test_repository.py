"""What a repository holds, and how it is compared with what is there."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from soupkit.errors import DataError, UsageError
from soupkit.publishing.hub.repository import CARD, PushOptions, plan, repository_files
from soupkit.publishing.hub.verify import WEIGHTS_NAME, verify

MIT = PushOptions(license="mit")


def test_a_repository_holds_weights_config_documents_and_the_card_and_nothing_else(small_soup: Path) -> None:
    (small_soup / "notes.txt").write_text("private")
    (small_soup / "scores.png").write_bytes(b"\x89PNG")
    contents = repository_files(verify(small_soup), "me/soup", MIT, None)
    assert list(contents) == sorted(
        [CARD, "open_clip_config.json", WEIGHTS_NAME, "scores.json", "scores.png", "soup.json"]
    )
    card = contents[CARD]
    assert isinstance(card, bytes) and b"![Scores of each model, with 95 % intervals](scores.png)" in card


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
    contents = dict.fromkeys(("by-git", "by-sha256", "other-git", "other-sha256", "new"), path)
    there = {
        "by-git": (git, None),
        "by-sha256": ("x", sha256),
        "other-git": ("0" * 40, None),
        "other-sha256": (git, "0" * 64),
    }
    files = plan({**contents, "bytes": b"some bytes\n"}, {**there, "bytes": (git, None)}, known=True)
    assert {f.path: f.status for f in files} == {
        "by-git": "same", "by-sha256": "same", "other-git": "changed", "other-sha256": "changed", "new": "new",
        "bytes": "same",
    }  # fmt: skip
    assert {f.status for f in plan({"new": path}, {}, known=False)} == {"unknown"}
