"""A push's entry in a recipe: the options of `soupkit push`, in the same words."""

from soupkit.schema import Entry


class PushEntry(Entry):
    """One soup that is published as the repository `repo` (ORG/NAME)."""

    soup: str
    repo: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    license: str | None = None
    message: str | None = None
