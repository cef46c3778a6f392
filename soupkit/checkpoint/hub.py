"""Weights on the Hub: headers by range request, files through huggingface_hub's own cache.

A reference is resolved to a commit once, and everything is read from that commit. What a model is can be known from
a few kilobytes: `header_files` lays them out as a directory whose weight files hold their headers and nothing else.
"""

import re
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.folder import LocalFolder
from soupkit.checkpoint.formats.table import choose_weights, family_of, format_of
from soupkit.checkpoint.hub_download import complete_blob
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.hub_listing import Listing, choose_from, list_repo
from soupkit.checkpoint.hub_ref import HubRef
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, HubError, HubUnreachableError
from soupkit.progress import SILENT, Progress

_SHA256 = re.compile(r"[0-9a-f]{64}")


def header_files(ref: HubRef, scratch: Path) -> Path:
    """Return the path at which the checkpoint `ref` has its configs and the headers of its weights: a folder, or a file
    in one where the reference names a file.

    That is `scratch`, filled by range requests, its weight files sparse after their headers; the cache where it already
    holds the files or the Hub cannot be reached; and, for pickles, the cache after a download.
    """
    try:
        listing = list_repo(ref)
    except HubUnreachableError as error:
        return from_cache(ref, error)
    family, weights = choose_from(listing)
    snapshot = _snapshot(ref.repo, listing.commit)
    if snapshot is not None and _is_whole(snapshot / listing.folder, weights):
        return _meant(snapshot / listing.folder, listing)
    if format_of(weights).header is None:
        return fetch(ref)
    _write_header(listing, weights, scratch)
    parts = _parts(scratch / weights)
    if any(format_of(part).header is None for part in parts):
        return fetch(ref)
    for name in listing.beside(family):
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_bytes(listing.read(name))
    for part in parts:
        _check_uploaded(listing, part)
        _write_header(listing, part, scratch)
    return _meant(scratch, listing)


def _meant(directory: Path, listing: Listing) -> Path:
    """Return what the reference names: the directory, or the file in it."""
    return directory / listing.file if listing.file is not None else directory


def _parts(path: Path) -> tuple[str, ...]:
    """Return the names of the files beside `path` that hold the tensors of which it only says where they are."""
    format_ = format_of(path)
    return format_.parts(path) if format_.parts is not None else ()


def _check_uploaded(listing: Listing, shard: str) -> None:
    if shard not in listing.sizes:
        raise CheckpointError(
            f"lacks the shard {shard}, which its index names",
            listing,
            "its upload was not finished; name another commit",
        )


def _write_header(listing: Listing, name: str, directory: Path) -> None:
    """Write the first bytes of a file, its header; what follows them is a hole of the file's true size."""

    def read_range(start: int, stop: int) -> bytes:
        return listing.read_range(name, start, stop)

    header = format_of(name).header
    assert header is not None
    with (directory / name).open("wb") as file:
        file.write(header(read_range, listing.sizes[name]))
        file.truncate(listing.sizes[name])


def fetch(ref: HubRef, progress: Progress = SILENT) -> Path:
    """Bring the checkpoint into huggingface_hub's cache, and return the directory there that holds it, or the file.

    A download that was cut goes on where it stopped, a file that is there is not sent again, and what arrives is
    compared with the sha256 that the Hub names. Where the Hub cannot be reached the cache speaks alone.
    Raises HubError; CheckpointError for a repository without weights.
    """
    try:
        listing = list_repo(ref)
    except HubUnreachableError as error:
        return from_cache(ref, error)
    family, weights = choose_from(listing)
    companions = listing.beside(family)
    for name in companions:
        _download(listing, name, SILENT)
    path = _download(listing, weights, progress)
    for part in _parts(path):
        _check_uploaded(listing, part)
        _download(listing, part, progress)
    if ref.revision != listing.commit:
        smallest = min(companions or (weights,), key=listing.size_of)
        _remember(ref, listing.folder + smallest)
    return _meant(path.parent, listing)


def _remember(ref: HubRef, name: str) -> None:
    """Let the cache know which commit the branch or tag stands for, so that it answers for it offline."""
    from huggingface_hub import hf_hub_download

    with explained(ref):
        hf_hub_download(ref.repo, name, revision=ref.revision, library_name="soupkit")


def _download(listing: Listing, name: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download

    snapshot = _snapshot(listing.ref.repo, listing.commit)
    path_in_repo = listing.folder + name
    if snapshot is not None and (snapshot / path_in_repo).is_file():
        return snapshot / path_in_repo
    where = listing.locate(name)
    expected = listing.sha256.get(name)
    size = listing.size_of(name)
    progress.start(f"downloading {name}", size, "B")
    try:
        with explained(where):
            checked = expected is not None and complete_blob(
                listing.ref.repo, listing.commit, path_in_repo, expected, size, where, progress
            )
            path = Path(
                hf_hub_download(
                    listing.ref.repo,
                    path_in_repo,
                    revision=listing.commit,
                    library_name="soupkit",
                    tqdm_class=_reporting(progress),
                )
            )
    finally:
        progress.finish()
    if expected is not None and not checked and sha256_of(path) != expected:
        path.resolve().unlink()
        path.unlink()
        raise HubError("arrived with another sha256 than the Hub names", where, "run this again; it is downloaded anew")
    return path


def _reporting(progress: Progress) -> Any:
    """Return a progress bar for huggingface_hub that shows nothing and tells `progress`."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            progress.advance(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> bool | None:
            progress.advance(int(n or 0))
            return None

    return Bar


def _snapshot(repo: str, revision: str) -> Path | None:
    """Return where huggingface_hub's cache keeps that revision, None where it knows nothing of it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    name = folder / "refs" / revision
    commit = name.read_text().strip() if name.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def from_cache(ref: HubRef, error: HubUnreachableError) -> Path:
    """Return what the cache holds of `ref`; raises `error`, why the Hub did not answer, when not all of it is there."""
    snapshot = _snapshot(ref.repo, ref.revision or "main")
    path = snapshot / ref.path if snapshot is not None else None
    if path is None or not path.exists():
        raise error
    folder = LocalFolder.list(path if path.is_dir() else path.parent)
    try:
        weights = path.name
        if path.is_dir():
            weights = choose_weights(folder, family_of(folder), prefer_headers=True)
    except CheckpointError:
        raise error from None
    if not _is_whole(folder.path, weights):
        raise error
    return path


def _is_whole(directory: Path, weights: str) -> bool:
    """Whether the weights are in `directory`, all shards of them."""
    if not (directory / weights).is_file():
        return False
    return all((directory / part).is_file() for part in _parts(directory / weights))


def sha256_by_cache(path: Path) -> str | None:
    """Return the sha256 of a file in huggingface_hub's cache, where large files are stored under it; None elsewhere."""
    target = path.resolve()
    inside = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return target.name if inside and _SHA256.fullmatch(target.name) else None
