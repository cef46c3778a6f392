"""The checkpoints that an evaluation scores, opened: their config, and the fingerprints of their towers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.checkpoint.architecture import Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.reference import open_checkpoint, open_headers
from soupkit.errors import ArchitectureError
from soupkit.evaluation.content_digest import remembered
from soupkit.evaluation.options import EvaluationOptions
from soupkit.progress import Progress


@dataclass(frozen=True, slots=True)
class Candidate:
    """An open checkpoint that is to be scored."""

    ref: str
    checkpoint: Checkpoint
    config: Config
    fingerprint: Fingerprint


def open_candidate(
    ref: str | Path, model: str | None, preprocess: Path | None, options: EvaluationOptions, progress: Progress
) -> Candidate:
    """Open the checkpoint `ref`; `model` and `preprocess` speak for bare weights.

    Raises CheckpointError for weights that cannot be opened, ArchitectureError where they are no model of open_clip's.
    """
    checkpoint = open_checkpoint(ref, progress=progress)
    try:
        config = _config_of(checkpoint, model, preprocess)
        paths = [str(path) for path in checkpoint.files]
        memory = options.cache / "fingerprints" if options.cache is not None else None

        def compute() -> dict[str, str]:
            value = fingerprint(checkpoint, progress=progress)
            return {"value": value.value, "image": value.image, "text": value.text}

        digests = remembered(paths, memory, str(ref), ("value", "image", "text"), compute)
        return Candidate(str(ref), checkpoint, config, Fingerprint(**digests))
    except BaseException:
        checkpoint.close()
        raise


def check_headers(ref: str | Path, model: str | None, preprocess: Path | None) -> None:
    """Raise what `open_candidate` raises for a checkpoint on the Hub, before its weights are downloaded."""
    with open_headers(ref) as headers:
        _config_of(headers, model, preprocess)


def _config_of(checkpoint: Checkpoint, model: str | None, preprocess: Path | None) -> Config:
    config = architecture_of(checkpoint, model=model, preprocess=preprocess).config
    if config is None:
        raise ArchitectureError(
            "is no model that open_clip builds", checkpoint.ref, "say which it is with --model NAME"
        )
    return config


def by_image_tower(candidates: dict[int, Candidate], chosen: Sequence[int]) -> list[list[int]]:
    """Group the numbers `chosen` of candidates whose image towers are equal, byte for byte."""
    towers: dict[str, list[int]] = {}
    for c in chosen:
        towers.setdefault(candidates[c].fingerprint.image, []).append(c)
    return list(towers.values())
