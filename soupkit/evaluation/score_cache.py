"""Scores on disk, so that nothing is scored twice: keyed by the weights, the task's content and the settings."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from soupkit.evaluation.calibration import reliability_bins
from soupkit.evaluation.metrics import METRICS, needs, reported_metrics
from soupkit.evaluation.options import EvaluationOptions, precision_dtype
from soupkit.evaluation.outcomes import Outcome, class_counts, hits_of
from soupkit.evaluation.task import Bin, Score, Task
from soupkit.files import MOST_KEPT_BYTES, read_text, sealed, unsealed, write_cached

_VERSION = 2  # of what a score means; raised when the arithmetic of towers changes. Metrics have versions of their own.


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """What of an evaluation's options a score depends on: the device's type and the dtype of the computation, which
    images count, and whether `torch.compile` made the tower's program."""

    device: str
    dtype: str
    limit: int | None
    skip_corrupt: bool
    compiled: bool = False

    @classmethod
    def of(cls, options: EvaluationOptions, device: Any) -> "ScoreSettings":
        """Return the settings of `options` on `device`, a torch.device. Raises UsageError for an unknown precision."""
        dtype = precision_dtype(options.precision, device)
        return cls(device.type, str(dtype), options.limit, options.skip_corrupt, options.compile)

    def named(self) -> list[Any]:
        """Return what names a score."""
        return [self.device, self.dtype, *self.counted(), *(["compiled"] if self.compiled else [])]

    def counted(self) -> list[Any]:
        """Return what decides which images count."""
        return [self.limit, self.skip_corrupt]


@dataclass(frozen=True, slots=True)
class Images:
    """The images that a score counts, in order: what they are called, and the hashes of their stored bytes."""

    keys: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


class Cached(NamedTuple):
    """What is kept of a score: its hits, bool [N] (None where the task has none), bins of the confidence, and how many
    images of each class there are and are right (None where nobody counted them)."""

    score: Score
    hits: np.ndarray | None
    bins: tuple[Bin, ...]
    classes: tuple[tuple[int, ...], tuple[int, ...]] | None


class ScoreCache:
    """Scores and hits of files of weights. A directory, or nowhere (None): then nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @classmethod
    def of(cls, options: EvaluationOptions) -> "ScoreCache":
        """Return the cache that `options` ask for."""
        return cls(options.cache / "scores" if options.cache is not None and options.scores else None)

    def get(self, key: str, ref: str, task: Task) -> Cached | None:
        """Return the score under `key`, as that of `ref`; None where it lacks a metric of the task, or holds another
        version of one."""
        if self._directory is None:
            return None
        try:
            entry = unsealed(read_text(self._directory / f"{key}.json", most=MOST_KEPT_BYTES))
            score = Score(**entry["score"])
            hits = None
            if entry["hits"] is not None:
                packed = np.frombuffer(base64.b64decode(entry["hits"]), np.uint8)
                hits = np.unpackbits(packed, count=score.n).astype(bool)
            versions, reported = entry.get("versions", {}), reported_metrics(task)
            if any(versions.get(metric.name, 1) != metric.version for metric in reported):
                return None
            metrics = {metric.name: score.metrics[metric.name] for metric in reported}
            bins = tuple(Bin(**entry) for entry in entry.get("bins", ())) if needs(task, "chances") else ()
            classes = None
            if entry.get("classes") is not None:
                images, right = entry["classes"]
                classes = (tuple(images), tuple(right))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        score = replace(score, ref=ref, task=task.name, split=task.split, metrics=metrics)
        return Cached(score, hits, bins, classes)

    def put(self, key: str, score: Score, outcome: Outcome, classes: int) -> None:
        """Keep `score`, of a task with so many `classes`. A full disk is no error."""
        if self._directory is None:
            return
        hits = hits_of(outcome)
        packed = None if hits is None else base64.b64encode(np.packbits(hits)).decode()
        versions = {name: METRICS[name].version for name in score.metrics}
        bins = [asdict(each) for each in reliability_bins(outcome)]
        counts = class_counts(outcome, classes)
        entry = {"score": asdict(score), "hits": packed, "versions": versions, "bins": bins, "classes": counts}
        write_cached(self._directory / f"{key}.json", sealed(entry))

    def images(self, content: str, settings: ScoreSettings) -> Images:
        """Return the images that scores of this content count; empty where no score of them is kept."""
        try:
            entry = (
                unsealed(read_text(self._images(content, settings), most=MOST_KEPT_BYTES)) if self._directory else {}
            )
            return Images(tuple(entry["keys"]), tuple(entry["hashes"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Images()

    def put_images(self, content: str, settings: ScoreSettings, images: Images) -> None:
        """Keep which images were scored."""
        if self._directory is not None:
            write_cached(self._images(content, settings), sealed(asdict(images)))

    def _images(self, content: str, settings: ScoreSettings) -> Path:
        assert self._directory is not None
        name = xxhash.xxh3_128_hexdigest(json.dumps([content, settings.counted()]).encode())
        return self._directory / f"images-{name}.json"


def score_key(
    fingerprint: str,
    content: str,
    task: Task,
    config: dict[str, Any],
    tokenizer: Sequence[Path],
    settings: ScoreSettings,
) -> str:
    """Return the name of a score: xxh3-128 over all that it depends on."""
    described = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        "content": content,
        "task": [task.kind, task.metric, task.classnames, task.templates],
        "config": config,
        "tokenizer": [(f.name, xxhash.xxh3_128_hexdigest(f.read_bytes())) for f in tokenizer],
        "settings": settings.named(),
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())
