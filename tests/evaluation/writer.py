"""A process that makes a pixel cache and says what it does, line by line."""

from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.processes import fork


class Loud:
    """Progress that sends a line for each image."""

    def __init__(self, out: Connection) -> None:
        self._out = out

    def start(self, label: str, total: int, unit: str) -> None:
        self._out.send("start")

    def advance(self, n: int) -> None:
        self._out.send("image")

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


def write_cache(folder: str, cache: str, out: Connection) -> None:
    """Make the pixel cache of `folder`, in small blocks, with one thread; the last line is the sum of all pixels."""
    from soupkit.evaluation import open_tasks, pixel_cache
    from soupkit.evaluation.content_digest import digest_of_files
    from soupkit.evaluation.transform import open_transform

    pixel_cache.BLOCK = 8
    (task,) = open_tasks([folder])
    transform = open_transform({"size": 64, "interpolation": "bicubic"})
    content = digest_of_files(task.dataset.files(), None, "x")
    pixels = pixel_cache.open_pixels(task, transform, Path(cache), content, threads=1, progress=Loud(out))
    out.send(f"sum {int(pixels.take(pixels.rows).astype('int64').sum())}")


def start_writer(folder: Path, cache: Path) -> tuple[BaseProcess, Connection]:
    """Start `write_cache` in a process of its own; its lines come out of the connection, EOFError when it ends."""
    from multiprocessing import Pipe

    out, end = Pipe(duplex=False)
    process = fork(write_cache, str(folder), str(cache), end)
    end.close()
    return process, out


def lines_of(out: Connection) -> list[str]:
    """Return all lines until the process ends."""
    lines = []
    try:
        while True:
            lines.append(out.recv())
    except EOFError:
        return lines
