"""The checkpoints that an evaluation scores, opened: their config, and the fingerprints of their towers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.checkpoint.architecture import Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.reference import open_checkpoint, open_headers
from soupkit.errors import ArchitectureError
from soupkit.evaluation.content_digest import remembered
from soupkit.evaluation.heads import HeadOptions, head_config
from soupkit.evaluation.options import EvaluationOptions
from soupkit.progress import Progress


@dataclass(frozen=True, slots=True)
class Candidate:
    """An open checkpoint that is to be scored."""

    ref: str
    checkpoint: Checkpoint
    config: Config
    fingerprint: Fingerprint


def open_candidate(ref: str | Path, said: HeadOptions, options: EvaluationOptions, progress: Progress) -> Candidate:
    """Open the checkpoint `ref`, a model of open_clip's or a classifier with a head; what is `said` counts for bare
    weights.

    Raises CheckpointError for weights that cannot be opened, ArchitectureError where they are no model that soupkit
    can evaluate.
    """
    checkpoint = open_checkpoint(ref, progress=progress)
    try:
        head = head_config(checkpoint, said)
        config = head or _config_of(checkpoint, said.model, said.preprocess)
        paths = [str(path) for path in checkpoint.paths]
        # nothing says of weights in memory that they are the same as before
        memory = options.cache / "fingerprints" if options.cache is not None and paths else None

        def compute() -> dict[str, str]:
            value = fingerprint(checkpoint, progress=progress)
            return {"value": value.value, "image": value.image, "text": value.text}

        digests = remembered(paths, memory, str(ref), ("value", "image", "text"), compute)
        if head is not None:  # one with a head is one tower, whatever its tensors are called
            digests = dict.fromkeys(digests, digests["value"])
        return Candidate(str(ref), checkpoint, config, Fingerprint(**digests))
    except BaseException:
        checkpoint.close()
        raise


def check_headers(ref: str | Path, said: HeadOptions) -> None:
    """Raise what `open_candidate` raises for a checkpoint on the Hub, before its weights are downloaded."""
    with open_headers(ref) as headers:
        if head_config(headers, said) is None:
            _config_of(headers, said.model, said.preprocess)


def _config_of(checkpoint: Checkpoint, model: str | None, preprocess: Path | None) -> Config:
    config = architecture_of(checkpoint, model=model, preprocess=preprocess).config
    if config is None:
        raise ArchitectureError(
            "is no model that open_clip builds",
            checkpoint.ref,
            "say which it is with --model NAME, or for a classifier what builds it: --builder MODULE:FUNCTION",
        )
    return config


def by_image_tower(candidates: dict[int, Candidate], chosen: Sequence[int]) -> list[list[int]]:
    """Group the numbers `chosen` of candidates whose image towers are equal, byte for byte."""
    towers: dict[str, list[int]] = {}
    for c in chosen:
        towers.setdefault(candidates[c].fingerprint.image, []).append(c)
    return list(towers.values())


def by_architecture(candidates: Sequence[Candidate], chosen: Sequence[int]) -> list[list[int]]:
    """Group candidates by config: those of one group fit into one live model."""
    groups: dict[str, list[int]] = {}
    for c in chosen:
        files = [file.name for file in candidates[c].checkpoint.tokenizer_files]
        groups.setdefault(json.dumps([candidates[c].config, files], sort_keys=True), []).append(c)
    return list(groups.values())
