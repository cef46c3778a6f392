"""One large file from the Hub into huggingface_hub's cache, going on where an earlier process was killed.

huggingface_hub resumes a broken connection, and begins anew in every process. Where the file travels by plain HTTP,
what has come is kept here under the file's own sha256, continued by range request, compared, and handed to the cache.
Over Xet the file is left to huggingface_hub, which is faster there.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import HubError
from soupkit.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATTEMPTS = 5  # in a row that bring nothing
_PIECE = 1 << 20  # bytes


def complete_blob(repo: str, commit: str, name: str, sha256: str, size: int, where: object, progress: Progress) -> bool:
    """Bring the file `name` of a commit, whose `sha256` and `size` the Hub names, into the cache's blobs.

    Returns whether it did, with the checksum compared; it does nothing where the file is in the cache or goes by Xet.
    Raises HubError where what arrived is something else, and what huggingface_hub raises for what the Hub refuses.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers
    from huggingface_hub.utils._runtime import is_xet_available

    folder = repo_folder_name(repo_id=repo, repo_type="model")
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / sha256
    if blob.exists() or constants.HF_HUB_OFFLINE:
        return False
    url = hf_hub_url(repo, name, revision=commit)
    headers = build_hf_headers(library_name="soupkit")
    metadata = get_hf_file_metadata(url, headers=headers)
    if (metadata.xet_file_data is not None and is_xet_available()) or metadata.etag != sha256:
        return False
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / folder / f"{sha256}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{sha256}.soupkit.incomplete")
    with WeakFileLock(lock):
        if blob.exists():  # another process brought it meanwhile
            return False
        with part.open("ab") as file:
            _continue(url, headers, file, size, progress)
        if sha256_of(part) != sha256:
            part.unlink()
            raise HubError(
                "arrived with another sha256 than the Hub names", where, "run this again; it is downloaded anew"
            )
        part.rename(blob)
    return True


def _continue(url: str, headers: dict[str, str], file: BinaryIO, size: int, progress: Progress) -> None:
    """Append to `file` what it lacks of `size` bytes. A connection that breaks is made again."""
    failures = 0
    progress.advance(file.tell())
    while (start := file.tell()) < size:
        try:
            for piece in _pieces(url, headers, start):
                file.write(piece[: size - file.tell()])
                progress.advance(len(piece))
        except Exception as error:
            file.flush()
            failures = failures + 1 if file.tell() == start else 1
            if failures == _ATTEMPTS or not _passes(error):
                raise
            time.sleep(min(2.0 ** (failures - 1), 8.0) / 4)
        else:
            if file.tell() == start:
                raise HubError(
                    "arrived with fewer bytes than the Hub has announced", url.split("?")[0], "run this again"
                )
    if size < file.tell():
        file.truncate(size)  # the checksum says what it is


def _pieces(url: str, headers: dict[str, str], start: int) -> "Iterator[bytes]":
    from huggingface_hub.utils import get_session, hf_raise_for_status

    # No compression on the way: ranges count the file's own bytes.
    asked = {**headers, "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=asked, follow_redirects=True) as response:
        hf_raise_for_status(response)
        skip = start if response.status_code == 200 else 0  # a server that knows no ranges begins at the start
        for piece in response.iter_bytes(_PIECE):
            yield piece[skip:]
            skip = max(0, skip - len(piece))


def _passes(error: Any) -> bool:
    """Whether the same request may go well a moment later: a broken connection, a server's own error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500 or status == 429
    kinds = {f"{k.__module__.split('.')[0]}.{k.__name__}" for k in type(error).__mro__}
    return bool(kinds & {"httpx.TransportError", "httpx2.TransportError"}) or isinstance(error, ConnectionError)
