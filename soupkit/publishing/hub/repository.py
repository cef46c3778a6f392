"""What the repository of a soup holds: weights, config, tokenizer, documents, figures and the card.

`push` sends it to the Hub, or lays it out in a folder, which is then what the Hub would hold. Its `soup.json` also says
which files soupkit made, with the sha256 of each.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.hub_ref import HubRef, is_hub
from soupkit.errors import HubError, UsageError
from soupkit.evaluation.scores_document import SCORES
from soupkit.files import parse_json
from soupkit.merging.soup_directory import SOUP_NAME, SoupDocument
from soupkit.publishing.hub.card import CardFacts, eval_results_file, render
from soupkit.publishing.hub.licenses import Parent, choose_license
from soupkit.publishing.hub.planned_files import Contents, RepositoryFile
from soupkit.publishing.hub.readme import split_front_matter
from soupkit.publishing.hub.scores import read_json, read_scores
from soupkit.publishing.hub.verify import VerifiedSoup
from soupkit.publishing.hub.without_local_paths import published
from soupkit.search.document import SEARCH_NAME
from soupkit.text import visible

CARD = "README.md"
_CURVE = "interpolation.json"
_FIGURES = {
    "scores": "Scores of each model, with 95 % intervals",
    "scatter": "Held-out accuracy against the mean of the distribution shifts",
    "search": "The search, trial by trial",
    "interpolation": "Scores along the line from the base to the fine-tuned weights",
    "differences": "The difference of two models, task by task",
}


@dataclass(frozen=True, slots=True)
class PushOptions:
    """Where and how a soup is pushed; None is the Hub's or soupkit's default.

    `scores` is a file of `evaluate`'s, `figures` a directory of further PNGs. With `folder` the repository is laid out
    there and nothing is sent.

    >>> how = soupkit.PushOptions(license="mit", folder=Path("hub"))
    >>> soupkit.publish("soups/uniform", "me/soup", options=how).status
    'written'
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


def repository_files(soup: VerifiedSoup, repo: str, options: PushOptions, existing: str | None) -> Contents:
    """Return what the repository is to hold: paths to bytes, or to files on disk. `existing` is the README to renew.

    No document names a place on this machine. Raises UsageError, DataError and HubError where the card cannot be made.
    """
    directory = soup.directory
    documents = {name: directory / name for name in (SCORES, SEARCH_NAME, _CURVE) if (directory / name).is_file()}
    for name, document in documents.items():
        _check_source(name, document, (directory,))
    if options.scores is not None:
        documents[SCORES] = options.scores
    said = published({SOUP_NAME: asdict(soup.record), **{name: read_json(path) for name, path in documents.items()}})
    record = SoupDocument.of(said[SOUP_NAME])
    assert record is not None  # the names of places are all that was changed
    scores = read_scores(record, said, options.scores)
    parents = _parents(soup.record)
    license_ = choose_license(
        options.license, parents, split_front_matter(existing)[0].get("license") if existing is not None else None
    )
    pictures = [*directory.glob("*.png"), *(options.figures.glob("*.png") if options.figures else ())]
    figures = {p.name: p for p in sorted(pictures, key=lambda p: p.name)}
    shown = {name: _shown(Path(name).stem) for name in figures}
    facts = CardFacts(repo, replace(soup, record=record), scores, parents, license_, shown)
    sources: dict[str, bytes | Path] = {
        CARD: render(facts, existing).encode(),
        OPEN_CLIP_CONFIG: directory / OPEN_CLIP_CONFIG,
        OPEN_CLIP_WEIGHTS: directory / OPEN_CLIP_WEIGHTS,
        **{p.name: p for p in soup.companions},
        **figures,
        **{name: _json(document) for name, document in said.items() if name != SOUP_NAME},
    }
    if (results := eval_results_file(scores)) is not None:
        sources[".eval_results/soupkit.yaml"] = results
    for path, source in sources.items():
        _check_source(path, source, (directory, options.figures))
    digests = {OPEN_CLIP_WEIGHTS: record.output.sha256}
    contents = {path: RepositoryFile.of(source, digests.get(path)) for path, source in sources.items()}
    files = {path: file.sha256 for path, file in sorted(contents.items())}
    contents[SOUP_NAME] = RepositoryFile.of(_sealed(said[SOUP_NAME], files))
    _refuse_token(contents)
    return dict(sorted(contents.items()))


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _sealed(document: dict[str, Any], files: dict[str, str]) -> bytes:
    """Return the repository's `soup.json`: `document`, and the sha256 of each file; its own is that of the file in
    which it is still empty."""
    files = {**files, SOUP_NAME: ""}
    document = {**document, "repository": {"files": files}}
    files[SOUP_NAME] = hashlib.sha256(_json(document)).hexdigest()
    return _json(document)


def sealed_files(data: bytes) -> dict[str, str]:
    """Return the files that the `soup.json` of a repository says soupkit made, with the sha256 of each, its own as it
    is; none where it does not say it, or was changed since."""
    try:
        document = parse_json(data)
        files = document["repository"]["files"]
        own = files[SOUP_NAME]
        files[SOUP_NAME] = ""
        if hashlib.sha256(_json(document)).hexdigest() != own or not all(isinstance(d, str) for d in files.values()):
            return {}
    except (ValueError, RecursionError, TypeError, KeyError):
        return {}
    return {**files, SOUP_NAME: hashlib.sha256(data).hexdigest()}


def _check_source(path: str, source: bytes | Path, directories: tuple[Path | None, ...]) -> None:
    """Raise UsageError for a file that is not to be published as `path`: it lies elsewhere, or its name does harm."""
    if visible(path) != path:
        raise UsageError("has a name with control characters", path, "give it another name")
    if isinstance(source, bytes):
        return
    if not source.is_file():
        raise UsageError("is no regular file", source, "take it out of the directory")
    if not any(d is not None and source.resolve().is_relative_to(d.resolve()) for d in directories):
        raise UsageError(
            "is a link that leads out of the soup's directory", source, "put the file itself there, or take it out"
        )


def _shown(stem: str) -> str:
    """Say what a figure shows: those of the report and of the search by their names, others by what they are called."""
    return _FIGURES.get(stem.rstrip("-0123456789")) or stem.replace("-", " ").replace("_", " ")


def _refuse_token(contents: Contents) -> None:
    """Refuse to publish the user's own token, wherever it came from."""
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    for path, file in contents.items():
        if token and path != OPEN_CLIP_WEIGHTS and token in file.read():
            raise UsageError("holds your token", path, "take it out before this is published")


def _parents(record: SoupDocument) -> tuple[Parent, ...]:
    """Return the repositories among the ingredients and the base, with the licences that their cards name."""
    sources = [*record.ingredients, *([record.base] if record.base is not None else [])]
    refs = dict.fromkeys(HubRef.parse(source.ref) for source in sources if is_hub(source.ref))
    return tuple(Parent(ref.repo, ref.revision, _license_of(ref)) for ref in refs)


def _license_of(ref: HubRef) -> str | None:
    from huggingface_hub import HfApi

    try:
        with explained(ref):
            data = HfApi(library_name="soupkit").model_info(ref.repo, revision=ref.revision).card_data
    except HubError:
        return None  # the card then says that no licence is known
    named = data.get("license") if data is not None else None
    return visible(named) if isinstance(named, str) else None
