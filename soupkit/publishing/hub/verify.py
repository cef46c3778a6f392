"""Whether a directory is a soup that may be published: what `soup.json` says of it holds, and open_clip can open it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from soupkit.checkpoint import Checkpoint, fingerprint, open_checkpoint
from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.lineage import read_float32
from soupkit.checkpoint.opening import check_configs
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import ArchitectureError, CheckpointError, UsageError
from soupkit.merging.soup_directory import SOUP_NAME, SoupDocument
from soupkit.progress import SILENT, Progress

_BLOCK = 1 << 20  # elements
_NAMES = ("hf_model_name", "hf_tokenizer_name", "timm_model_name")  # what transformers and timm take for a folder, too


@dataclass(frozen=True, slots=True)
class VerifiedSoup:
    """A soup that is what it says it is. `record` is its `soup.json` with the sha256 of the weights filled in;
    `companions` are the tokenizer's files."""

    directory: Path
    record: SoupDocument
    model: str
    parameters: int
    companions: tuple[Path, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the weights."""
        return self.record.output.fingerprint


def verify(directory: Path, progress: Progress = SILENT) -> VerifiedSoup:
    """Read every weight of the soup in `directory` and check it: its fingerprint, that all of it is finite, that it
    has the tensors of the open_clip model its config describes.

    Raises UsageError for a directory that is no soup or is sharded; CheckpointError for weights that are not those
    that were written or not finite; ArchitectureError where open_clip would not open it.
    """
    record = SoupDocument.read(directory)
    if record is None and not (directory / SOUP_NAME).is_file():
        raise UsageError(f"holds no {SOUP_NAME}", directory, "name a directory that `soupkit merge` has written")
    if record is None or not record.output.fingerprint or not record.ingredients:
        raise UsageError(
            "does not say what the soup is and what it is made of", directory / SOUP_NAME, "make the soup again"
        )
    weights = directory / OPEN_CLIP_WEIGHTS
    if not weights.is_file():
        if any(directory.glob("*.index.json")):
            raise UsageError("is in shards, which open_clip does not open", directory, "merge without --max-shard-size")
        raise UsageError(f"holds no {OPEN_CLIP_WEIGHTS}", directory, "make the soup again")
    if not (directory / OPEN_CLIP_CONFIG).is_file():
        raise ArchitectureError(
            f"holds no {OPEN_CLIP_CONFIG}: open_clip could not open it", directory, "merge with --model NAME"
        )
    with open_checkpoint(directory) as soup:
        _refuse_local_names(soup.config or {}, directory / OPEN_CLIP_CONFIG)
        architecture = architecture_of(soup)  # refuses tensors that are not those of the config's model
        check_configs([soup], architecture)
        value = fingerprint(soup, progress=progress).value
        if value != record.output.fingerprint:
            raise CheckpointError(
                f"has the fingerprint {value}; {SOUP_NAME} says {record.output.fingerprint}",
                weights,
                "the weights are not those that were written; make the soup again with --fresh",
            )
        _check_finite(soup, progress)
        digest = sha256_of(weights)
        soup.check_unchanged()
        recorded = record.output.sha256
        if recorded not in (None, digest):
            raise CheckpointError(
                f"has the sha256 {digest}; {SOUP_NAME} says {recorded}", weights, "make the soup again"
            )
        return VerifiedSoup(
            directory,
            replace(record, output=replace(record.output, sha256=digest)),
            architecture.model or record.model or "of its own config",
            architecture.parameters,
            soup.tokenizer_files,
        )


def _refuse_local_names(config: Any, path: Path, keys: tuple[str, ...] = ()) -> None:
    """Raise UsageError for a config that names a folder of this machine, such as a text tower's `hf_model_name`: nobody
    else could open the model."""
    if isinstance(config, dict):
        for key, value in config.items():
            _refuse_local_names(value, path, (*keys, str(key)))
    elif isinstance(config, list):
        for value in config:
            _refuse_local_names(value, path, keys)
    elif isinstance(config, str) and _is_local(config, named=bool(keys) and keys[-1] in _NAMES):
        raise UsageError(
            f"names a place on this machine, as {'.'.join(keys)}: nobody else could open the model",
            path,
            "put the name that it has on the Hub there (ORG/NAME), and merge again",
        )


def _is_local(text: str, *, named: bool) -> bool:
    """Whether `text` is a path. What is `named` is a model or a tokenizer, and may be the relative path of a folder."""
    if text.startswith(("/", "~/", "./", "../", "file:")):
        return True
    return named and (text.count("/") > 1 or "\\" in text or Path(text).is_dir())


def _check_finite(soup: Checkpoint, progress: Progress) -> None:
    progress.start("checking that all weights are finite", sum(s.nbytes for s in soup.tensors.values()), "B")
    for name, start, stop in _blocks(soup):
        if not np.isfinite(read_float32(soup, name, start, stop)).all():
            raise CheckpointError(
                "holds NaN or infinity", f"{soup.path}, tensor {name!r}", "it is not worth publishing"
            )
        progress.advance((stop - start) * soup.tensors[name].itemsize)
    progress.finish()


def _blocks(soup: Checkpoint) -> Iterator[tuple[str, int, int]]:
    for name, spec in soup.tensors.items():
        if spec.is_float:
            for start in range(0, spec.numel, _BLOCK):
                yield name, start, min(start + _BLOCK, spec.numel)
