"""What is known of a soup's accuracy: the scores of files beside it, matched to models by fingerprint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.scores_document import SCORES, parse_scores_document
from soupkit.evaluation.task import Score
from soupkit.files import read_text
from soupkit.merging.soup_directory import SoupDocument
from soupkit.publishing.json_input import decode
from soupkit.search.document import SEARCH_NAME, SearchScore, parse_search


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a soup and of its ingredients; `selected` are the (task, split) on which a search chose the soup,
    `search` says which search that was, and `why` what it says about them. `notes` are what was said of the soup and of
    its tasks where it was scored, and `warnings` what the search said of itself: what was taken for granted, and what
    left out."""

    soup: tuple[Score, ...] = ()
    others: tuple[Score, ...] = ()
    selected: frozenset[tuple[str, str]] = frozenset()
    why: str | None = None
    search: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_scores(record: SoupDocument, documents: dict[str, Any], given: Path | None = None) -> Scores:
    """Collect the scores of the soup that `record` is of, and of its ingredients, from `documents`, by file name:
    `scores.json` and `search.json`, where they are there.

    Raises DataError for a document that holds no scores; UsageError when `given`, where the scores came from, holds
    none of this soup.
    """
    measured: list[Score] = []
    said: list[str] = []
    if SCORES in documents:
        evaluated = parse_scores_document(documents[SCORES], given or SCORES)
        measured += evaluated.scores
        said += evaluated.notes
    selected: set[tuple[str, str]] = set()
    why, how, searched = None, None, []
    if SEARCH_NAME in documents:
        search = parse_search(documents[SEARCH_NAME])
        chosen = [*search.ingredients, search.score]
        measured += [score for row in [*chosen, *search.report] if (score := _measured(row)) is not None]
        selected = {(s.task, s.split) for s in chosen}
        why, searched = search.why, list(search.notes)
        tasks = ", ".join(sorted({s.task_and_split for s in chosen}))
        how = f"{search.strategy} among {len(search.ingredients)} ingredients, on {tasks}"
    names = {i.fingerprint: i.ref for i in record.ingredients}
    unique = {(s.fingerprint, s.task, s.split, s.metric): s for s in measured}
    soup = [s for s in unique.values() if s.fingerprint == record.output.fingerprint]
    if given is not None and not soup:
        raise UsageError("holds no score of this soup", given, "its fingerprint is in soup.json; evaluate it again")
    others = [replace(s, ref=names[s.fingerprint]) for s in unique.values() if s.fingerprint in names]
    tasks_of_soup, refs = {s.task for s in soup}, {s.ref for s in soup}
    heads = (*tasks_of_soup, *refs, *(f"{ref} on {task}" for ref in refs for task in tasks_of_soup))
    about = tuple(f"{head}: " for head in heads)
    notes = dict.fromkeys(note for note in (*said, *searched) if note.startswith(about))
    warnings = tuple(note for note in dict.fromkeys(searched) if note not in notes)
    return Scores(tuple(soup), tuple(others), frozenset(selected), why, how, tuple(notes), warnings)


def _measured(row: SearchScore) -> Score | None:
    """Return a score of a search as the evaluation's own; None for the number of a user's score, which the Hub has no
    place for."""
    if row.unit != "fraction" or row.n is None or row.low is None or row.high is None:
        return None
    return Score(
        row.ref, row.fingerprint, row.task, row.split, row.metric, row.value, row.n, row.low, row.high, row.metrics
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, with control characters as escapes. Raises DataError."""
    try:
        document = decode(read_text(path), path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, "make it again, or take it away") from error
    if not isinstance(document, dict):
        raise DataError("is not a JSON object", path, "make it again, or take it away")
    return document
