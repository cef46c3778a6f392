"""`push`: a soup becomes a repository on the Hub, in one commit, and is compared with what the Hub then holds."""

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.checkpoint import open_checkpoint, open_headers
from soupkit.checkpoint.hub import PREFIX, HubRef, is_hub
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.errors import CheckpointError, HubError, HubUnreachableError, UsageError
from soupkit.merging.soup import CONFIG_NAME, SOUP_NAME
from soupkit.progress import SILENT, Progress
from soupkit.publishing.card import (
    CardFacts,
    Parent,
    choose_license,
    eval_results_file,
    render,
    split_front_matter,
)
from soupkit.publishing.scores import read_scores
from soupkit.publishing.verify import WEIGHTS_NAME, VerifiedSoup, verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CARD = "README.md"
_DOCUMENTS = ("scores.json", "search.json", "interpolation.json")
_PULLS_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class PushOptions:
    """Where and how a soup is pushed; None is the Hub's or soupkit's default. `scores` is a file of `evaluate`'s."""

    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    license: str | None = None
    message: str | None = None
    scores: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a push: its path in the repository, size in bytes, sha256, git's name of it, and whether it is
    "new", "changed" or "same" there ("unknown" where the Hub was not asked)."""

    path: str
    size: int
    sha256: str
    git: str
    status: str = "new"


@dataclass(frozen=True, slots=True)
class PushResult:
    """What came of a push. `status` is "pushed", "unchanged" or "planned"."""

    status: str
    repo: str
    revision: str
    fingerprint: str
    files: tuple[PlannedFile, ...]
    commit: str | None
    url: str | None
    pull_request: str | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the Hub holds at a revision: the commit, and git's name and the sha256 of each file; None: nothing."""

    commit: str
    files: dict[str, tuple[str | None, str | None]]
    private: bool


def push(
    directory: str | Path, repo: str, *, options: PushOptions | None = None, progress: Progress = SILENT
) -> PushResult:
    """Publish the soup in `directory` as the repository `repo` (ORG/NAME) on the Hub.

    Everything is checked before anything is sent; card and weights go in one commit; afterwards every checksum is
    compared with the Hub's and the soup is opened there by its header. Interrupted, the same call sends what is
    missing; a soup that is there already changes nothing.

    Raises UsageError for a directory that is no soup, a call that cannot work, or a card that would not be complete;
    CheckpointError and ArchitectureError for weights that are not to be published; HubError for what the Hub refuses.
    """
    started = time.perf_counter()
    options = options or PushOptions()
    target = HubRef.parse(PREFIX + repo)
    if target.revision is not None or is_hub(repo):
        raise UsageError("is not a name of a repository", repo, "write ORG/NAME; --revision names a branch")
    revision = options.revision or "main"
    soup = verify(Path(directory), progress)
    api = _api()
    notes: list[str] = []
    if not options.dry_run:
        _check_token(api, repo)
    try:
        main = _look(api, repo, "main")
        branch = _look(api, repo, revision) if revision != "main" else main
        reached = True
    except HubUnreachableError as error:
        if not options.dry_run:
            raise
        main, branch, reached = None, None, False
        notes.append(f"{error.what}: what is there already is not known")
    if options.private and main is not None and not main.private:
        raise UsageError("is public already", repo, "change that on its settings page, or leave --private out")
    remote = branch or main  # a new branch begins where main is
    contents = repository_files(soup, repo, options, _readme_of(api, repo, revision, remote, soup))
    files = _plan(contents, remote if reached else None, known=reached)
    progress.note(f"{repo}, {revision}: " + ", ".join(f"{f.path} ({f.status})" for f in files))

    def result(status: str, commit: str | None, pull: str | None = None) -> PushResult:
        url = f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision != "main" else "")
        spent = time.perf_counter() - started
        return PushResult(status, repo, revision, soup.fingerprint, files, commit, url, pull, spent, tuple(notes))

    if options.dry_run:
        return result("planned", remote.commit if remote else None)
    if branch is not None and all(f.status == "same" for f in files):
        _tag(api, repo, options.tag, branch.commit)
        return result("unchanged", branch.commit)
    if options.create_pr and (there := _pull_request_with(api, repo, contents)) is not None:
        return result("unchanged", there[1], f"{api.endpoint}/{repo}/discussions/{there[0].rsplit('/', 1)[-1]}")
    _prepare_repository(api, repo, revision, options, main, branch)
    commit, pull, place = _commit(api, repo, revision, contents, options, remote, progress)
    _compare(api, repo, place, files, soup)
    _tag(api, repo, options.tag, commit)
    return result("pushed", commit, pull)


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="soupkit")


def _check_token(api: "HfApi", repo: str) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise HubError("no token is set, and writing needs one", repo, "log in with `hf auth login`, or set HF_TOKEN")
    with explained(repo, writing=True):
        who = api.whoami()
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError("the token may only read", repo, "make one that may write, on huggingface.co/settings/tokens")


def _look(api: "HfApi", repo: str, revision: str) -> _Remote | None:
    """Ask what the Hub holds; None where there is no such repository or revision yet."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    with explained(f"{repo}, {revision}"):
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if type(error).__name__ == "GatedRepoError":
                raise
            return None
    files = {s.rfilename: (s.blob_id, s.lfs.sha256 if s.lfs else None) for s in info.siblings or []}
    return _Remote(info.sha or "", files, bool(info.private))


def _readme_of(api: "HfApi", repo: str, revision: str, remote: _Remote | None, soup: VerifiedSoup) -> str | None:
    """Return the README that is to be renewed: the one beside the soup, or else the one on the Hub."""
    local = soup.directory / _CARD
    if local.is_file():
        return local.read_text("utf-8")
    if remote is None or _CARD not in remote.files:
        return None
    with explained(f"{repo}, {_CARD}"):
        return Path(api.hf_hub_download(repo, _CARD, revision=remote.commit)).read_text("utf-8")


def repository_files(
    soup: VerifiedSoup, repo: str, options: PushOptions, existing: str | None
) -> dict[str, bytes | Path]:
    """Return what the repository is to hold: paths to bytes, or to files on disk. Raises UsageError, DataError and
    HubError where the card cannot be made."""
    directory = soup.directory
    scores = read_scores(soup.record, directory, options.scores)
    parents = _parents(soup.record)
    said = split_front_matter(existing)[0].get("license") if existing is not None else None
    figures = {p.name: p.stem.replace("-", " ").replace("_", " ") for p in sorted(directory.glob("*.png"))}
    facts = CardFacts(repo, soup, scores, parents, choose_license(options.license, parents, said), figures)
    record = (json.dumps(soup.record, indent=2, ensure_ascii=False) + "\n").encode()
    contents: dict[str, bytes | Path] = {
        _CARD: render(facts, existing).encode(),
        CONFIG_NAME: directory / CONFIG_NAME,
        SOUP_NAME: record,
        WEIGHTS_NAME: directory / WEIGHTS_NAME,
        **{p.name: p for p in soup.companions},
        **{name: directory / name for name in figures},
        **{n: directory / n for n in _DOCUMENTS if (directory / n).is_file()},
    }
    if options.scores is not None:
        contents["scores.json"] = options.scores
    if (results := eval_results_file(scores)) is not None:
        contents[".eval_results/soupkit.yaml"] = results
    _refuse_token(contents)
    return dict(sorted(contents.items()))


def _refuse_token(contents: dict[str, bytes | Path]) -> None:
    """Refuse to publish the user's own token, wherever it came from."""
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    for path, content in contents.items():
        if (
            token
            and path != WEIGHTS_NAME
            and token in (content if isinstance(content, bytes) else content.read_bytes())
        ):
            raise UsageError("holds your token", path, "take it out before this is published")


def _parents(record: dict[str, Any]) -> tuple[Parent, ...]:
    """Return the repositories among the ingredients and the base, with the licences that their cards name."""
    things = [*record["ingredients"], *([record["base"]] if record.get("base") else [])]
    refs = dict.fromkeys(HubRef.parse(t["ref"]) for t in things if is_hub(t.get("ref")))
    return tuple(Parent(ref.repo, ref.revision, _license_of(ref)) for ref in refs)


def _license_of(ref: HubRef) -> str | None:
    try:
        with explained(ref):
            data = _api().model_info(ref.repo, revision=ref.revision).card_data
    except HubError:
        return None  # the card then says that no licence is known
    found = data.get("license") if data is not None else None
    return found if isinstance(found, str) else None


def _plan(contents: dict[str, bytes | Path], remote: _Remote | None, *, known: bool) -> tuple[PlannedFile, ...]:
    planned = []
    for path, content in contents.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        file = PlannedFile(path, size, digest, _git_name(content, size))
        there = remote.files.get(path) if remote is not None else None
        status = "new" if there is None else "same" if _is(file, there) else "changed"
        planned.append(replace(file, status=status if known else "unknown"))
    return tuple(planned)


def _git_name(content: bytes | Path, size: int) -> str:
    """Return what git calls a blob: sha1 over its header and bytes."""
    state = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        state.update(content)
    else:
        with content.open("rb") as file:
            while piece := file.read(4 << 20):
                state.update(piece)
    return state.hexdigest()


def _is(file: PlannedFile, there: tuple[str | None, str | None]) -> bool:
    """Whether a file on the Hub has these bytes: large ones are known by sha256, others by git's name."""
    git, sha256 = there
    return sha256 == file.sha256 if sha256 is not None else git == file.git


def _pull_request_with(api: "HfApi", repo: str, contents: dict[str, bytes | Path]) -> tuple[str, str] | None:
    """Return (ref, commit) of an open pull request that already holds these files, None where there is none."""
    with explained(repo):
        try:
            refs = api.list_repo_refs(repo, include_pull_requests=True).pull_requests or []
        except Exception as error:
            if type(error).__name__ == "RepositoryNotFoundError":
                return None
            raise
    for ref in refs[-_PULLS_LOOKED_AT:]:
        held = _look(api, repo, ref.ref)
        if held is not None and all(f.status == "same" for f in _plan(contents, held, known=True)):
            return ref.ref, held.commit
    return None


def _prepare_repository(
    api: "HfApi", repo: str, revision: str, options: PushOptions, main: _Remote | None, branch: _Remote | None
) -> None:
    with explained(repo, writing=True):
        if main is None:
            api.create_repo(repo, private=options.private or None, exist_ok=True)
        if branch is None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)


def _commit(
    api: "HfApi",
    repo: str,
    revision: str,
    contents: dict[str, bytes | Path],
    options: PushOptions,
    remote: _Remote | None,
    progress: Progress,
) -> tuple[str, str | None, str]:
    """Send everything as one commit; returns the commit, the pull request's address, and where to look for it."""
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
    weights = contents[WEIGHTS_NAME]
    assert isinstance(weights, Path)
    progress.note(f"sending to {repo}; the weights are {weights.stat().st_size:,} bytes")
    with explained(f"{repo}, {revision}", writing=True):
        info = api.create_commit(
            repo,
            operations,
            commit_message=options.message or "A soup, made by soupkit",
            revision=revision,
            create_pr=options.create_pr,
            parent_commit=remote.commit if remote is not None else None,
        )
    pull = f"{api.endpoint}/{repo}/discussions/{info.pr_num}" if info.pr_num is not None else None
    return info.oid, pull, info.pr_revision or revision


def _compare(api: "HfApi", repo: str, place: str, files: tuple[PlannedFile, ...], soup: VerifiedSoup) -> None:
    """Compare every checksum with the Hub's, then open the soup there by its header."""
    held = _look(api, repo, place)
    for file in files:
        there = held.files.get(file.path) if held is not None else None
        if there is None or not _is(file, there):
            raise HubError(
                "the Hub does not hold what was sent", f"{repo}, {place}, {file.path}", "delete it there and push again"
            )
    with open_headers(f"{PREFIX}{repo}@{place}") as far, open_checkpoint(soup.directory) as near:
        if [(n, s.dtype, s.shape) for n, s in far.tensors.items()] != [
            (n, s.dtype, s.shape) for n, s in near.tensors.items()
        ]:
            raise CheckpointError("has other tensors on the Hub", f"{repo}, {place}", "push again")


def _tag(api: "HfApi", repo: str, tag: str | None, commit: str) -> None:
    if tag is None:
        return
    with explained(f"{repo}, tag {tag}", writing=True):
        known = {t.name: t.target_commit for t in api.list_repo_refs(repo).tags}
        if tag not in known:
            api.create_tag(repo, tag=tag, revision=commit)
    if known.get(tag, commit) != commit:
        raise HubError("the tag is there and names another commit", f"{repo}, tag {tag}", "choose another --tag")
