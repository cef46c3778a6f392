"""The files that travel with the weights of a soup: configs, tokenizers and the like, byte for byte those of its
ingredients."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import OPEN_CLIP, transformers_configs
from soupkit.checkpoint.compatibility import Agreement
from soupkit.checkpoint.formats.table import Family
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG
from soupkit.errors import ArchitectureError, CheckpointError
from soupkit.files import parse_json, read_bytes, read_text, what_to_do

_MOST_BYTES = 1 << 30  # of a tokenizer and the like, which are copied as they are


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file of a soup beside its weights: its name, and its content or where it is copied from."""

    name: str
    content: str | Path

    def write(self, directory: Path) -> None:
        """Write the file into `directory`. Raises OSError."""
        if isinstance(self.content, Path):
            shutil.copyfile(self.content, directory / self.name)
        else:
            (directory / self.name).write_text(self.content, "utf-8")

    def is_in(self, directory: Path) -> bool:
        """Whether `directory` holds the file, with what it is to hold."""
        path = directory / self.name
        try:
            if isinstance(self.content, Path):
                return read_bytes(path, _MOST_BYTES) == read_bytes(self.content, _MOST_BYTES)
            return parse_json(read_text(path)) == parse_json(self.content)
        except (OSError, ValueError):
            return False


def side_files_of(ingredients: Sequence[Checkpoint], agreement: Agreement) -> tuple[tuple[SideFile, ...], list[str]]:
    """Return the files that stand beside the weights of a soup, and what a person should know of them.

    Raises ArchitectureError where ingredients bring different files of one name that matter to what the model computes.
    """
    family, config = agreement.family, agreement.config
    own = [c.side_files for c in ingredients if c.family == family.name]
    if config is None or (family.name != OPEN_CLIP and own):
        return _agreed(own, family)
    chosen, notes = _agreed([c.tokenizer_files for c in ingredients], family)
    if family.name == OPEN_CLIP:
        return (_document(OPEN_CLIP_CONFIG, config), *chosen), notes
    if not chosen:
        tokenizer = config["model_cfg"]["text_cfg"].get("hf_tokenizer_name", "openai/clip-vit-base-patch32")
        notes.append(f"no tokenizer is beside the weights; transformers has it as {tokenizer}")
    documents = transformers_configs(ingredients[0], config)
    return (*(_document(name, document) for name, document in documents.items()), *chosen), notes


def _document(name: str, document: dict[str, Any]) -> SideFile:
    return SideFile(name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _agreed(brought: Sequence[Sequence[Path]], family: Family) -> tuple[tuple[SideFile, ...], list[str]]:
    chosen: dict[str, Path] = {}
    notes = []
    for path in (path for paths in brought for path in paths):
        first = chosen.setdefault(path.name, path)
        if first == path or _read(first) == _read(path) or path.name in family.configs:
            continue  # configs were compared by what they say
        if not any(fnmatch(path.name, pattern) for pattern in family.indifferent):
            raise ArchitectureError(
                f"is not the same file as {first}", path, "merge only models that share it, or make the files agree"
            )
        notes.append(f"{path} differs from {first}, which the soup takes along; the weights do not depend on it")
    return tuple(SideFile(name, path) for name, path in chosen.items()), notes


def _read(path: Path) -> Any:
    try:
        return read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error
