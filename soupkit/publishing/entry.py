"""The entries of reports and pushes in a recipe: the options of the two commands, in the same words."""

from pathlib import Path

from soupkit.schema import Entry


class ReportEntry(Entry):
    """A report in a recipe. Without `inputs` the recipe's own results."""

    inputs: list[Path] = []  # noqa: RUF012 - pydantic copies defaults
    title: str | None = None
    held_out: str | None = None
    difference: list[str] = []  # noqa: RUF012
    only: list[str] = []  # noqa: RUF012
    png: bool = False


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
