"""What names the weights of a merge, put together at its end: fingerprints from the digests that the workers took as
the bytes passed, and sha256 of whole files where it is asked for."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from soupkit.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, combine, tensor_digest
from soupkit.checkpoint.hub import sha256_by_cache
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.merging.journal import SlabKey, SlabResult
from soupkit.merging.plan import Slab
from soupkit.merging.preparation import Prepared
from soupkit.progress import Progress


def fingerprints(prepared: Prepared, slabs: Sequence[Slab], results: Mapping[SlabKey, SlabResult]) -> list[Fingerprint]:
    """Return one fingerprint per source, then the output's, from the digests of every slab's chunks."""
    count = len(prepared.sources) + 1
    chunks: list[dict[str, list[bytes]]] = [{t.name: [] for t in prepared.tensors} for _ in range(count)]
    for slab in slabs:
        for segment, sources in zip(slab.segments, results[slab.key].digests, strict=True):
            for of_source, digests in zip(chunks, sources, strict=True):
                of_source[segment.tensor.name].extend(digests)
    specs = [s.tensors for s in prepared.sources]
    specs.append({t.name: TensorSpec(t.dtype, t.shape, ()) for t in prepared.tensors})
    return [
        combine(spec, {name: tensor_digest(digests) for name, digests in of_source.items()})
        for spec, of_source in zip(specs, chunks, strict=True)
    ]


def sha256_of_files(
    prepared: Prepared, directory: Path, threads: int, progress: Progress
) -> tuple[list[str | None], str | None]:
    """Return the sha256 of each source's file and of the output's in `directory`; None for what lies in shards."""

    def single(paths: list[Path]) -> str | None:
        return sha256_of(paths[0], progress) if len(paths) == 1 else None

    files = [list(s.paths) for s in prepared.sources] + [[directory / f.name for f in prepared.layout.files]]
    progress.start("sha256", sum(p.stat().st_size for paths in files for p in paths if len(paths) == 1), "B")
    with ThreadPoolExecutor(threads) as pool:
        *sources, output = pool.map(single, files)
    progress.finish()
    return sources, output


def sha256_on_hub(source: Checkpoint) -> str | None:
    """Return the sha256 that the Hub names the source's one file by; None for local files and for shards."""
    return sha256_by_cache(source.paths[0]) if len(source.paths) == 1 else None
