"""What is known of a soup's accuracy: the scores of files beside it, matched to models by fingerprint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.errors import DataError, UsageError

_KEYS = ("ref", "fingerprint", "task", "split", "metric", "value", "n", "low", "high")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a soup and of its ingredients, as `evaluate --json` writes each; `selected` are the (task, split) on
    which a search chose the soup, and `why` is what the search says about them."""

    soup: tuple[dict[str, Any], ...] = ()
    others: tuple[dict[str, Any], ...] = ()
    selected: frozenset[tuple[str, str]] = frozenset()
    why: str | None = None


def read_scores(record: dict[str, Any], directory: Path, given: Path | None = None) -> Scores:
    """Collect the scores in `given` or else `scores.json`, and in `search.json`, beside the soup that `record` is of.

    Raises DataError for a file that holds no scores; UsageError when `given` holds none of this soup.
    """
    found: list[dict[str, Any]] = []
    place = given or directory / "scores.json"
    if given is not None or place.is_file():
        found += _valid(_read(place).get("scores"), place)
    selected, why = set(), None
    search = directory / "search.json"
    if search.is_file():
        document = _read(search)
        chosen = [s for s in [*(document.get("ingredients") or []), document.get("score")] if s]
        found += _valid([*chosen, *(document.get("report") or [])], search)
        selected = {(s["task"], s["split"]) for s in _valid(chosen, search)}
        why = document.get("why")
    names = {i["fingerprint"]: i["ref"] for i in record["ingredients"]}
    unique = {(s["fingerprint"], s["task"], s["split"], s["metric"]): s for s in found}
    soup = [s for s in unique.values() if s["fingerprint"] == record["output"]["fingerprint"]]
    if given is not None and not soup:
        raise UsageError("holds no score of this soup", given, "its fingerprint is in soup.json; evaluate it again")
    others = [{**s, "ref": names[s["fingerprint"]]} for s in unique.values() if s["fingerprint"] in names]
    return Scores(tuple(soup), tuple(others), frozenset(selected), why)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON: {str(error)[:120]}", path, "`evaluate --json` writes it") from error
    if not isinstance(document, dict):
        raise DataError("is not a JSON object", path, "`evaluate --json` writes it")
    return document


def _valid(scores: Any, path: Path) -> list[dict[str, Any]]:
    good = isinstance(scores, list) and all(isinstance(s, dict) and all(k in s for k in _KEYS) for s in scores)
    if not good:
        raise DataError("holds no scores", path, f"each has {', '.join(_KEYS)}; `evaluate --json` writes them")
    return scores
