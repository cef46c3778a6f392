"""A repository laid out in a folder: soupkit writes and removes only files that it made, each by one rename.

Which files those are the repository's `soup.json` says, with the sha256 of each; a file that is not as it says was made
or changed by somebody else. A folder that does not exist yet appears as a whole.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.partial import PartialDirectory, partial_path
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, StorageError
from soupkit.files import in_the_way, parse_json, read_bytes, read_text, storage_error
from soupkit.merging.soup_directory import SOUP_NAME
from soupkit.progress import SILENT, Progress
from soupkit.publishing.hub.planned_files import Contents, PlannedFile, plan
from soupkit.publishing.hub.repository import CARD, sealed_files

_STAGED = "files"  # below FOLDER.partial: the files to be put in place
_RECORD = "record.json"  # there too: the sha256 of each, for the run after a kill


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """What becomes of a folder: the repository's files with their statuses there, and the paths that are removed."""

    files: list[PlannedFile]
    removed: list[str]

    @property
    def unchanged(self) -> bool:
        """Whether the folder holds all of it already."""
        return not self.removed and all(file.status == "same" for file in self.files)


def check_folder(folder: Path) -> None:
    """Raise StorageError for a folder that no repository can be laid out in, since it is something else."""
    if folder.is_symlink() and not folder.exists():
        raise StorageError("is a link to nothing", folder, "name another folder")
    if folder.exists() and not folder.is_dir():
        raise StorageError("is no folder", folder, "name another")
    if (found := in_the_way(folder.parent)) is not None:
        raise StorageError(f"cannot be written: {found[0]} {found[1]}", folder, "choose another place")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SOUP_NAME).is_file():
        raise StorageError("is there already and is not a soup's repository", folder, "choose another folder")


def plan_folder(contents: Contents, folder: Path) -> FolderPlan:
    """Say what becomes of `folder`. Raises StorageError for a file in the way that soupkit did not make."""
    made = _made_files(folder)
    held: dict[str, tuple[None, str]] = {}
    for path, file in contents.items():
        target = folder / path
        if not os.path.lexists(target) and not _is_under_a_link(folder, path):
            continue
        digest = _digest(target)
        if digest != file.sha256:
            _refuse_foreign(folder, path, digest, made)
        held[path] = (None, digest or "")
    removed = [
        path
        for path, digests in made.items()
        if path not in contents and not _is_under_a_link(folder, path) and _digest(folder / path) in digests
    ]
    return FolderPlan(plan(contents, held), removed)


def _refuse_foreign(folder: Path, path: str, digest: str | None, made: dict[str, set[str]]) -> None:
    """Raise StorageError unless what is at `path`, of this `digest`, may be replaced."""
    if _is_under_a_link(folder, path) or (folder / path).is_symlink():
        raise StorageError("is a link, which soupkit did not make", folder / path, "move it away")
    if digest is None:
        raise StorageError("is no regular file", folder / path, "move it away")
    # Of the README, what a person wrote in it is kept: it stands in the new one.
    if path != CARD and digest not in made[path]:
        raise StorageError(
            "was not made by soupkit, or was changed since", folder / path, "move it away, or choose another folder"
        )


def write_folder(contents: Contents, folder: Path, planned: FolderPlan, progress: Progress = SILENT) -> None:
    """Carry out what was `planned` for `folder`. Weights are linked where the disk allows it.

    Killed, the same call ends it. Raises StorageError; CheckpointError for a file that is not written as it should be.
    """
    changed = [file for file in planned.files if file.status != "same"]
    with PartialDirectory(folder, "push") as partial:
        partial.clear()
        try:
            record = json.dumps({file.path: file.sha256 for file in planned.files})
            (partial.path / _RECORD).write_text(record, "utf-8")
            _stage(contents, changed, partial.path / _STAGED, folder, progress)
            if folder.exists():
                _put_in_place(changed, planned.removed, partial.path / _STAGED, folder)
        except OSError as error:
            raise storage_error(error, Path(error.filename or folder), 0) from error
        if folder.exists():
            _discard(partial)
        else:
            partial.publish(partial.path / _STAGED)


def sweep(folder: Path) -> None:
    """Remove what a run that was killed right before its end left beside `folder`."""
    left = partial_path(folder)
    if left.is_dir() and ((left / _RECORD).is_file() or {p.name for p in left.iterdir()} <= {"lock"}):
        with suppress(StorageError), PartialDirectory(folder, "push") as partial:  # another command's, or at work
            _discard(partial)


def _discard(partial: PartialDirectory) -> None:
    """Remove the directory, and last what says whose it was."""
    shutil.rmtree(partial.path / _STAGED, ignore_errors=True)
    partial.discard()


def _stage(contents: Contents, files: list[PlannedFile], staged: Path, folder: Path, progress: Progress) -> None:
    progress.start(f"writing {folder}", sum(file.size for file in files), "B")
    for file in files:
        path = staged / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = contents[file.path].content
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif file.path == OPEN_CLIP_WEIGHTS:
            _link(content, path)
        else:
            shutil.copyfile(content, path)
        if sha256_of(path) != file.sha256:
            raise CheckpointError("is not what was to be written", path, "run the same command again")
        progress.advance(file.size)
    progress.finish()


def _put_in_place(files: list[PlannedFile], removed: list[str], staged: Path, folder: Path) -> None:
    """Rename each file to its place, and last the one that says which files soupkit made."""
    for file in sorted(files, key=lambda file: file.path == SOUP_NAME):
        if file.path == SOUP_NAME:
            _remove(removed, folder)
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (staged / file.path).replace(folder / file.path)


def _remove(paths: list[str], folder: Path) -> None:
    for path in paths:
        (folder / path).unlink(missing_ok=True)
        for parent in list(Path(path).parents)[:-1]:
            with suppress(OSError):  # something else is in it
                (folder / parent).rmdir()


def _link(file: Path, path: Path) -> None:
    """Give the gigabytes of `file` a second name, or write them a second time where that is not possible."""
    try:
        os.link(file.resolve(), path)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(file, path)


def _made_files(folder: Path) -> dict[str, set[str]]:
    """Return the paths of the files that soupkit made in `folder`, with the sha256 that each may have: as it was
    finished, and as a run that was killed would have left it."""
    made: dict[str, set[str]] = defaultdict(set)
    for record in _records(folder):
        for path, digest in record.items():
            if not Path(path).is_absolute() and ".." not in Path(path).parts:
                made[path].add(digest)
    return made


def _records(folder: Path) -> Iterator[dict[str, str]]:
    with suppress(OSError):
        yield sealed_files(read_bytes(folder / SOUP_NAME))
    with suppress(OSError, ValueError):
        record = parse_json(read_text(partial_path(folder) / _RECORD))
        if isinstance(record, dict) and all(isinstance(digest, str) for digest in record.values()):
            yield record


def _digest(path: Path) -> str | None:
    """Return the sha256 of a regular file, or of the one that a link leads to; None for anything else."""
    try:
        return sha256_of(path) if path.is_file() else None
    except OSError:
        return None


def _is_under_a_link(folder: Path, path: str) -> bool:
    return any((folder / parent).is_symlink() for parent in list(Path(path).parents)[:-1])
