"""How an upload tells what it is doing: bytes sent, over LFS and over Xet, as `progress` counts them.

huggingface_hub reads the files and talks to the Hub; it shows bars of its own and takes no callback, so what it reads
is counted here, and its reporter for Xet is stood in for while a commit is made.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from soupkit.progress import Progress

if TYPE_CHECKING:
    from typing import Self


class Sent:
    """Bytes on their way, told to `progress`: `total` in all. A context manager."""

    def __init__(self, progress: Progress, total: int, repo: str) -> None:
        self._progress, self._total, self._repo = progress, total, repo
        self._done = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Self":
        self._progress.start(f"sending to {self._repo}", self._total, "B")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.finish()

    def more(self, n: int) -> None:
        """Count `n` more bytes, never beyond the total."""
        with self._lock:
            n = max(0, min(n, self._total - self._done))
            self._done += n
        if n:
            self._progress.advance(n)

    def all(self) -> None:
        """The commit is made: what the Hub held already is there too."""
        self.more(self._total)


def addition(path: str, content: bytes | Path, sent: Sent) -> Any:
    """Return the operation that puts `content` at `path`, whose bytes are counted as LFS sends them."""
    from huggingface_hub import CommitOperationAdd

    class Counted(CommitOperationAdd):
        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
            with super().as_file() as file:
                if with_tqdm:  # what is asked for an upload, and not where a checksum is taken
                    _count_reads(file, sent)
                yield file

    return Counted(path, content)


def _count_reads(file: Any, sent: Sent) -> None:
    """Let `file` tell what is read of it, each byte once: a part that has to be sent again is no progress."""
    plain, furthest = file.read, 0

    def read(size: int | None = -1) -> bytes:
        nonlocal furthest
        data = plain(size)
        end = file.tell()
        sent.more(max(0, end - furthest))
        furthest = max(furthest, end)
        return data

    file.read = read


@contextmanager
def told_of_xet(sent: Sent) -> Iterator[None]:
    """Count what Xet sends while this is open. Where huggingface_hub has no such reporter nothing is counted."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    try:
        from huggingface_hub.utils import _xet_progress_reporting as reporting
        from huggingface_hub.utils._runtime import is_xet_available

        before = reporting.XetUploadProgressReporter
        used = is_xet_available() and not constants.HF_HUB_DISABLE_PROGRESS_BARS
    except (ImportError, AttributeError):
        used = False
    if not used:
        yield
        return

    class Reporter:
        """Stands in for huggingface_hub's, which draws bars."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self._told = 0

        def update_progress(self, group: Any, _items: Any) -> None:
            done = int(group.total_bytes_completed)
            sent.more(done - self._told)
            self._told = max(done, self._told)

        def close(self) -> None:
            pass

    reporting.XetUploadProgressReporter = Reporter  # type: ignore[assignment, misc]
    enable_progress_bars()  # else it makes no reporter; the caller has silenced all others
    try:
        yield
    finally:
        disable_progress_bars()
        reporting.XetUploadProgressReporter = before  # type: ignore[misc]
