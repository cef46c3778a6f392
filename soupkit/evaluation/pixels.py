"""The pixels of a task in memory that is a file: what every model that is scored on it looks at."""

import mmap
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from soupkit.errors import StorageError


@dataclass(frozen=True, slots=True)
class Pixels:
    """The images of a task: `images` uint8 [N, height, width, 3], cropped and resized, not normalised; a private map.

    `labels` is int64 [N] (classification) or bool [N, classes] (multilabel); `captions` are the texts of each image
    (retrieval); `groups` int64 [N] the groups that images are counted in; `hashes` are xxh3-128 of the stored image
    bytes, in hex; `content` names all of it; `rows` are the images that count. `corrupt` says by number why the others
    cannot be decoded.
    """

    images: np.ndarray
    labels: np.ndarray
    keys: tuple[str, ...]
    hashes: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    groups: np.ndarray
    content: str
    rows: np.ndarray
    corrupt: dict[int, str]
    path: Path
    _block: int  # images whose pixels have one digest
    _digests: tuple[str, ...]
    _checked: set[int] = field(default_factory=set)
    _map: mmap.mmap | None = None  # what `images` are in; None for images in memory

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return images `rows` (int64 [n]), uint8 [n, height, width, 3].

        A block is checked against its digest when it is first touched. Raises StorageError where they differ, and where
        the file was cut short since it was opened.
        """
        # What lies behind the end of a mapped file is a signal that ends the process. Asking takes a microsecond; reads
        # into a buffer would need none of it, and take 0.7 ms more than the map does for 32 images of 224 px.
        if self._map is not None and self._map.size() < self.images.nbytes:
            raise self._damaged("cut short")
        for block in np.unique(rows // self._block).tolist():
            if block not in self._checked:
                self._check(block)
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            return self.images[rows[0] : rows[-1] + 1]
        return self.images[rows]

    def _check(self, block: int) -> None:
        if digest_of_pixels(self.images[block * self._block : (block + 1) * self._block]) != self._digests[block]:
            raise self._damaged(f"damaged at image {block * self._block}")
        self._checked.add(block)

    def _damaged(self, how: str) -> StorageError:
        shutil.rmtree(self.path, ignore_errors=True)
        return StorageError(f"is {how}, and was removed", f"the pixel cache {self.path}", "run again: it is made anew")


def digest_of_pixels(array: np.ndarray) -> str:
    """Return xxh3-128, in hex, of uint8 `array`."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)
