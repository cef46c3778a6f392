"""Scores on disk, so that nothing is scored twice: keyed by the weights, the task's content and the settings."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from soupkit.evaluation.outcomes import Hits, Outcome
from soupkit.evaluation.task import Score, Task
from soupkit.files import write_cached

_VERSION = 2  # of what a score means; raised when the arithmetic or a metric changes


@dataclass(frozen=True, slots=True)
class Images:
    """The images that a score counts, in order: what they are called, and the hashes of their stored bytes."""

    keys: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


class ScoreCache:
    """Scores and hits of files of weights. A directory, or nowhere (None): then nothing is found and nothing kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def get(self, key: str, ref: str, task: Task) -> tuple[Score, np.ndarray | None] | None:
        """Return the score under `key`, as that of `ref`, and its hits (bool [N], None where the task has none)."""
        if self._directory is None:
            return None
        try:
            entry = json.loads((self._directory / f"{key}.json").read_text())
            score = Score(**entry["score"])
            hits = None
            if entry["hits"] is not None:
                packed = np.frombuffer(base64.b64decode(entry["hits"]), np.uint8)
                hits = np.unpackbits(packed, count=score.n).astype(bool)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return replace(score, ref=ref, task=task.name, split=task.split), hits

    def put(self, key: str, score: Score, outcome: Outcome) -> None:
        """Keep `score`. A full disk is no error."""
        if self._directory is None:
            return
        hits = base64.b64encode(np.packbits(outcome.top1)).decode() if isinstance(outcome, Hits) else None
        write_cached(self._directory / f"{key}.json", json.dumps({"score": asdict(score), "hits": hits}))

    def images(self, content: str, settings: object) -> Images:
        """Return the images that scores of this content count; empty where they are not known."""
        try:
            entry = json.loads(self._images(content, settings).read_text()) if self._directory else {}
            return Images(tuple(entry["keys"]), tuple(entry["hashes"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Images()

    def put_images(self, content: str, settings: object, images: Images) -> None:
        """Keep which images were scored."""
        if self._directory is not None:
            write_cached(self._images(content, settings), json.dumps(asdict(images)))

    def _images(self, content: str, settings: object) -> Path:
        assert self._directory is not None
        return self._directory / f"images-{xxhash.xxh3_128_hexdigest(json.dumps([content, settings]).encode())}.json"


def score_key(
    fingerprint: str, content: str, task: Task, config: dict[str, Any], tokenizer: Sequence[Path], settings: object
) -> str:
    """Return the name of a score: xxh3-128 over all that it depends on."""
    described = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        "content": content,
        "task": [task.kind, task.metric, task.classnames, task.templates],
        "config": config,
        "tokenizer": [(f.name, xxhash.xxh3_128_hexdigest(f.read_bytes())) for f in tokenizer],
        "settings": settings,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())
