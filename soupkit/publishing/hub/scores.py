"""What is known of a soup's accuracy: the scores of files beside it, matched to models by fingerprint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.errors import DataError, UsageError
from soupkit.merging.soup_directory import SoupDocument

_KEYS = ("ref", "fingerprint", "task", "split", "metric", "value", "n", "low", "high")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a soup and of its ingredients, as `evaluate --json` writes each; `selected` are the (task, split) on
    which a search chose the soup, `search` says which search that was, and `why` what it says about them."""

    soup: tuple[dict[str, Any], ...] = ()
    others: tuple[dict[str, Any], ...] = ()
    selected: frozenset[tuple[str, str]] = frozenset()
    why: str | None = None
    search: str | None = None


def read_scores(record: SoupDocument, documents: dict[str, Any], given: Path | None = None) -> Scores:
    """Collect the scores of the soup that `record` is of, and of its ingredients, from `documents`, by file name:
    `scores.json` and `search.json`, where they are there.

    Raises DataError for a document that holds no scores; UsageError when `given`, where the scores came from, holds
    none of this soup.
    """
    found: list[dict[str, Any]] = []
    if "scores.json" in documents:
        found += _valid(documents["scores.json"].get("scores"), given or "scores.json")
    selected, why, how = set(), None, None
    if (search := documents.get("search.json")) is not None:
        chosen = [s for s in [*(search.get("ingredients") or []), search.get("score")] if s]
        found += _valid([*chosen, *(search.get("report") or [])], "search.json")
        selected = {(s["task"], s["split"]) for s in _valid(chosen, "search.json")}
        why = search.get("why")
        places = ", ".join(sorted({f"{s['task']}:{s['split']}" for s in chosen}))
        how = f"`{search.get('strategy')}` among {len(search.get('ingredients') or [])} ingredients, on {places}"
    names = {i.fingerprint: i.ref for i in record.ingredients}
    unique = {(s["fingerprint"], s["task"], s["split"], s["metric"]): s for s in found}
    soup = [s for s in unique.values() if s["fingerprint"] == record.output.fingerprint]
    if given is not None and not soup:
        raise UsageError("holds no score of this soup", given, "its fingerprint is in soup.json; evaluate it again")
    others = [{**s, "ref": names[s["fingerprint"]]} for s in unique.values() if s["fingerprint"] in names]
    return Scores(tuple(soup), tuple(others), frozenset(selected), why, how)


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises DataError."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON: {str(error)[:120]}", path, "`evaluate --json` writes it") from error
    if not isinstance(document, dict):
        raise DataError("is not a JSON object", path, "`evaluate --json` writes it")
    return document


def _valid(scores: Any, where: object) -> list[dict[str, Any]]:
    good = isinstance(scores, list) and all(isinstance(s, dict) and all(k in s for k in _KEYS) for s in scores)
    if not good:
        raise DataError("holds no scores", where, f"each has {', '.join(_KEYS)}; `evaluate --json` writes them")
    return scores
