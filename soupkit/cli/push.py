"""`soupkit push`: publish a soup on the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson

if TYPE_CHECKING:
    from soupkit.publishing.hub.push import PushResult

HELP = """\
Publish a soup on the Hugging Face Hub: weights, config, tokenizer, soup.json and a model card made from the facts, in
one commit that open_clip loads as hf-hub:ORG/NAME.

[bold]Example[/bold]:

    soupkit evaluate soups/greedy runs/a runs/b --task digits -o soups/greedy/scores.json
    soupkit push soups/greedy me/greedy-soup --license mit --dry-run
    soupkit push soups/greedy me/greedy-soup --license mit --tag v1
    soupkit push soups/greedy me/greedy-soup --license mit --folder hub   # lay the repository out, send nothing

Before anything is sent the weights are compared with soup.json, must be finite, and must be the model that the config
says. Scores come from scores.json and search.json in DIR, figures from its *.png. A README.md of yours, in DIR or on
the Hub, is kept: only the parts between soupkit's markers, and soupkit's metadata, are renewed. Local ingredients are
named by the ends of their paths; nothing that is sent names a place on this machine.

Interrupted, the same command sends what is missing; a soup that is there already changes nothing. The token is the one
of `hf auth login` or HF_TOKEN.
"""


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The soup.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", help="Push to this branch, made if need be."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    tag: Annotated[str | None, typer.Option("--tag", metavar="T", help="Tag the commit.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="L", help="The soup's licence; else the one its parents share.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="M", help="The commit's message.")] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", metavar="FILE", help="What `evaluate -o` wrote, instead of scores.json.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Write the repository there and send nothing.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all of it, show the plan, send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from dataclasses import asdict

    from soupkit.cli.output import print_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.publishing.hub.push import PushOptions, publish

    options = PushOptions(
        private, revision, create_pr, tag, license_, message, scores, folder=folder, dry_run=dry_run
    )  # fmt: skip
    result = publish(directory, repo, options=options, progress=terminal_progress())
    if as_json:
        fields = {**asdict(result), "folder": str(result.folder) if result.folder else None}
        print_json("push", {"ref": f"hf-hub:{repo}", **fields})
    else:
        licence = ["--license", license_] if license_ is not None else []
        _show(result, ["soupkit", "push", directory, repo, *licence])


def _show(result: "PushResult", sending: list[object]) -> None:
    from rich.table import Table

    from soupkit.cli.output import count, finished, plain_console

    console = plain_console()
    there = "there" if result.folder else "on the Hub"
    table = Table("file", "size", there, "sha256", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for file in result.files:
        table.add_row(file.path, count(file.size, "B"), file.status, file.sha256[:16])
    console.print(table)
    for note in result.notes:
        console.print(note)
    place = result.folder or result.pull_request or result.url
    to = f"{result.repo}, {result.revision}" if result.folder is None else str(result.folder)
    said = {
        "planned": f"nothing was {'written' if result.folder else 'sent'}; without --dry-run this would go to {to}",
        "unchanged": f"{place} holds this soup already; nothing was changed",
        "written": f"{place} holds what the Hub would hold as {result.repo}; nothing was sent",
        "pushed": f"{place} holds it, commit {result.commit}; checksums agree",
    }
    console.print(said[result.status], soft_wrap=True)
    if result.status in ("pushed", "unchanged") and result.folder is None:
        finished("repository", place, "soupkit", "inspect", f"hf-hub:{result.repo}")
    elif result.status == "planned" or result.folder is not None:
        finished("soup", sending[2], *sending)
