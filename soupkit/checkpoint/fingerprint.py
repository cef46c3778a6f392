"""Fingerprints: xxh3-128 over the weights, the same for one file, shards or a pickle of the same tensors.

A chunk is 16 MiB of a tensor's row-major little-endian bytes; a tensor's digest is taken over its chunks' digests, a
checkpoint's over one JSON line `["name","dtype",[shape],"hex"]` per tensor in the order of the names.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xxhash

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.checkpoint.towers import is_image, is_text
from soupkit.progress import SILENT, Progress

CHUNK_BYTES = 16 << 20
_READ_BYTES = 2 << 20  # stays in the processor's cache between being read and being hashed


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a checkpoint, and of its two towers alone ("xxh3:" and 32 hexadecimal digits)."""

    value: str
    image: str
    text: str


class ChunkHashes:
    """Digests of the chunks of one source's segments, fed in order."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()
        self._fed = 0
        self.digests: list[bytes] = []

    def feed(self, data: np.ndarray) -> None:
        """Add the next bytes (1-D uint8)."""
        while len(data):
            room = CHUNK_BYTES - self._fed
            piece, data = data[:room], data[room:]
            self._state.update(piece)
            self._fed += len(piece)
            if self._fed == CHUNK_BYTES:
                self.end()

    def end(self) -> None:
        """Close the chunk at hand, where there is one (the last of a tensor may be short)."""
        if self._fed:
            self.digests.append(self._state.digest())
            self._state.reset()
            self._fed = 0


def chunk_count(spec: TensorSpec) -> int:
    """Number of chunks of a tensor; none for an empty one."""
    return -(-spec.nbytes // CHUNK_BYTES)


def tensor_digest(chunks: list[bytes]) -> bytes:
    """Digest of a tensor from the digests of its chunks, in order."""
    return xxhash.xxh3_128_digest(b"".join(chunks))


def combine(tensors: Mapping[str, TensorSpec], digests: Mapping[str, bytes]) -> Fingerprint:
    """Fingerprint of a checkpoint from the digests of its tensors."""

    def over(belongs: Callable[[str], bool]) -> str:
        state = xxhash.xxh3_128()
        for name in sorted(tensors):
            if belongs(name):
                spec = tensors[name]
                line = [name, spec.dtype, list(spec.shape), digests[name].hex()]
                state.update(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        return "xxh3:" + state.hexdigest()

    return Fingerprint(over(lambda _: True), over(is_image), over(is_text))


def fingerprint(checkpoint: Checkpoint, *, threads: int = 2, progress: Progress = SILENT) -> Fingerprint:
    """Read every byte of `checkpoint` and return its fingerprint, which is over the names that its own library gives
    the tensors. Raises CheckpointError as reading does.

    >>> with soupkit.open_checkpoint("runs/a") as checkpoint:
    ...     print(fingerprint(checkpoint).value[:5], len(fingerprint(checkpoint).image))
    xxh3: 37
    """
    checkpoint = checkpoint.as_written
    jobs = [(name, i) for name, spec in checkpoint.tensors.items() for i in range(chunk_count(spec))]
    progress.start(f"fingerprint of {checkpoint.ref}", sum(s.nbytes for s in checkpoint.tensors.values()), "B")

    def digest(job: tuple[str, int]) -> bytes:
        name, index = job
        begin = index * CHUNK_BYTES
        end = min(begin + CHUNK_BYTES, checkpoint.tensors[name].nbytes)
        buffer = np.empty(min(_READ_BYTES, end - begin), dtype=np.uint8)
        state = xxhash.xxh3_128()
        for start in range(begin, end, _READ_BYTES):
            piece = buffer[: min(_READ_BYTES, end - start)]
            checkpoint.read_into(name, start, piece)
            state.update(piece)
        progress.advance(end - begin)
        return state.digest()

    with ThreadPoolExecutor(threads) as pool:
        chunks = dict(zip(jobs, pool.map(digest, jobs), strict=True))
    progress.finish()
    checkpoint.check_unchanged()
    digests = {
        name: tensor_digest([chunks[name, i] for i in range(chunk_count(spec))])
        for name, spec in checkpoint.tensors.items()
    }
    return combine(checkpoint.tensors, digests)
