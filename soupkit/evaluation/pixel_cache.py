"""The pixels of a task on disk: every image decoded and resized once, uint8, memory-mapped by all that scores it.

A cache is a directory named after the dataset's content and the transform: `pixels.u8` [N, height, width, 3] and
`samples.jsonl`, one sealed line per block of images with the digest of its pixels and what belongs to each image. It
is made in a `.partial` beside it, block by block; a run that is stopped goes on after the last whole block, and of
several runs that want the same cache one makes it and the others wait.
"""

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from soupkit.checkpoint.partial import PartialDirectory, sweep
from soupkit.errors import DataError, StorageError
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.metrics import needs
from soupkit.evaluation.pixels import Pixels, digest_of_pixels
from soupkit.evaluation.task import Dataset, Part, Task
from soupkit.evaluation.transform import Transform, decode
from soupkit.files import MOST_KEPT_BYTES, parse_json, read_text, sealed, unsealed
from soupkit.progress import SILENT, Progress
from soupkit.system import reserve, write_at

_FORMAT = 2  # of a cache; one of another format is made anew
BLOCK = 256  # images that are decoded, digested and resumed together
_PIXELS, _SAMPLES = "pixels.u8", "samples.jsonl"


def open_pixels(
    task: Task,
    transform: Transform,
    directory: Path,
    content: str,
    *,
    limit: int | None = None,
    skip_corrupt: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Pixels:
    """Open the pixels of `task` in the cache `directory`, making them where they are not there.

    `content` is the digest of the dataset's files. `limit` takes that many images, evenly spread over the dataset.
    Raises DataError for a dataset without images, for labels out of range, and for corrupt images unless
    `skip_corrupt`; StorageError where there is no room.
    """
    described = {
        "format": _FORMAT,
        "content": content,
        "limit": limit,
        "kind": task.kind,
        "groups": needs(task, "groups"),
        "transform": transform.key,
        "block": BLOCK,
    }
    key = xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())
    target = directory / "pixels" / key
    opened = _open(task, transform, target, content)
    if opened is None:
        _make(task, transform, target, limit, threads or min(16, os.cpu_count() or 1), progress)
        opened = _open(task, transform, target, content)
    if opened is None:
        raise StorageError("cannot be read after it was made", f"the pixel cache {target}", "is the disk sound?")
    _check_samples(task, opened, skip_corrupt, progress)
    return opened


def _check_samples(task: Task, pixels: Pixels, skip_corrupt: bool, progress: Progress) -> None:
    if pixels.corrupt:
        count, total = len(pixels.corrupt), len(pixels.keys)
        named = "; ".join(f"{pixels.keys[i]}: {why}" for i, why in list(pixels.corrupt.items())[:5])
        what = f"holds {count} images of {total} that cannot be decoded: {named}{'; ...' if count > 5 else ''}"
        if not skip_corrupt:
            raise DataError(what, task.dataset.place, "get them again, or leave them out with --skip-corrupt")
        progress.note(f"{task.name}: {what}; left out")
    if not len(pixels.rows):
        raise DataError("has no images that can be scored", task.dataset.place, "get the images again")
    KINDS[task.kind].check(task, pixels)


def _open(task: Task, transform: Transform, target: Path, content: str) -> Pixels | None:
    """Open a finished cache; None where there is none, or where it is not whole, which is then removed."""
    if not target.is_dir():
        return None
    sweep(target)
    height, width = transform.size
    try:
        lines = [_block_of(line) for line in read_text(target / _SAMPLES, most=MOST_KEPT_BYTES).splitlines()]
        keys = tuple(k for line in lines for k in line["keys"])
        if (target / _PIXELS).stat().st_size != len(keys) * height * width * 3 or not keys:
            raise ValueError("pixels and samples do not fit together")
        reasons = [why for line in lines for why in line["corrupt"]]
        corrupt = {i: why for i, why in enumerate(reasons) if why}
        labels = [label for line in lines for label in line["labels"]]
        with (target / _PIXELS).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return Pixels(
            images=np.frombuffer(mapped, np.uint8).reshape(len(keys), height, width, 3),
            labels=KINDS[task.kind].labels(labels),
            keys=keys,
            hashes=tuple(h for line in lines for h in line["hashes"]),
            captions=tuple(tuple(c) for line in lines for c in line["captions"]),
            content=content,
            groups=np.array([group for line in lines for group in line["groups"]], dtype=np.int64),
            rows=np.array([i for i, why in enumerate(reasons) if not why], dtype=np.int64),
            corrupt=corrupt,
            path=target,
            _block=BLOCK,
            _digests=tuple(line["digest"] for line in lines),
            _map=mapped,
        )
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(target, ignore_errors=True)
        return None


def _make(task: Task, transform: Transform, target: Path, limit: int | None, threads: int, progress: Progress) -> None:
    with PartialDirectory(target, "evaluate", wait=True) as partial:
        if target.exists():  # another run made it while this one waited
            partial.discard()
            return
        dataset = task.dataset
        if not len(dataset):
            raise DataError("holds no images", dataset.place, f"is {task.split} the split that is meant?")
        if limit is not None and limit < len(dataset):
            dataset = Part(dataset, tuple(dataset.some(limit)))
        height, width = transform.size
        nbytes = len(dataset) * height * width * 3
        journal = partial.path / _SAMPLES
        done = _whole_blocks(partial.path / _PIXELS, journal, (height, width, 3))
        progress.note(
            f"pixel cache of {task.name}:{task.split}: {len(dataset):,} images of {width} x {height}, "
            f"{nbytes / 1e6:,.1f} MB in {target.parent}"
        )
        progress.start(f"decoding {task.name}:{task.split}", len(dataset), "images")
        progress.advance(min(done * BLOCK, len(dataset)))
        try:
            with (partial.path / _PIXELS).open("r+b" if done else "w+b") as pixels, journal.open("a") as samples:
                _reserve(pixels.fileno(), nbytes, partial.path)
                for block, (array, line) in _blocks(task, dataset, transform, done, threads, progress):
                    write_at(pixels.fileno(), array.data, block * BLOCK * height * width * 3)
                    samples.write(sealed(line) + "\n")
                    samples.flush()
                os.fsync(pixels.fileno())
                os.fsync(samples.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}", partial.path, "name another place with --cache DIR"
            ) from error
        progress.finish()
        partial.publish()


def _reserve(descriptor: int, nbytes: int, directory: Path) -> None:
    try:
        reserve(descriptor, nbytes)
    except OSError as error:
        free = shutil.disk_usage(directory).free
        raise StorageError(
            f"has no room for the pixel cache: {nbytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            directory,
            "name another place with --cache DIR",
        ) from error


def _block_of(line: str) -> dict[str, Any]:
    """Return what a line says of its block. Raises ValueError where it is damaged; older caches have no seals."""
    return parse_json(line) if line.startswith("{") else unsealed(line)


def _whole_blocks(pixels: Path, journal: Path, shape: tuple[int, int, int]) -> int:
    """Return how many blocks of an unfinished cache are whole, and cut its journal after them."""
    kept: list[str] = []
    try:
        with pixels.open("rb") as file:
            for line in read_text(journal, most=MOST_KEPT_BYTES).splitlines():
                entry = _block_of(line)
                size = len(entry["keys"]) * int(np.prod(shape))
                if len(entry["keys"]) != BLOCK or xxhash.xxh3_128_hexdigest(file.read(size)) != entry["digest"]:
                    break
                kept.append(line + "\n")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # what comes after is made anew
    if journal.exists():
        journal.write_text("".join(kept))
    return len(kept)


def _blocks(
    task: Task, dataset: Dataset, transform: Transform, done: int, threads: int, progress: Progress
) -> Iterator[tuple[int, tuple[np.ndarray, dict[str, Any]]]]:
    """Decode the blocks from number `done` on, in order; the next one is under way while one is written."""
    count = -(-len(dataset) // BLOCK)
    pool = ThreadPoolExecutor(threads)

    def begin(block: int) -> tuple[np.ndarray, list[Future[dict[str, Any]]]]:
        rows = range(block * BLOCK, min((block + 1) * BLOCK, len(dataset)))
        array = np.zeros((len(rows), *transform.size, 3), np.uint8)
        return array, [pool.submit(_sample, task, dataset, row, transform, array[i]) for i, row in enumerate(rows)]

    try:
        ahead = begin(done) if done < count else None
        for block in range(done, count):
            assert ahead is not None
            array, futures = ahead
            ahead = begin(block + 1) if block + 1 < count else None
            samples = []
            for future in futures:
                samples.append(future.result())
                progress.advance(1)
            line = {name: [sample[name] for sample in samples] for name in samples[0]}
            yield block, (array, {"digest": digest_of_pixels(array), **line})
    finally:
        pool.shutdown(cancel_futures=True)


def _sample(task: Task, dataset: Dataset, index: int, transform: Transform, out: np.ndarray) -> dict[str, Any]:
    """Read, decode and resize one image into `out`. An image that cannot be decoded is noted and left black."""
    sample = dataset.read(index)
    KINDS[task.kind].check_sample(sample, task)
    corrupt = ""
    try:
        out[:] = transform.crop(decode(sample.data))
    except (OSError, ValueError) as error:
        corrupt = str(error)[:200] or type(error).__name__
    return {
        "keys": sample.key,
        "hashes": xxhash.xxh3_128_hexdigest(sample.data),
        "labels": list(sample.labels) if sample.labels else sample.label,
        "captions": list(sample.captions),
        "groups": sample.group,
        "corrupt": corrupt,
    }
