"""The pictures on which two models differ, small enough to stand on a page, from the cache of pixels."""

import io
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
import PIL.Image

from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.task import PairPictures, Picture, Task

_SIDE = 96  # pixels of a picture's longer side, at most
_QUALITY = 85  # of its JPEG: about 3 kB for a photograph


def differing_pictures(
    pixels: Pixels, task: Task, models: tuple[str, str], hits: tuple[np.ndarray, np.ndarray], most: int
) -> PairPictures:
    """Return up to `most` pictures that only the first of two `models` gets right, and as many of the second's, evenly
    spread over those that there are; `hits` are theirs on the images that count, bool [N] each."""
    one, other = hits
    only = (np.flatnonzero(one & ~other), np.flatnonzero(other & ~one))
    first, second = (tuple(_picture(pixels, task, int(i)) for i in _spread(rows, most)) for rows in only)
    return PairPictures(*models, task.name, task.split, first, second)


def _spread(rows: np.ndarray, most: int) -> Sequence[int]:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)].tolist() if len(rows) else []


def _picture(pixels: Pixels, task: Task, position: int) -> Picture:
    row = pixels.rows[position : position + 1]
    image = PIL.Image.fromarray(np.array(pixels.take(row)[0]))
    image.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    number = int(row[0])
    return Picture(
        pixels.keys[number], task.classnames[int(pixels.labels[number])], b64encode(buffer.getvalue()).decode()
    )
