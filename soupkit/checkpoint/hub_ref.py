"""References to the Hub: `hf-hub:ORG/NAME[@REVISION][:FILE-OR-FOLDER]`, as open_clip writes them up to the revision."""

import re
from dataclasses import dataclass

from soupkit.errors import UsageError

PREFIX = "hf-hub:"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubRef:
    """A model repository on the Hub, a branch, tag or commit of it (None: its main branch), and the file or folder in
    it that is meant ("": its root)."""

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return PREFIX + self.repo + revision + (f":{self.path}" if self.path else "")

    @classmethod
    def parse(cls, ref: str) -> "HubRef":
        """Read `hf-hub:ORG/NAME[@REVISION][:FILE-OR-FOLDER]`. Raises UsageError for anything else."""
        name, colon, path = ref.removeprefix(PREFIX).partition(":")
        repo, at, revision = name.partition("@")
        path = path.rstrip("/")
        inside = not path.startswith("/") and ".." not in path.split("/")
        if not _REPO.fullmatch(repo) or (at and not revision) or (colon and not path) or not inside:
            raise UsageError(
                "is not a reference to the Hub",
                ref,
                "write hf-hub:ORG/NAME, hf-hub:ORG/NAME@REVISION, or one of them with :FILE-OR-FOLDER after it",
            )
        return cls(repo, revision or None, path)


def is_hub(ref: object) -> bool:
    """Whether `ref` names a repository on the Hub."""
    return str(ref).startswith(PREFIX)


def is_repo(name: str) -> bool:
    """Whether `name` could be one of a repository, ORG/NAME."""
    return _REPO.fullmatch(name) is not None
