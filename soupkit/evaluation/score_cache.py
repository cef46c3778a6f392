"""Scores on disk, so that nothing is scored twice: keyed by the weights, the task's content and the settings."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from soupkit.evaluation.content import write_whole
from soupkit.evaluation.data import Score, Task
from soupkit.evaluation.outcomes import Hits, Outcome

_VERSION = 1  # of what a score means; raised when the arithmetic or a metric changes


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
        write_whole(self._directory / f"{key}.json", json.dumps({"score": asdict(score), "hits": hits}))

    def keys(self, content: str, settings: object) -> tuple[str, ...]:
        """Return the keys of the images that scores of this content count, in order; empty where they are not known."""
        try:
            return tuple(json.loads(self._keys(content, settings).read_text())) if self._directory else ()
        except (OSError, ValueError, TypeError):
            return ()

    def put_keys(self, content: str, settings: object, keys: Sequence[str]) -> None:
        """Keep the images' keys."""
        if self._directory is not None:
            write_whole(self._keys(content, settings), json.dumps(list(keys)))

    def _keys(self, content: str, settings: object) -> Path:
        assert self._directory is not None
        return self._directory / f"keys-{xxhash.xxh3_128_hexdigest(json.dumps([content, settings]).encode())}.json"


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
