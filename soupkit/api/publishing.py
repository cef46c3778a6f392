"""Functions that show results to others: report, publish."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.api.arguments import Ref, Refs, path, reference, references, watched
from soupkit.api.keywords import PushKeywords, takes
from soupkit.api.making import options_of
from soupkit.api.results import PublishResult, ReportResult
from soupkit.api.shown import shown_as
from soupkit.progress import Progress
from soupkit.publishing.hub.push import PushOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


def report(
    inputs: Refs,
    output: str | Path = "report.html",
    *,
    title: str | None = None,
    held_out: str | None = None,
    difference: Sequence[str] = (),
    only: str | Sequence[str] = (),
    png: str | Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    progress: bool | Progress | None = None,
) -> ReportResult:
    """Put soups, scores and searches on one HTML page; with `png` its figures go into that directory too.

    >>> soupkit.report("scores.json", "report.html").tasks
    ('digits:test',)
    """
    from soupkit.publishing.reports.report import make_report

    result = make_report(
        [Path(ref) for ref in references(inputs, "inputs")], Path(output), title=title, held_out=held_out,
        difference=difference, only=[only] if isinstance(only, str) else only, png=path(png), dry_run=dry_run,
        fresh=fresh, progress=watched(progress),
    )  # fmt: skip
    return shown_as(ReportResult, result)


@takes(PushKeywords)
def publish(
    directory: Ref,
    repo: str,
    *,
    options: PushOptions | None = None,
    progress: bool | Progress | None = None,
    **push: "Unpack[PushKeywords]",
) -> PublishResult:
    """Publish a soup as the repository `repo` (ORG/NAME) of the Hub, or lay it out in `folder`.

    `push` are the fields of `PushOptions` (license, private, tag, folder, dry_run, ...).

    >>> soupkit.publish("soups/uniform", "me/soup", license="mit", folder="hub").status
    'written'
    """
    from soupkit.publishing.hub.push import publish as run

    given: dict[str, Any] = dict(push)
    given |= {key: path(given[key]) for key in ("scores", "figures", "folder") if key in given}
    chosen = options_of(PushOptions, options, given)
    return shown_as(
        PublishResult, run(reference(directory, "directory"), repo, options=chosen, progress=watched(progress))
    )
