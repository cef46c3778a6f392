"""`hf-hub:ORG/NAME[@REVISION]`: headers by range request, files through huggingface_hub's own cache.

A reference is resolved to a commit once, and everything is read from that commit. What a model is can be known from
a few kilobytes: `header_files` lays them out as a directory whose weight files hold their headers and nothing else.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.checkpoint.formats.folder import LocalFolder, matching
from soupkit.checkpoint.formats.table import choose_weights, family_of, format_of
from soupkit.checkpoint.hub_download import complete_blob
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, HubError, HubUnreachableError, UsageError
from soupkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf-hub:"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubRef:
    """A model repository on the Hub, and a branch, tag or commit of it (None: its main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.repo + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, ref: str) -> "HubRef":
        """Read `hf-hub:ORG/NAME[@REVISION]`. Raises UsageError for anything else."""
        repo, at, revision = ref.removeprefix(PREFIX).partition("@")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", repo, re.ASCII) or (at and not revision):
            raise UsageError("is not a reference to the Hub", ref, "write hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
        return cls(repo, revision or None)


def is_hub(ref: object) -> bool:
    """Whether `ref` names a repository on the Hub."""
    return str(ref).startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class Listing:
    """A commit of a repository: the files in its root with their sizes, and the sha256 of those kept as large files.

    It is a `Folder`, whose files are read from the Hub one by one.
    """

    ref: HubRef
    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str]

    def __str__(self) -> str:
        return str(self.ref)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, sorted."""
        return tuple(sorted(self.sizes))

    def read(self, name: str) -> bytes:
        """Return the content of a small file. Raises HubError."""
        return self.read_range(name, 0, self.sizes[name])

    def locate(self, name: str) -> str:
        """Return what errors call a file of the repository."""
        return f"{self.ref}, {name}"

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of a file, and no more than that, whatever the Hub sends. Raises HubError."""
        if stop <= start:
            return b""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        # No compression on the way: ranges count the file's own bytes.
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        url = hf_hub_url(self.ref.repo, name, revision=self.commit)
        data = bytearray()
        with (
            explained(self.locate(name)),
            get_session().stream(
                "GET", url, headers={**build_hf_headers(library_name="soupkit"), **headers}, follow_redirects=True
            ) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                raise HubError("cannot be read in parts: the Hub sends it whole", self.locate(name), "run this again")
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= stop - start:
                    break
        if len(data) < stop - start:
            raise HubError("arrived with fewer bytes than asked for", self.locate(name), "run this again")
        return bytes(data[: stop - start])


def list_repo(ref: HubRef) -> Listing:
    """Ask the Hub what `ref` holds. Raises HubError."""
    with explained(ref):
        info = _api().model_info(ref.repo, revision=ref.revision, files_metadata=True)
    files = [f for f in info.siblings or [] if "/" not in f.rfilename]
    if info.sha is None:
        raise HubError("has no commit", ref, "push files to the repository first")
    return Listing(
        ref,
        info.sha,
        {f.rfilename: f.size or 0 for f in files},
        {f.rfilename: f.lfs.sha256 for f in files if f.lfs is not None},
    )


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="soupkit")


def header_files(ref: HubRef, scratch: Path) -> Path:
    """Return a directory in which the checkpoint `ref` has its configs and the headers of its weights.

    That is `scratch`, filled by range requests, its weight files sparse after their headers; the cache where it already
    holds the files or the Hub cannot be reached; and, for pickles, the cache after a download.
    """
    try:
        listing = list_repo(ref)
    except HubUnreachableError as error:
        return _from_cache(ref, error)
    family = family_of(listing)
    weights = choose_weights(listing, family, prefer_headers=True)
    snapshot = _snapshot(ref.repo, listing.commit)
    if snapshot is not None and _is_whole(snapshot, weights):
        return snapshot
    if format_of(weights).header is None:
        return fetch(ref)
    _write_header(listing, weights, scratch)
    parts = _parts(scratch / weights)
    if any(format_of(part).header is None for part in parts):
        return fetch(ref)
    for name in matching(listing.names, family.companions):
        (scratch / name).write_bytes(listing.read(name))
    for part in parts:
        _check_uploaded(listing, part)
        _write_header(listing, part, scratch)
    return scratch


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
    """Bring the checkpoint into huggingface_hub's cache, and return the directory there that holds it.

    A download that was cut goes on where it stopped, a file that is there is not sent again, and what arrives is
    compared with the sha256 that the Hub names. Where the Hub cannot be reached the cache speaks alone.
    Raises HubError; CheckpointError for a repository without weights.
    """
    try:
        listing = list_repo(ref)
    except HubUnreachableError as error:
        return _from_cache(ref, error)
    family = family_of(listing)
    weights = choose_weights(listing, family, prefer_headers=True)
    companions = matching(listing.names, family.companions)
    for name in companions:
        _download(listing, name, SILENT)
    path = _download(listing, weights, progress)
    for part in _parts(path):
        _check_uploaded(listing, part)
        _download(listing, part, progress)
    if ref.revision != listing.commit:
        _remember(ref, min(companions or (weights,), key=lambda name: listing.sizes[name]))
    return path.parent


def _remember(ref: HubRef, name: str) -> None:
    """Let the cache know which commit the branch or tag stands for, so that it answers for it offline."""
    from huggingface_hub import hf_hub_download

    with explained(ref):
        hf_hub_download(ref.repo, name, revision=ref.revision, library_name="soupkit")


def _download(listing: Listing, name: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download

    snapshot = _snapshot(listing.ref.repo, listing.commit)
    if snapshot is not None and (snapshot / name).is_file():
        return snapshot / name
    where = listing.locate(name)
    expected = listing.sha256.get(name)
    progress.start(f"downloading {name}", listing.sizes[name], "B")
    try:
        with explained(where):
            checked = expected is not None and complete_blob(
                listing.ref.repo, listing.commit, name, expected, listing.sizes[name], where, progress
            )
            path = Path(
                hf_hub_download(
                    listing.ref.repo,
                    name,
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


def _from_cache(ref: HubRef, error: HubUnreachableError) -> Path:
    """Return the cached snapshot; raises `error`, why the Hub did not answer, when not all of it is cached."""
    snapshot = _snapshot(ref.repo, ref.revision or "main")
    if snapshot is not None:
        folder = LocalFolder.list(snapshot)
        try:
            weights = choose_weights(folder, family_of(folder), prefer_headers=True)
        except CheckpointError:
            weights = ""
        if weights and _is_whole(snapshot, weights):
            return snapshot
    raise error


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
