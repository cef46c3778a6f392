"""`soupkit cache`: how much room the cache takes, and what may go."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson, Cache
from soupkit.errors import UsageError
from soupkit.text import counted

HELP = """\
Say how large the cache is, or remove what has not been used for a while.

[bold]Example[/bold]:

    soupkit cache
    soupkit cache prune --older-than 30
    soupkit cache prune --older-than 0   # all of it

What is removed is made again when it is needed: pixels by decoding the images, scores by scoring. A run that is at work
keeps what it has open.
"""
# What the folders of the cache hold; anything else in the directory is nobody's business here.
KINDS = {
    "pixels": "decoded images",
    "scores": "scores of models on tasks",
    "weights": "fingerprints of weights, by file",
    "fingerprints": "fingerprints of checkpoints, by file",
    "content": "digests of data sets, by file",
    "shards": "where samples of shards lie",
}
_DAY = 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """One folder of the cache: its files and bytes, and how many days ago the last file was used (None: no file)."""

    kind: str
    holds: str
    files: int
    bytes: int
    days_unused: float | None


def cache(
    action: Annotated[str, typer.Argument(metavar="size|prune", help="What to do.")] = "size",
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="prune: what was not used for so long.")
    ] = 30.0,
    cache: Cache = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="prune: say what would go; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import count, print_json, print_line
    from soupkit.evaluation.options import default_cache

    if action not in ("size", "prune"):
        raise UsageError("is neither size nor prune", action, "as in soupkit cache prune --older-than 30")
    directory = cache or default_cache()
    removed = list(prune(directory, older_than * _DAY, dry_run=dry_run)) if action == "prune" else []
    folders = [measured(directory, kind) for kind in KINDS]
    if as_json:
        fields = {"directory": str(directory), "folders": [asdict(folder) for folder in folders]}
        pruned = {"removed": len(removed), "removed_bytes": sum(removed), "dry_run": dry_run}
        print_json("cache", {**fields, **(pruned if action == "prune" else {})})
        return
    if action == "prune":
        words = "would be removed" if dry_run else "removed"
        print_line(f"{words}: {counted(len(removed), 'file')}, {count(sum(removed), 'B')}")
    _show(directory, folders)


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder of the cache; no link is followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def measured(directory: Path, kind: str) -> CacheFolder:
    """Return how large one folder of the cache in `directory` is."""
    statuses = [path.stat() for path in files_of(directory / kind)]
    used = max((max(s.st_atime, s.st_mtime) for s in statuses), default=None)
    days = None if used is None else max(0.0, (time.time() - used) / _DAY)
    return CacheFolder(kind, KINDS[kind], len(statuses), sum(s.st_size for s in statuses), days)


def prune(directory: Path, seconds: float, *, dry_run: bool = False) -> Iterator[int]:
    """Remove the files that were not used for so many seconds, and yield the bytes of each; folders stay."""
    now = time.time()
    for kind in KINDS:
        for path in files_of(directory / kind):
            status = path.stat()
            if now - max(status.st_atime, status.st_mtime) >= seconds:
                if not dry_run:
                    path.unlink(missing_ok=True)
                yield status.st_size


def _show(directory: Path, folders: list[CacheFolder]) -> None:
    from rich.table import Table

    from soupkit.cli.output import count, plain_console

    table = Table("folder", "holds", "files", "size", "last used", box=None, pad_edge=False)
    for folder in folders:
        table.add_row(
            folder.kind, folder.holds, f"{folder.files:,}", count(folder.bytes, "B"), _ago(folder.days_unused)
        )
    console = plain_console()
    console.print(table)
    total = sum(folder.bytes for folder in folders)
    console.print(f"{directory}: {count(total, 'B')} in {sum(folder.files for folder in folders):,} files")


def _ago(days: float | None) -> str:
    if days is None:
        return ""
    return "today" if days < 1 else "a day ago" if days < 2 else f"{days:.0f} days ago"
