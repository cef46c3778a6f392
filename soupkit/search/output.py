"""Where a search works: `DIR.partial`, taken when it is this search's to take, and put in place when it is over."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soupkit.checkpoint.partial import PartialDirectory, partial_path, remove_lock
from soupkit.errors import StorageError
from soupkit.search.document import SearchDocument
from soupkit.search.journal import Journal
from soupkit.search.names import JOURNAL, OURS, OUTPUT_OF_SCORE, SOUP
from soupkit.search.prepared import PreparedSearch

Picture = Callable[[dict[str, Any], Path], None]


def check_output(search: PreparedSearch, *, fresh: bool) -> SearchDocument | None:
    """Return the document of the finished search, if it is there; note what there is to resume. Writes nothing.

    Raises StorageError where something else is in the way, at the target or at its partial directory.
    """
    finished = search.existing(fresh=fresh)
    partial = partial_path(search.target)
    if finished is None and partial.is_dir():
        _refuse_foreign(partial)
        if not fresh:
            journal = Journal(partial / JOURNAL, search.subject(), writes=False)
            if journal.done:
                search.progress.note(journal.summary("fraction" if search.score is None else "number"))
    return finished


def take_output(partial: PartialDirectory, *, fresh: bool) -> None:
    """Make the directory, which is held, ready to work in; `fresh` forgets what an earlier run left.

    Raises StorageError when it holds files of others, or when another run finished meanwhile.
    """
    try:
        _refuse_foreign(partial.path)
        target = partial.target
        if target.exists() and not fresh and any(target.iterdir()):
            raise StorageError(
                "was written by another run meanwhile", target, "run the same command again: it says what is there"
            )
    except StorageError:
        remove_lock(partial.path)
        raise
    if fresh:
        partial.clear()


def is_a_search(directory: Path) -> bool:
    """Whether an unfinished directory without a mark is one of a search: it has a journal."""
    return (directory / JOURNAL).is_file()


def _refuse_foreign(directory: Path) -> None:
    if foreign := sorted(path.name for path in directory.iterdir() if path.name not in OURS):
        raise StorageError(
            f"holds {foreign[0]!r}, which no search wrote", directory, "move it away, or choose another -o"
        )


def publish(partial: PartialDirectory, document: SearchDocument, picture: Picture | None, *, fresh: bool) -> None:
    """Put the document and the picture beside the soup, and all of it in place by one rename. Raises StorageError."""
    soup, printed = partial.path / SOUP, partial.path / OUTPUT_OF_SCORE
    if printed.is_dir():
        shutil.copytree(printed, soup / OUTPUT_OF_SCORE, dirs_exist_ok=True)
    document.write(soup)
    if picture is not None:
        picture(document.to_dict(), soup / "search.png")
    partial.publish(soup, replace=fresh)
