"""Short names of models, for tables and figures."""

from collections.abc import Sequence
from pathlib import Path


def short_names(refs: Sequence[str]) -> dict[str, str]:
    """Return each reference without the directories that all of them share."""
    if len(refs) < 2:
        return {ref: ref for ref in refs}
    parts = [Path(ref).parts for ref in refs]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return {ref: str(Path(*p[shared:])) for ref, p in zip(refs, parts, strict=True)}
