"""What the repository of a soup holds: weights, config, tokenizer, documents, figures and the card; as bytes or files.

`push` sends it to the Hub; `write_repository` lays it out in a folder, which is then what the Hub would hold.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.hub import HubRef, is_hub
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.partial import PartialDirectory
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, HubError, StorageError, UsageError
from soupkit.merging.soup_directory import SOUP_NAME
from soupkit.progress import SILENT, Progress
from soupkit.publishing.hub.card import CardFacts, Parent, choose_license, eval_results_file, render, split_front_matter
from soupkit.publishing.hub.scores import read_document, read_scores
from soupkit.publishing.hub.verify import VerifiedSoup
from soupkit.publishing.hub.without_local_paths import published

CARD = "README.md"
SCORES, SEARCH, _CURVE = "scores.json", "search.json", "interpolation.json"
Contents = dict[str, bytes | Path]
_FIGURES = {
    "scores": "Scores of each model, with 95 % intervals",
    "scatter": "Held-out accuracy against the mean of the distribution shifts",
    "search": "The search, trial by trial",
    "interpolation": "Scores along the line from the base to the fine-tuned weights",
    "differences": "The difference of two models, task by task",
}
_LARGE = 10 << 20  # bytes; files from here on are never kept by git's name on the Hub


@dataclass(frozen=True, slots=True)
class PushOptions:
    """Where and how a soup is pushed; None is the Hub's or soupkit's default.

    `scores` is a file of `evaluate`'s, `figures` a directory of further PNGs. With `folder` the repository is laid out
    there and nothing is sent.
    """

    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    license: str | None = None
    message: str | None = None
    scores: Path | None = None
    figures: Path | None = None
    folder: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a push: its path in the repository, size in bytes, sha256, git's name of it (empty for large files),
    and whether it is "new", "changed" or "same" there ("unknown" where the Hub was not asked)."""

    path: str
    size: int
    sha256: str
    git: str
    status: str = "new"


def repository_files(soup: VerifiedSoup, repo: str, options: PushOptions, existing: str | None) -> Contents:
    """Return what the repository is to hold: paths to bytes, or to files on disk. `existing` is the README to renew.

    No document names a place on this machine. Raises UsageError, DataError and HubError where the card cannot be made.
    """
    directory = soup.directory
    files = {name: directory / name for name in (SCORES, SEARCH, _CURVE) if (directory / name).is_file()}
    if options.scores is not None:
        files[SCORES] = options.scores
    said = published({SOUP_NAME: soup.record, **{name: read_document(path) for name, path in files.items()}})
    scores = read_scores(said[SOUP_NAME], said, options.scores)
    parents = _parents(soup.record)
    license_ = choose_license(
        options.license, parents, split_front_matter(existing)[0].get("license") if existing is not None else None
    )
    pictures = [*directory.glob("*.png"), *(options.figures.glob("*.png") if options.figures else ())]
    figures = {p.name: p for p in sorted(pictures, key=lambda p: p.name)}
    shown = {name: _shown(Path(name).stem) for name in figures}
    facts = CardFacts(repo, replace(soup, record=said[SOUP_NAME]), scores, parents, license_, shown)
    contents: Contents = {
        CARD: render(facts, existing).encode(),
        OPEN_CLIP_CONFIG: directory / OPEN_CLIP_CONFIG,
        OPEN_CLIP_WEIGHTS: directory / OPEN_CLIP_WEIGHTS,
        **{p.name: p for p in soup.companions},
        **figures,
        **{n: (json.dumps(d, indent=2, ensure_ascii=False) + "\n").encode() for n, d in said.items()},
    }
    if (results := eval_results_file(scores)) is not None:
        contents[".eval_results/soupkit.yaml"] = results
    _refuse_token(contents)
    return dict(sorted(contents.items()))


def _shown(stem: str) -> str:
    """Say what a figure shows: those of the report and of the search by their names, others by what they are called."""
    known = _FIGURES.get(stem.rstrip("-0123456789"))
    return known or stem.replace("-", " ").replace("_", " ")


def _refuse_token(contents: Contents) -> None:
    """Refuse to publish the user's own token, wherever it came from."""
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    for path, content in contents.items():
        if (
            token
            and path != OPEN_CLIP_WEIGHTS
            and token in (content if isinstance(content, bytes) else content.read_bytes())
        ):
            raise UsageError("holds your token", path, "take it out before this is published")


def _parents(record: dict[str, Any]) -> tuple[Parent, ...]:
    """Return the repositories among the ingredients and the base, with the licences that their cards name."""
    things = [*record["ingredients"], *([record["base"]] if record.get("base") else [])]
    refs = dict.fromkeys(HubRef.parse(t["ref"]) for t in things if is_hub(t.get("ref")))
    return tuple(Parent(ref.repo, ref.revision, _license_of(ref)) for ref in refs)


def _license_of(ref: HubRef) -> str | None:
    from huggingface_hub import HfApi

    try:
        with explained(ref):
            data = HfApi(library_name="soupkit").model_info(ref.repo, revision=ref.revision).card_data
    except HubError:
        return None  # the card then says that no licence is known
    found = data.get("license") if data is not None else None
    return found if isinstance(found, str) else None


def plan(contents: Contents, there: dict[str, tuple[str | None, str | None]], *, known: bool) -> list[PlannedFile]:
    """Compare what is to be held with what is `there`: git's name and sha256 of each file. `known` is whether that
    was asked at all."""
    planned = []
    for path, content in contents.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        file = PlannedFile(path, size, digest, _git_name(content, size) if size < _LARGE else "")
        status = "new" if path not in there else "same" if is_file(file, there[path]) else "changed"
        planned.append(replace(file, status=status if known else "unknown"))
    return planned


def _git_name(content: bytes | Path, size: int) -> str:
    """Return what git calls a blob: sha1 over its header and bytes."""
    state = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    state.update(content if isinstance(content, bytes) else content.read_bytes())
    return state.hexdigest()


def is_file(file: PlannedFile, there: tuple[str | None, str | None]) -> bool:
    """Whether a file on the Hub has these bytes: large ones are known by sha256, others by git's name."""
    git, sha256 = there
    return sha256 == file.sha256 if sha256 is not None else git == file.git


def held_in(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return the sha256 of each file of a repository in a folder, as `plan` takes it; nothing where it is not there.

    Raises StorageError for a folder that holds something else.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / SOUP_NAME).is_file()):
        raise StorageError("is there already and is not a soup's repository", folder, "choose another folder")
    return {str(p.relative_to(folder)): (None, sha256_of(p)) for p in sorted(folder.rglob("*")) if p.is_file()}


def write_repository(contents: Contents, folder: Path, files: list[PlannedFile], progress: Progress = SILENT) -> None:
    """Lay `contents` out in `folder`, whole or not at all, and compare what is there with `files`.

    Files of a repository that is there already are renewed, others in it stay. Weights are linked where the disk
    allows it. Raises StorageError; CheckpointError where something else stands there afterwards.
    """
    partial = PartialDirectory(folder, "push")
    with partial:
        partial.clear()
        try:
            progress.start(f"writing {folder}", sum(f.size for f in files), "B")
            others = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
            for path, content in {**others, **contents}.items():
                place = partial.path / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    place.write_bytes(content)
                else:
                    _link(content, place)
                progress.advance(place.stat().st_size if path in contents else 0)
            progress.finish()
        except OSError as error:
            raise StorageError(f"cannot be written: {error.strerror}", error.filename or folder) from error
        for file in files:
            if sha256_of(partial.path / file.path) != file.sha256:
                raise CheckpointError("is not what was to be written", partial.path / file.path, "run this again")
        partial.publish(replace=True)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file.resolve(), place)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(file, place)
