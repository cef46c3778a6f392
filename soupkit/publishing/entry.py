"""A push's entry in a recipe: the options of `soupkit push`, in the same words."""

from pathlib import Path

from soupkit.schema import Entry


class PushEntry(Entry):
    """One soup that is published as the repository `repo` (ORG/NAME), or laid out in `folder` (below the run's own
    directory, unless it is absolute) as that repository would be."""

    soup: str
    repo: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    license: str | None = None
    message: str | None = None
    folder: Path | None = None
