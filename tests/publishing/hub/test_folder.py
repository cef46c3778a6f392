"""The repository laid out in a folder: what the Hub would hold, and nothing of anybody else's touched."""

import json
import os
import shutil
import subprocess
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
    assert not (hub / "scores.json").exists(), "soupkit made it, and the repository holds it no more"
    assert not (tmp_path / "hub.partial").exists()


def snapshot(folder: Path) -> dict[str, tuple[int, int, str | bytes | None]]:
    """Everything below `folder`: inode, mode, and what a file holds or a link says."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        held = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, held)
    return found


@pytest.fixture
def users_folder(soup: Path, tmp_path: Path) -> Path:
    """A repository that a user keeps in git beside folders, links and notes, and a soup that changed since."""
    hub = tmp_path / "hub"
    in_folder(soup, hub)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.txt").write_text("far")
    (hub / "empty").mkdir()
    (hub / "linked").symlink_to(tmp_path / "elsewhere")
    (hub / "notes.txt").write_text("mine")
    (hub / "again.txt").hardlink_to(hub / "notes.txt")
    git = ["git", "-C", str(hub), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["gc", "-q"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    (soup / "scores.json").unlink()
    return hub


def test_everything_in_a_folder_that_soupkit_did_not_make_stays_as_it_is(soup: Path, users_folder: Path) -> None:
    before = snapshot(users_folder)
    made = {"README.md", "soup.json", "scores.json", "open_clip_config.json", WEIGHTS}
    assert in_folder(soup, users_folder).status == "written"
    after = snapshot(users_folder)
    assert {k: v for k, v in after.items() if k not in made} == {k: v for k, v in before.items() if k not in made}
    assert subprocess.run(["git", "-C", users_folder, "fsck"], capture_output=True).returncode == 0
    changed = subprocess.run(["git", "-C", users_folder, "diff", "--name-only"], capture_output=True, text=True)
    assert set(changed.stdout.split()) == {"README.md", "scores.json", "soup.json"}


@pytest.mark.parametrize("name", ["open_clip_config.json", "soup.json", "scores.json"])
def test_a_file_that_was_changed_by_hand_is_refused_by_name_and_nothing_is_touched(
    name: str, soup: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    in_folder(soup, hub)
    (hub / name).write_text((hub / name).read_text().replace('"', "'", 1))
    scores = json.loads((soup / "scores.json").read_text())
    scores["scores"][0]["value"] = 0.7
    (soup / "scores.json").write_text(json.dumps(scores))
    before = snapshot(hub)
    with pytest.raises(StorageError, match="was changed since") as caught:
        in_folder(soup, hub)
    assert snapshot(hub) == before and (name == "soup.json" or caught.value.where == str(hub / name))


def test_only_the_weights_are_shared_with_the_soup(soup: Path, tmp_path: Path) -> None:
    in_folder(soup, tmp_path / "hub")
    shared = [p.name for p in (tmp_path / "hub").iterdir() if (soup / p.name).exists() and p.samefile(soup / p.name)]
    assert shared == [WEIGHTS]


def test_what_was_changed_by_hand_is_not_removed_with_the_rest(soup: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    in_folder(soup, hub)
    (hub / "scores.json").write_text("{}")
    (soup / "scores.json").unlink()
    assert in_folder(soup, hub).status == "written" and (hub / "scores.json").read_text() == "{}"


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_where_a_file_is_to_be_written_is_refused(target: str, soup: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    in_folder(soup, hub)
    (tmp_path / "file").write_text("far away")
    (tmp_path / "folder").mkdir()
    (hub / "open_clip_config.json").unlink()
    (hub / "open_clip_config.json").symlink_to(tmp_path / target)
    with pytest.raises(StorageError, match="is a link, which soupkit did not make"):
        in_folder(soup, hub)
    assert (tmp_path / "file").read_text() == "far away" and not list((tmp_path / "folder").iterdir())


def test_a_folder_that_is_a_link_stays_one(soup: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "hub").symlink_to("real")
    assert in_folder(soup, tmp_path / "hub").status == "written"
    assert (tmp_path / "hub").is_symlink() and (tmp_path / "real" / WEIGHTS).is_file()
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(StorageError, match="is a link to nothing"):
        in_folder(soup, tmp_path / "lost")


def test_the_unfinished_work_of_another_command_is_left_alone(soup: Path, tmp_path: Path) -> None:
    partial = tmp_path / "hub.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_text("half a merge")
    with pytest.raises(StorageError, match="`soupkit push` has not written"):
        in_folder(soup, tmp_path / "hub")
    assert (partial / "model.safetensors").read_text() == "half a merge"


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_at_any_step_the_same_call_ends_the_work_and_nothing_of_the_user_s_is_lost(
    soup: Path, users_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each rename, unlink, rmdir and mkdir in turn."""
    made = {"README.md", "soup.json", "scores.json", "open_clip_config.json", WEIGHTS}
    users = {k: v for k, v in snapshot(users_folder).items() if k not in made}
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", users_folder, saved], check=True)
    in_folder(soup, users_folder)
    undisturbed = {k: v for k, v in bytes_of(users_folder).items() if k in made}
    names = ("rename", "replace", "unlink", "rmdir", "mkdir", "link")
    real = {name: getattr(os, name) for name in names}
    left = 0

    def dying(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real[name](*arguments, **options)

        return call

    for moments in range(100):
        for name in ("soup.json", "README.md", "scores.json"):
            shutil.copy(saved / name, users_folder / name)
        left = moments
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, dying(name))
            try:
                in_folder(soup, users_folder)
                finished = True
            except Killed:
                finished = False
        after = snapshot(users_folder)
        assert {k: v for k, v in after.items() if k not in made} == users
        in_folder(soup, users_folder)
        assert {k: v for k, v in bytes_of(users_folder).items() if k in made} == undisturbed
        assert not (tmp_path / "hub.partial").exists()
        if finished:
            break
    assert 3 < moments < 99


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


def test_a_folder_that_is_a_link_to_itself_is_refused(soup: Path, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(StorageError, match="is a link to nothing"):
        in_folder(soup, tmp_path / "round")
    assert (tmp_path / "round").is_symlink()
