"""Carries a prepared merge out: the partial directory, the ranks, the engine, and the last steps before the rename."""

import json
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import xxhash

from soupkit.checkpoint import Checkpoint, open_checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, combine, fingerprint, tensor_digest
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_OUTPUT, TOKENIZER_PATTERNS
from soupkit.checkpoint.hub import sha256_by_cache
from soupkit.checkpoint.partial import PartialDirectory, remove_lock
from soupkit.checkpoint.sha256 import sha256_of
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.checkpoint.writer import OutputLayout, TensorWriter
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, CheckpointError, StorageError
from soupkit.merging.engine import Engine, choose_workers
from soupkit.merging.journal import Journal, SlabKey, SlabResult, read_journals
from soupkit.merging.plan import cut
from soupkit.merging.preparation import Prepared
from soupkit.merging.slab_worker import SlabWorker
from soupkit.merging.soup_directory import (
    SOUP_NAME,
    read_config,
    read_soup_json,
    same_recipe,
    write_companions,
    write_soup_json,
)
from soupkit.progress import Progress
from soupkit.ranks import Ranks


class Execution:
    """One merge on its way to disk, in one process of `ranks`."""

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        threads: int | None,
        slab_bytes: int,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self.prepared = prepared
        self.ranks = ranks
        self.progress = progress
        self.device = choose_device(device, ranks.local)
        self.workers = choose_workers(prepared.sources, self.device, threads, ranks)
        self.slabs = cut(prepared.tensors, slab_bytes, whole=prepared.method.scope == "tensor")
        self.target = prepared.request.output

    def existing_output(self, *, fresh: bool) -> list[Fingerprint] | None:
        """Return the fingerprints of a finished output of the same merge, None where the way is free.

        Raises StorageError when something else is at the target. With `fresh`, a soup at the target is no obstacle.
        """
        if not self.target.exists() or (self.target.is_dir() and not any(self.target.iterdir())):
            return None
        document = read_soup_json(self.target)
        if document is None:
            raise StorageError(
                "is there already and is not a soup",
                self.target,
                "choose another -o, or move it out of the way yourself",
            )
        remove_lock(self.target)
        if fresh:
            return None
        other = StorageError("holds another soup", self.target, "choose another -o, or replace it with --fresh")
        shape = self._document([Fingerprint("", "", "")] * (len(self.prepared.sources) + 1), {})
        if [document.get(k) for k in ("method", "dtype", "parameters")] != [
            _as_json(shape[k]) for k in ("method", "dtype", "parameters")
        ]:
            raise other
        prints = [fingerprint(s, threads=self.workers.count, progress=self.progress) for s in self.prepared.sources]
        with open_checkpoint(self.target) as soup:
            prints.append(fingerprint(soup, threads=self.workers.count, progress=self.progress))
        if not same_recipe(document, _as_json(self._document(prints, {}))) or not self._same_files():
            raise other
        if document.get("output", {}).get("fingerprint") != prints[-1].value:
            raise StorageError(
                "holds this soup, but its weights are not those that were written",
                self.target,
                "make it anew with --fresh",
            )
        return prints

    def _same_files(self) -> bool:
        """Whether the output at the target has the config and the files of weights that this merge would write."""
        names = {p.name for p in self.target.glob("*.safetensors")}
        config = read_config(self.target)
        return config == self.prepared.agreement.config and names == {f.name for f in self.prepared.layout.files}

    def run(self, *, fresh: bool, sha256: bool) -> tuple[list[Fingerprint], dict[str, float]]:
        """Merge into the partial directory and rename it. Returns the fingerprints of every source and of the output,
        and the seconds that the parts took."""
        partial = PartialDirectory(self.target)
        with ExitStack() as held:

            def take() -> None:
                held.enter_context(partial)

            self.ranks.lead(take)
            try:
                return self._pass(partial, fresh=fresh, sha256=sha256)
            except (CheckpointError, ArchitectureError):
                # The same inputs would fail the same way: nothing here is worth resuming.
                if self.ranks.leads:
                    partial.discard()
                raise

    def _pass(
        self, partial: PartialDirectory, *, fresh: bool, sha256: bool
    ) -> tuple[list[Fingerprint], dict[str, float]]:
        ranks = self.ranks
        writer = TensorWriter(partial.path, self.prepared.layout)
        journal = Journal(partial.path, ranks.rank, self._plan_key())
        begun = time.perf_counter()
        try:
            done = ranks.lead(lambda: self._begin(partial, writer, fresh=fresh))
            ranks.together(lambda: None if ranks.leads else writer.open(create=False))
            results = ranks.together(lambda: self._work(writer, journal, done))
            worked = time.perf_counter()
            ranks.together(writer.sync)
            synced = time.perf_counter()
            gathered = {key: result for part in ranks.gather(results) for key, result in part.items()}
            prints = self._fingerprints(gathered)
            ranks.lead(lambda: self._finish(partial, writer, prints, fresh=fresh, sha256=sha256))
        finally:
            writer.close()
            journal.close()
        end = time.perf_counter()
        return prints, {
            "merge": synced - begun,
            "slabs": worked - begun,
            "sync": synced - worked,
            "finish": end - synced,
        }

    def _begin(self, partial: PartialDirectory, writer: TensorWriter, *, fresh: bool) -> dict[SlabKey, SlabResult]:
        """On the first rank: find what an earlier run left, or make room for the output."""
        if foreign := _foreign(partial.path, self.prepared.layout):
            remove_lock(partial.path)
            raise StorageError(f"holds a file that is not soupkit's: {foreign}", partial.path, "move it away")
        if self.target.exists() and not fresh and any(self.target.iterdir()):
            if partial.created:
                partial.discard()
            raise StorageError(
                "was written by another run meanwhile", self.target, "run the same command again: it says what is there"
            )
        if fresh:
            partial.clear()
        done = read_journals(partial.path, self._plan_key())
        resumes = all((partial.path / f.name).exists() for f in self.prepared.layout.files)
        if not resumes or not done:
            done = {}
            partial.clear()
        try:
            writer.open(create=not done)
        except StorageError:
            if not done:
                partial.discard()
            raise
        if done:
            self.progress.note(f"resuming: {len(done)} of {len(self.slabs)} slabs were finished before")
        return done

    def _work(
        self, writer: TensorWriter, journal: Journal, done: dict[SlabKey, SlabResult]
    ) -> dict[SlabKey, SlabResult]:
        request = self.prepared.request
        journal.open()
        mine = self.slabs[self.ranks.rank :: self.ranks.size]
        total = sum((s.stop - s.start) * s.tensor.itemsize for slab in mine for s in slab.segments)
        self.progress.start(f"merging {len(request.ingredients)} checkpoints", total, "B")

        def make_worker(writers: Executor) -> SlabWorker:
            return SlabWorker(
                self.prepared.sources,
                writer,
                writers,
                self.prepared.method,
                self.device,
                has_base=request.base is not None,
                allow_nonfinite=request.allow_nonfinite,
            )

        results = Engine(make_worker, writer, journal, done, self.progress).run(mine, self.workers)
        self.progress.finish()
        for source in self.prepared.sources:
            source.check_unchanged()
        return results

    def _fingerprints(self, results: dict[SlabKey, SlabResult]) -> list[Fingerprint]:
        """Put the chunks' digests together: one fingerprint per source, and the output's."""
        count = len(self.prepared.sources) + 1
        chunks: list[dict[str, list[bytes]]] = [{t.name: [] for t in self.prepared.tensors} for _ in range(count)]
        for slab in self.slabs:
            for segment, sources in zip(slab.segments, results[slab.key].digests, strict=True):
                for known, digests in zip(chunks, sources, strict=True):
                    known[segment.tensor.name].extend(digests)
        specs = [s.tensors for s in self.prepared.sources]
        specs.append({t.name: TensorSpec(t.dtype, t.shape, ()) for t in self.prepared.tensors})
        return [
            combine(spec, {name: tensor_digest(digests) for name, digests in known.items()})
            for spec, known in zip(specs, chunks, strict=True)
        ]

    def _finish(
        self, partial: PartialDirectory, writer: TensorWriter, prints: list[Fingerprint], *, fresh: bool, sha256: bool
    ) -> None:
        """On the first rank: the headers, the companions, `soup.json`, and the rename."""
        try:
            writer.finish()
            hashes: dict[str, str | None] = self._sha256(partial.path) if sha256 else {}
            write_companions(partial.path, self.prepared.agreement.config, self.prepared.tokenizer_files)
            write_soup_json(partial.path, self._document(prints, hashes))
        except OSError as error:
            raise StorageError(f"cannot be written: {error.strerror}", partial.path) from error
        for path in partial.path.glob("journal-*.jsonl"):
            path.unlink()
        partial.publish(replace=fresh)

    def _document(self, prints: list[Fingerprint], hashes: dict[str, str | None]) -> dict[str, Any]:
        sources = [hashes.get(s.ref) or _sha256_on_hub(s) for s in self.prepared.sources]
        return self.prepared.record.document(prints[:-1], sources, prints[-1], hashes.get(""))

    def _sha256(self, directory: Path) -> dict[str, str | None]:
        """Return the sha256 of each source's file and, under "", of the output's; None for what lies in shards."""

        def single(paths: list[Path]) -> str | None:
            return sha256_of(paths[0], self.progress) if len(paths) == 1 else None

        places = {s.ref: list(s.files) for s in self.prepared.sources}
        places[""] = [directory / f.name for f in self.prepared.layout.files]
        self.progress.start("sha256", sum(p.stat().st_size for ps in places.values() for p in ps if len(ps) == 1), "B")
        with ThreadPoolExecutor(self.workers.count) as pool:
            hashes = dict(zip(places, pool.map(single, places.values()), strict=True))
        self.progress.finish()
        return hashes

    def _plan_key(self) -> str:
        """Name the merge: what decides its bytes, and the files it reads; not how the work is cut and shared."""
        prepared, request = self.prepared, self.prepared.request
        files = [
            [str(f.path.resolve()), f.size, f.mtime_ns, f.inode] for s in prepared.sources for f in s.files.values()
        ]
        tensors = [[t.name, t.dtype, t.shape, t.inputs, sorted(t.parameters.items())] for t in prepared.tensors]
        layout = [[f.name, f.size] for f in prepared.layout.files]
        parts = [prepared.method.name, files, tensors, layout, request.allow_nonfinite, len(request.ingredients)]
        return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def _sha256_on_hub(source: Checkpoint) -> str | None:
    """Return the sha256 that the Hub knows the source's one file by; None for local files and for shards."""
    return sha256_by_cache(next(iter(source.files))) if len(source.files) == 1 else None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _foreign(directory: Path, layout: OutputLayout) -> str | None:
    """Return a file in a partial directory that no merge would have put there, None where there is none."""
    weights = (*(f.name for f in layout.files), OPEN_CLIP_OUTPUT.weights, "model-*-of-*.safetensors", layout.index_name)
    patterns = (*weights, "lock", "journal-*.jsonl", OPEN_CLIP_CONFIG, SOUP_NAME, *TOKENIZER_PATTERNS)
    return next((p.name for p in directory.iterdir() if not any(fnmatch(p.name, o) for o in patterns)), None)
