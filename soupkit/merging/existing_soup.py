"""What is at the target of a merge already: nothing, the same soup, or something else, which is an error."""

from pathlib import Path

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG
from soupkit.checkpoint.partial import sweep
from soupkit.checkpoint.reference import open_adapter
from soupkit.errors import StorageError
from soupkit.merging.preparation import Prepared
from soupkit.merging.soup_directory import SoupDocument
from soupkit.progress import Progress


def existing_soup(prepared: Prepared, *, fresh: bool, threads: int, progress: Progress) -> list[Fingerprint] | None:
    """Return the fingerprints of the sources and of the output where the same merge is finished already; None where
    the way is free.

    Raises StorageError when something else is at the target. With `fresh`, a soup at the target is no obstacle.
    """
    target = prepared.target
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    written = SoupDocument.read(target)
    if written is None:
        raise StorageError(
            "is there already and is not a soup", target, "choose another -o, or move it out of the way yourself"
        )
    sweep(target)
    if fresh:
        return None
    other = StorageError("holds another soup", target, "choose another -o, or replace it with --fresh")
    if not written.is_made_like(prepared.document):
        raise other
    prints = [fingerprint(source, threads=threads, progress=progress) for source in prepared.sources]
    with open_adapter(target) or open_checkpoint(target) as soup:
        prints.append(fingerprint(soup, threads=threads, progress=progress))
    complete = prepared.document.completed(prints, [None] * len(prepared.sources), None)
    if not written.is_same_soup(complete) or not _has_the_files(target, prepared):
        raise other
    if written.output.fingerprint != prints[-1].value:
        raise StorageError(
            "holds this soup, but its weights are not those that were written", target, "make it anew with --fresh"
        )
    return prints


def _has_the_files(target: Path, prepared: Prepared) -> bool:
    """Whether `target` has the files of weights, and beside them the files, that this merge would write."""
    names = {p.name for p in target.glob("*.safetensors")}
    beside = all(file.is_in(target) for file in prepared.side_files)
    configured = prepared.agreement.config is not None or not (target / OPEN_CLIP_CONFIG).exists()
    return beside and configured and names == {f.name for f in prepared.layout.files}
