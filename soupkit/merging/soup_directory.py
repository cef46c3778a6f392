"""A soup as a directory: the weights and what travels with them, so that open_clip opens it as it is."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG
from soupkit.errors import ArchitectureError
from soupkit.version import __version__

SOUP_NAME = "soup.json"


@dataclass(frozen=True, slots=True)
class SoupRecord:
    """What `soup.json` says before any weight was read: how the soup is made. `weights` has None where no single
    number says an ingredient's share."""

    method: str
    parameters: dict[str, Any]
    dtype: str
    model: str | None
    model_from: str | None
    ingredients: tuple[str, ...]
    weights: tuple[float | None, ...]
    base: str | None

    def document(
        self,
        sources: Sequence[Fingerprint],
        sha256: Sequence[str | None],
        output: Fingerprint,
        output_sha256: str | None,
    ) -> dict[str, Any]:
        """Return `soup.json`; `sources` and `sha256` are the ingredients', in order, and then the base's."""

        def named(i: int, ref: str) -> dict[str, Any]:
            return {"ref": ref, "fingerprint": sources[i].value, "sha256": sha256[i]}

        return {
            "schema": 1,
            "soupkit": __version__,
            "method": self.method,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "base": named(len(self.ingredients), self.base) if self.base is not None else None,
            "model": self.model,
            "model_from": self.model_from,
            "ingredients": [
                {**named(i, ref), "weight": weight}
                for i, (ref, weight) in enumerate(zip(self.ingredients, self.weights, strict=True))
            ],
            "output": {
                "fingerprint": output.value,
                "towers": {"image": output.image, "text": output.text},
                "sha256": output_sha256,
            },
        }


def read_soup_json(directory: Path) -> dict[str, Any] | None:
    """Return the `soup.json` of `directory`, or None where there is none that can be read."""
    return _read_object(directory / SOUP_NAME)


def read_config(directory: Path) -> dict[str, Any] | None:
    """Return the `open_clip_config.json` of a soup, or None where there is none that can be read."""
    return _read_object(directory / OPEN_CLIP_CONFIG)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def same_recipe(document: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two `soup.json` say that the same weights were merged in the same way.

    References may differ (a directory that was moved), and sha256 may be known to one of them only.
    """

    def essence(d: dict[str, Any]) -> list[Any]:
        keys = ("schema", "method", "parameters", "dtype", "model")
        things = [*d.get("ingredients", []), *([d["base"]] if d.get("base") else [])]
        return [*(d.get(k) for k in keys), [(t.get("fingerprint"), t.get("weight")) for t in things]]

    return essence(document) == essence(other)


def check_tokenizers(ingredients: Sequence[Checkpoint]) -> tuple[Path, ...]:
    """Return the tokenizer files that the soup takes along.

    Raises ArchitectureError when two ingredients bring different ones: their prompts would not mean the same.
    """
    chosen: dict[str, Path] = {}
    for checkpoint in ingredients:
        for path in checkpoint.tokenizer_files:
            known = chosen.setdefault(path.name, path)
            if known != path and known.read_bytes() != path.read_bytes():
                raise ArchitectureError(
                    f"is not the same file as {known}", path, "merge only models that share their tokenizer"
                )
    return tuple(chosen.values())


def write_companions(directory: Path, config: dict[str, Any] | None, tokenizer_files: Sequence[Path]) -> None:
    """Write what stands beside the weights: the model's config and the tokenizer's files."""
    if config is not None:
        (directory / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for path in tokenizer_files:
        shutil.copyfile(path, directory / path.name)


def write_soup_json(directory: Path, document: dict[str, Any]) -> None:
    """Write `soup.json`."""
    (directory / SOUP_NAME).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
