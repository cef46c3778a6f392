"""Documents as they are published: local weights and data go by name; their places on a disk are nobody's business."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soupkit.checkpoint.hub_ref import is_hub
from soupkit.publishing.short_names import end_names
from soupkit.text import visible_in

# The keys under which soupkit's documents name weights and tasks.
_NAMED = ("ref", "first", "second", "base", "refs", "selected", "soup", "task")
_PLACE = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"`,;:()]+/)+[^\s/'\"`,;:()]*")


def published(documents: dict[str, Any]) -> dict[str, Any]:
    """Return the documents, JSON by file name, with local references and data sets by their names.

    The same place has the same name in all of them, also inside sentences. References to the Hub and fingerprints stay.
    Any other absolute path that stands in them is cut to its end. Control characters become visible.
    """
    documents = visible_in(documents)
    refs = dict.fromkeys(text for document in documents.values() for text in _references(document))
    names = end_names(text for text in refs if not is_hub(text) and not text.startswith("wds/"))
    longest = sorted((place for place in names if "/" in place), key=len, reverse=True)

    def renamed(text: str) -> str:
        if text in names:
            return names[text]
        for place in longest:
            if place in text:
                text = re.sub(rf"(?<![\w./-]){re.escape(place)}(?![\w-])", names[place].replace("\\", r"\\"), text)
        if text.startswith("/"):
            return Path(text).name
        return _PLACE.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return renamed(value)
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        return [walk(inner) for inner in value] if isinstance(value, list | tuple) else value

    return {file: walk(document) for file, document in documents.items()}


def _references(value: Any) -> Iterator[str]:
    """Yield the texts that name weights or tasks."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _references(inner)
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _NAMED:
                yield from (
                    text for text in (inner if isinstance(inner, list | tuple) else [inner]) if isinstance(text, str)
                )
            yield from _references(inner)
