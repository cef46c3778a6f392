"""`push`: a soup becomes a repository on the Hub, in one commit, and is compared with what the Hub then holds."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soupkit.checkpoint import open_checkpoint, open_headers
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.hub_ref import PREFIX, HubRef, is_hub
from soupkit.errors import CheckpointError, HubError, HubUnreachableError, UsageError
from soupkit.files import real_path
from soupkit.progress import SILENT, Progress
from soupkit.publishing.hub.folder import check_folder, plan_folder, sweep, write_folder
from soupkit.publishing.hub.planned_files import Contents, PlannedFile, plan
from soupkit.publishing.hub.readme import read_readme
from soupkit.publishing.hub.repository import CARD, PushOptions, repository_files
from soupkit.publishing.hub.upload import Sent, addition, told_of_xet
from soupkit.publishing.hub.verify import VerifiedSoup, verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["PushOptions", "PushResult", "publish"]

_PULLS_LOOKED_AT = 20
# What git check-ref-format refuses, or takes for an option.
_NO_GIT_NAME = re.compile(r"[\s~^:?*\[\\\x00-\x1f\x7f]|\.\.|@\{|//|\.lock(/|$)|^[-/.]|/\.|[/.]$|^$")


@dataclass(frozen=True, slots=True)
class PushResult:
    """What came of a push. `status` is "pushed", "written" (to `folder`), "unchanged" or "planned"."""

    status: str
    repo: str
    revision: str
    fingerprint: str
    files: tuple[PlannedFile, ...]
    commit: str | None
    url: str | None
    pull_request: str | None
    folder: Path | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the Hub holds at a revision: the commit, and git's name and the sha256 of each file; None: nothing."""

    commit: str
    files: dict[str, tuple[str | None, str | None]]
    private: bool


def publish(
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
    for option, name in (("--revision", options.revision), ("--tag", options.tag)):
        if name is not None and _NO_GIT_NAME.search(name):
            raise UsageError("is no name that git takes", f"{option} {name!r}", "letters, digits, and . - _ / within")
    if options.folder is not None:
        return _into_folder(Path(directory), repo, options, options.folder, progress, started)
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
    contents = repository_files(soup, repo, options, _readme_of(api, repo, remote, soup))
    files = plan(contents, remote.files if remote is not None else {}, known=reached)

    def result(status: str, commit: str | None, pull: str | None = None) -> PushResult:
        url = f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision != "main" else "")
        spent = time.perf_counter() - started
        return PushResult(
            status, repo, revision, soup.fingerprint, tuple(files), commit, url, pull, None, spent, tuple(notes)
        )

    if options.dry_run:
        return result("planned", remote.commit if remote else None)
    if branch is not None and all(f.status == "same" for f in files):
        _tag(api, repo, options.tag, branch.commit)
        return result("unchanged", branch.commit)
    if options.create_pr and (there := _pull_request_with(api, repo, contents)) is not None:
        return result("unchanged", there[1], f"{api.endpoint}/{repo}/discussions/{there[0].rsplit('/', 1)[-1]}")
    progress.note(f"{repo}, {revision}: " + ", ".join(f"{f.path} ({f.size:,} bytes, {f.status})" for f in files))
    _prepare_repository(api, repo, revision, options, main, branch)
    commit, pull, place = _commit(api, repo, revision, contents, files, options, remote, progress)
    _compare(api, repo, place, files, soup)
    _tag(api, repo, options.tag, commit)
    return result("pushed", commit, pull)


def _into_folder(
    directory: Path, repo: str, options: PushOptions, folder: Path, progress: Progress, started: float
) -> PushResult:
    """Lay the repository out in `folder` instead of sending it. Raises what `publish` raises, and StorageError."""
    if given := [k for k in ("private", "revision", "create_pr", "tag", "message") if getattr(options, k)]:
        raise UsageError(f"{', '.join(given)}: nothing is sent to the Hub", "--folder", "leave one of them out")
    if real_path(folder) == real_path(directory):
        raise UsageError("is the soup itself", "--folder", "name another folder")
    check_folder(folder)
    soup = verify(directory, progress)
    own = [place / CARD for place in (directory, folder)]
    readme = next((read_readme(path) for path in own if path.is_file()), None)
    contents = repository_files(soup, repo, options, readme)
    target = real_path(folder)  # a link to a folder stays one
    planned = plan_folder(contents, target)
    status = "planned" if options.dry_run else "unchanged" if planned.unchanged else "written"
    if status == "written":
        write_folder(contents, target, planned, progress)
    elif status == "unchanged":
        sweep(target)
    spent = time.perf_counter() - started
    return PushResult(status, repo, "main", soup.fingerprint, tuple(planned.files), None, None, None, folder, spent)


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


def _readme_of(api: "HfApi", repo: str, remote: _Remote | None, soup: VerifiedSoup) -> str | None:
    """Return the README that is to be renewed: the one beside the soup, or else the one on the Hub."""
    local = soup.directory / CARD
    if local.is_file():
        return read_readme(local)
    if remote is None or CARD not in remote.files:
        return None
    with explained(f"{repo}, {CARD}"):
        downloaded = api.hf_hub_download(repo, CARD, revision=remote.commit)
    return read_readme(Path(downloaded))


def _pull_request_with(api: "HfApi", repo: str, contents: Contents) -> tuple[str, str] | None:
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
        if held is not None and all(f.status == "same" for f in plan(contents, held.files, known=True)):
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
    api: "HfApi", repo: str, revision: str, contents: Contents, files: list[PlannedFile], options: PushOptions,
    remote: _Remote | None, progress: Progress,
) -> tuple[str, str | None, str]:  # fmt: skip
    """Send everything as one commit; returns the commit, the pull request's address, and where to look for it."""
    sent = Sent(progress, sum(file.size for file in files if file.status != "same"), repo)
    with sent, explained(f"{repo}, {revision}", writing=True), told_of_xet(sent):
        info = api.create_commit(
            repo,
            [addition(path, file.content, sent) for path, file in contents.items()],
            commit_message=options.message or "A soup, made by soupkit",
            revision=revision,
            create_pr=options.create_pr,
            parent_commit=remote.commit if remote is not None else None,
        )
        sent.all()
    pull = f"{api.endpoint}/{repo}/discussions/{info.pr_num}" if info.pr_num is not None else None
    return info.oid, pull, info.pr_revision or revision


def _compare(api: "HfApi", repo: str, place: str, files: list[PlannedFile], soup: VerifiedSoup) -> None:
    """Compare every checksum with the Hub's, then open the soup there by its header."""
    held = _look(api, repo, place)
    for file in files:
        there = held.files.get(file.path) if held is not None else None
        if there is None or not file.is_held(there):
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
