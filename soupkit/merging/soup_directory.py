"""A soup as a directory: the weights and what travels with them, so that open_clip opens it as it is, and `soup.json`,
which says how it was made."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.files import parse_json, read_text
from soupkit.version import __version__

SOUP_NAME = "soup.json"


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Weights that went into a soup: what names them, their fingerprint, and their file's sha256 where it is told."""

    ref: str
    fingerprint: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class IngredientRecord(SourceRecord):
    """An ingredient. `weight` is its share of the soup, None where no single number says it; `copies` are references to
    the same weights, given beside it."""

    weight: float | None = None
    copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TowerRecord:
    """The fingerprints of a soup's towers; empty where it has none."""

    image: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """The weights that were written."""

    fingerprint: str = ""
    towers: TowerRecord = field(default_factory=TowerRecord)
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ApproximationRecord:
    """A soup of adapters of a lower rank than the sum of theirs: its rank, and how far its products are from the exact
    ones, by their Frobenius norms over all modules."""

    rank: int = 0
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SoupDocument:
    """`soup.json`: how a soup is made, and what it is made of. Before weights were read, fingerprints are empty.

    Files of other versions are read too: what they lack has its default, what is not known here is left out.
    """

    schema: int = 1
    soupkit: str = __version__
    method: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""
    base: SourceRecord | None = None
    model: str | None = None
    model_from: str | None = None
    ingredients: tuple[IngredientRecord, ...] = ()
    output: OutputRecord = field(default_factory=OutputRecord)
    approximation: ApproximationRecord | None = None

    @classmethod
    def read(cls, directory: Path) -> "SoupDocument | None":
        """Return the `soup.json` of `directory`, or None where there is none that can be read."""
        document = _read_object(directory / SOUP_NAME)
        return cls.of(document) if document is not None else None

    @classmethod
    def of(cls, document: dict[str, Any]) -> "SoupDocument | None":
        """Return what a parsed `soup.json` says; None where it does not say it as one does."""
        try:
            return _SOUP_DOCUMENT.validate_python(document)
        except ValidationError:
            return None

    def write(self, directory: Path) -> None:
        """Write `soup.json` into `directory`. Raises OSError."""
        document = asdict(self)
        for ingredient in document["ingredients"]:
            if not ingredient["copies"]:
                del ingredient["copies"]
        if self.approximation is None:  # as with most soups
            del document["approximation"]
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (directory / SOUP_NAME).write_text(text + "\n", "utf-8")

    def completed(
        self, prints: Sequence[Fingerprint], sha256: Sequence[str | None], output_sha256: str | None
    ) -> "SoupDocument":
        """Return the document with what was found out: `prints` are those of the ingredients, of the base where there
        is one, and of the output; `sha256` those of the ingredients and the base."""
        n = len(self.ingredients)
        values = [p.value for p in prints]
        output = prints[-1]
        return replace(
            self,
            ingredients=tuple(
                replace(ingredient, fingerprint=value, sha256=digest)
                for ingredient, value, digest in zip(self.ingredients, values[:n], sha256[:n], strict=True)
            ),
            base=replace(self.base, fingerprint=values[n], sha256=sha256[n]) if self.base is not None else None,
            output=OutputRecord(output.value, TowerRecord(output.image, output.text), output_sha256),
        )

    def is_made_like(self, other: "SoupDocument") -> bool:
        """Whether both say that weights are merged in the same way, whatever the weights are."""
        mine, theirs = ([d.schema, d.method, as_json(d.parameters), d.dtype] for d in (self, other))
        return mine == theirs

    def is_same_soup(self, other: "SoupDocument") -> bool:
        """Whether both say that the same weights were merged in the same way.

        References may differ (a directory that was moved), and sha256 may be known to one of them only.
        """

        def sources(document: SoupDocument) -> list[Any]:
            base = document.base.fingerprint if document.base is not None else None
            return [document.model, [(i.fingerprint, i.weight) for i in document.ingredients], base]

        return self.is_made_like(other) and sources(self) == sources(other)


_SOUP_DOCUMENT = TypeAdapter(SoupDocument)


def read_soup_json(directory: Path) -> dict[str, Any] | None:
    """Return the `soup.json` of `directory` as it stands there, or None where there is none that can be read."""
    return _read_object(directory / SOUP_NAME)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        document = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def as_json(value: Any) -> Any:
    """Return `value` as it is once it was written as JSON and read again."""
    return json.loads(json.dumps(value))
