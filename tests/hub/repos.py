"""What a small Hub keeps: repositories whose refs name commits, commits that are snapshots of files."""

import hashlib
from dataclasses import dataclass, field

TOKEN = "hf_" + "secretsecretsecret"
READ_TOKEN = "hf_" + "readonlyreadonly"
PART = 1 << 20  # bytes of one part of a multipart upload
USER = "org"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, size: int) -> bool:
    return size > 0 and (size >= 1 << 20 or path.endswith((".safetensors", ".bin", ".pt", ".png")))


@dataclass
class Repo:
    """A repository: refs (branches, tags and pull requests) name commits, commits are snapshots of files."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str, message: str) -> str:
        text = repr((sorted((p, git_hash(b)) for p, b in files.items()), ref, message, len(self.commits)))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.messages[oid] = message
        (self.pulls if ref.startswith("refs/pr/") else self.branches)[ref] = oid
        return oid

    def find(self, revision: str) -> str | None:
        for names in (self.branches, self.tags, self.pulls):
            if revision in names:
                return names[revision]
        return revision if revision in self.commits else None
