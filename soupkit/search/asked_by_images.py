"""A score of the user's own that says of some images alone what a soup gets right: a rule ends its trials early."""

from collections.abc import Callable

import numpy as np

from soupkit.search.hits_file import RIGHT, HitsFile
from soupkit.search.stopping import Rule

_TOGETHER = 32  # parts that the images are asked about in, at most: each costs a call of the user's function


def ask_by_images(file: HitsFile, rule: Rule, ask: Callable[[np.ndarray], np.ndarray]) -> tuple[bool, int, int]:
    """Ask about images in the order of `rule` until it rejects the soup, and note the hits in `file`.

    `ask` returns what the soup gets right of some images (int64 [b]), bool [b]; it is asked about those that are not
    known. Returns whether the rule rejected the soup, and how many hits were seen on how many images.
    """
    n = len(file.known)
    step = max(1, -(-n // _TOGETHER))
    count = 0
    for start in range(0, n, step):
        part = rule.order[start : start + step]
        missing = part[~file.known[part]]
        if len(missing):
            file.add(missing, ask(missing).astype(np.uint8) * RIGHT)
        hits = (file.flags[part] & RIGHT).astype(bool)
        count += int(hits.sum())
        if rule.sees(part, hits):
            file.sync()
            return True, count, start + len(part)
    file.sync()
    return False, count, n
