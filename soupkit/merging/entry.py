"""A soup's entry in a recipe: the merge command's options, in the same words."""

import re
from pathlib import Path
from typing import Any

from soupkit.schema import Document, Entry

_RUN_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class SoupEntry(Entry):
    """One soup: what is merged, and how. `weight` has one number per ingredient; `param` is as `--param` gives it."""

    ingredients: list[str]
    method: str = "uniform"
    weight: list[float] | None = None
    base: str | None = None
    param: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults
    dtype: str | None = None
    model: str | None = None
    preprocess: Path | None = None


def read_soup(path: Path, name: str | None = None) -> SoupEntry:
    """Return the soup called `name` of the recipe at `path`, the only merge in it, or the entry that the file holds.

    Raises UsageError, with the line, for what does not fit the schema, for a name that is not there, and for references
    to other steps of the recipe, which only exist once those have run.
    """
    document = Document(path)
    data: Any = document.data
    place: tuple[str, ...] = ()
    if isinstance(data, dict) and "soup" in data and "ingredients" not in data:
        soups = data["soup"]
        if not isinstance(soups, dict) or not soups:
            document.refuse("holds no named soups", ("soup",))
        merges = [n for n, entry in soups.items() if not (isinstance(entry, dict) and "search" in entry)]
        if name is None and len(merges) != 1:
            document.refuse(
                f"holds {len(merges)} merges: {', '.join(merges)}", ("soup",), hint="choose with --soup NAME"
            )
        name = name or merges[0]
        if name not in soups:
            document.refuse(f"holds no soup {name!r}", ("soup",), hint=f"it holds {', '.join(soups)}")
        data, place = soups[name], ("soup", name)
    entry = document.validate(SoupEntry, data, place)
    named = [(ref, ("ingredients", i)) for i, ref in enumerate(entry.ingredients)] + [(entry.base or "", ("base",))]
    for ref, where in named:
        if found := _RUN_REFERENCE.search(ref):
            document.refuse(
                f"{found.group(0)} stands for another step of the recipe",
                (*place, *where),
                hint="name the directory that the step ended with",
            )
    return entry
