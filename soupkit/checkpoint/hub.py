"""`hf-hub:ORG/NAME[@REVISION]`: headers by range request, files through huggingface_hub's own cache.

A reference is resolved to a commit once, and everything is read from that commit. What a model is can be known from
a few kilobytes: `header_files` lays them out as a directory whose weight files hold their headers and nothing else.
"""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.checkpoint.formats.safetensors_header import MAX_HEADER_BYTES
from soupkit.checkpoint.formats.shards import weight_map
from soupkit.checkpoint.formats.weight_files import INDEX, PICKLES, WEIGHT_NAMES, choose_weights, companions
from soupkit.checkpoint.hub_download import complete_blob
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, HubError, HubUnreachableError, UsageError
from soupkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf-hub:"
_FIRST_BYTES = 1 << 17  # holds the header of nearly every CLIP
_SHA256 = re.compile(r"[0-9a-f]{64}")
# On the Hub safetensors go before any pickle: they need no trust, and their headers can be read alone.
_ORDER = tuple(sorted(WEIGHT_NAMES, key=lambda name: ".safetensors" not in name))


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
    """A commit of a repository: the files in its root with their sizes, and the sha256 of those kept as large files."""

    ref: HubRef
    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str]


def list_repo(ref: HubRef) -> Listing:
    """Ask the Hub what `ref` holds. Raises HubError."""
    with explained(ref):
        info = _api().model_info(ref.repo, revision=ref.revision, files_metadata=True)
    files = [f for f in info.siblings or [] if "/" not in f.rfilename]
    if info.sha is None:
        raise HubError("the Hub names no commit for it", ref, "is the repository empty?")
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
    weights = choose_weights(listing.sizes, ref, order=_ORDER)
    cached = _snapshot(ref.repo, listing.commit)
    if cached is not None and _whole(cached, weights):
        return cached
    if weights.endswith((*PICKLES, ".bin" + INDEX)):
        return fetch(ref)
    for name in companions(listing.sizes):
        (scratch / name).write_bytes(_read(listing, name, 0, listing.sizes[name]))
    names = [weights]
    if weights.endswith(INDEX):
        (scratch / weights).write_bytes(_read(listing, weights, 0, listing.sizes[weights]))
        names = sorted(set(weight_map(scratch / weights).values()))
    for name in names:
        if name not in listing.sizes:
            raise CheckpointError(f"lacks the shard {name}, which its index names", ref, "its upload was not finished")
        _write_skeleton(listing, name, scratch / name)
    return scratch


def _write_skeleton(listing: Listing, name: str, path: Path) -> None:
    """Write the header of a safetensors file; what follows it is a hole of the file's true size."""
    size = listing.sizes[name]
    head = _read(listing, name, 0, min(size, _FIRST_BYTES))
    if len(head) >= 8:
        end = 8 + struct.unpack("<Q", head[:8])[0]
        if len(head) < end <= min(size, 8 + MAX_HEADER_BYTES):
            head += _read(listing, name, len(head), end)
        head = head[:end]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def _read(listing: Listing, name: str, start: int, stop: int) -> bytes:
    """Return bytes `start` to `stop` of a file on the Hub, and no more than that, whatever the Hub sends."""
    if stop <= start:
        return b""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # No compression on the way: ranges count the file's own bytes.
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(listing.ref.repo, name, revision=listing.commit)
    data = bytearray()
    with (
        explained(f"{listing.ref}, {name}"),
        get_session().stream(
            "GET", url, headers={**build_hf_headers(library_name="soupkit"), **headers}, follow_redirects=True
        ) as response,
    ):
        hf_raise_for_status(response)
        if start and response.status_code != 206:
            raise HubError("the Hub does not send parts of files", listing.ref)
        for piece in response.iter_bytes():
            data += piece
            if len(data) >= stop - start:
                break
    if len(data) < stop - start:
        raise HubError("the Hub sent fewer bytes than asked for", f"{listing.ref}, {name}", "run this again")
    return bytes(data[: stop - start])


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
    weights = choose_weights(listing.sizes, ref, order=_ORDER)
    for name in companions(listing.sizes):
        _download(listing, name, SILENT)
    place = _download(listing, weights, progress)
    if weights.endswith(INDEX):
        for shard in sorted(set(weight_map(place).values())):
            if shard not in listing.sizes:
                raise CheckpointError(f"lacks the shard {shard}, which its index names", ref)
            _download(listing, shard, progress)
    if ref.revision != listing.commit:
        _remember(ref, min(companions(listing.sizes) or [weights], key=lambda n: listing.sizes[n]))
    return place.parent


def _remember(ref: HubRef, name: str) -> None:
    """Let the cache know which commit the branch or tag stands for, so that it answers for it offline."""
    from huggingface_hub import hf_hub_download

    with explained(ref):
        hf_hub_download(ref.repo, name, revision=ref.revision, library_name="soupkit")


def _download(listing: Listing, name: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download

    known = _snapshot(listing.ref.repo, listing.commit)
    if known is not None and (known / name).is_file():
        return known / name
    where = f"{listing.ref}, {name}"
    expected = listing.sha256.get(name)
    progress.start(f"downloading {name}", listing.sizes[name], "B")
    try:
        with explained(where):
            checked = expected is not None and complete_blob(
                listing.ref.repo, listing.commit, name, expected, listing.sizes[name], where, progress
            )
            place = Path(
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
    if expected is not None and not checked and sha256_of(place) != expected:
        place.resolve().unlink()
        place.unlink()
        raise HubError(
            "what arrived has another sha256 than the Hub names", where, "run this again; it is downloaded anew"
        )
    return place


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
    place = folder / "snapshots" / commit
    return place if place.is_dir() else None


def _from_cache(ref: HubRef, error: HubUnreachableError) -> Path:
    """Return the cached snapshot; raises `error`, why the Hub did not answer, when not all of it is there."""
    place = _snapshot(ref.repo, ref.revision or "main")
    if place is not None:
        names = [p.name for p in place.iterdir()]
        try:
            weights = choose_weights(names, ref, order=_ORDER)
        except CheckpointError:
            weights = ""
        if weights and _whole(place, weights):
            return place
    raise error


def _whole(directory: Path, weights: str) -> bool:
    """Whether the weights are in `directory`, all shards of them."""
    if not (directory / weights).is_file():
        return False
    if not weights.endswith(INDEX):
        return True
    return all((directory / shard).is_file() for shard in set(weight_map(directory / weights).values()))


def sha256_by_cache(path: Path) -> str | None:
    """Return the sha256 of a file in huggingface_hub's cache, where large files are stored under it; None elsewhere."""
    target = path.resolve()
    inside = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return target.name if inside and _SHA256.fullmatch(target.name) else None


def read_json_from_hub(ref: HubRef, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a small file of the repository, None where there is none."""
    listing = list_repo(ref)
    if name not in listing.sizes:
        return None
    try:
        document = json.loads(_read(listing, name, 0, listing.sizes[name]))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
