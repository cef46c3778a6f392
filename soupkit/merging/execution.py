"""Carries a prepared merge out: the partial directory, the ranks, the engine, and the last steps before the rename."""

import json
import time
from concurrent.futures import Executor
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import xxhash

from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, TOKENIZER_PATTERNS
from soupkit.checkpoint.partial import PartialDirectory, remove_lock
from soupkit.checkpoint.writer import TensorWriter
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, CheckpointError, StorageError
from soupkit.files import storage_error
from soupkit.merging.engine import Engine, Resumed, choose_workers, one_thread_per_operation
from soupkit.merging.journal import Journal, SlabKey, SlabResult, read_journals
from soupkit.merging.memory import fitting, memory_of_a_worker
from soupkit.merging.output_hashes import fingerprints, sha256_of_files, sha256_on_hub
from soupkit.merging.plan import cut
from soupkit.merging.preparation import Prepared
from soupkit.merging.slab_worker import SlabWorker
from soupkit.merging.soup_directory import SOUP_NAME
from soupkit.merging.survey import SharedPass, Survey, of_the_model
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.text import counted


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
        each = memory_of_a_worker(prepared.tensors, prepared.method, len(prepared.sources), self.device)
        self.workers = fitting(choose_workers(prepared.sources, self.device, threads, ranks), each)
        self.memory = each * self.workers.count
        self.slabs = cut(prepared.tensors, slab_bytes)

    def run(self, *, fresh: bool, sha256: bool) -> tuple[list[Fingerprint], dict[str, float]]:
        """Merge into the partial directory and rename it. Returns the fingerprints of every source and of the output,
        and the seconds that the parts took."""
        partial = PartialDirectory(self.prepared.target, "merge", recognises=_is_a_merge)
        with ExitStack() as held:

            def take() -> None:
                held.enter_context(partial)

            self.ranks.lead(take)
            try:
                return self._pass(partial, fresh=fresh, sha256=sha256)
            except BaseException as error:
                # The same inputs would fail the same way, and weights in memory are not recognised another time:
                # nothing here is worth resuming.
                lasting = all(source.paths for source in self.prepared.sources)
                if self.ranks.leads and (isinstance(error, CheckpointError | ArchitectureError) or not lasting):
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
            done = ranks.lead(self._begin, partial, writer, fresh=fresh)
            ranks.together(self._join, writer)
            known = self._survey()
            surveyed = time.perf_counter()
            results = ranks.together(self._work, writer, journal, done, known)
            worked = time.perf_counter()
            ranks.together(writer.sync)
            synced = time.perf_counter()
            gathered = {key: result for part in ranks.gather(results) for key, result in part.items()}
            prints = fingerprints(self.prepared, self.slabs, gathered)
            ranks.lead(self._finish, partial, writer, prints, fresh=fresh, sha256=sha256)
        finally:
            writer.close()
            journal.close()
        end = time.perf_counter()
        return prints, {
            "merge": synced - begun,
            "survey": surveyed - begun,
            "slabs": worked - surveyed,
            "sync": synced - worked,
            "finish": end - synced,
        }

    def _begin(self, partial: PartialDirectory, writer: TensorWriter, *, fresh: bool) -> dict[SlabKey, SlabResult]:
        """On the first rank: return what an earlier run left, or make room for the output."""
        target = self.prepared.target
        if foreign := foreign_file(partial.path, self.prepared):
            remove_lock(partial.path)
            raise StorageError(f"holds a file that is not soupkit's: {foreign}", partial.path, "move it away")
        if target.exists() and not fresh and any(target.iterdir()):
            if partial.created:
                partial.discard()
            raise StorageError(
                "was written by another run meanwhile", target, "run the same command again: it says what is there"
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

    def _join(self, writer: TensorWriter) -> None:
        """On the other ranks: open the files that the first one has made."""
        if not self.ranks.leads:
            writer.open(create=False)

    def _survey(self) -> dict[str, Any]:
        """Return what the method has to know of the whole model, on every rank."""
        prepared, workers = self.prepared, self.workers
        share = SharedPass(self.ranks, workers.count, workers.forked)
        has_base = prepared.soup.base is not None
        with one_thread_per_operation():
            return of_the_model(Survey(prepared.method, self.slabs, prepared.sources, has_base, self.device, share))

    def _work(
        self, writer: TensorWriter, journal: Journal, done: dict[SlabKey, SlabResult], known: dict[str, Any]
    ) -> dict[SlabKey, SlabResult]:
        prepared = self.prepared
        journal.open()
        mine = self.slabs[self.ranks.rank :: self.ranks.size]
        total = sum((s.stop - s.start) * s.tensor.itemsize for slab in mine for s in slab.segments)
        self.progress.start(f"merging {counted(len(prepared.soup.ingredients), 'checkpoint')}", total, "B")

        def make_worker(writers: Executor) -> SlabWorker:
            return SlabWorker(
                prepared.sources,
                writer,
                writers,
                prepared.method,
                known,
                self.device,
                has_base=prepared.soup.base is not None,
                allow_nonfinite=prepared.allow_nonfinite,
            )

        resumed, configs = Resumed(writer, journal, done), prepared.configs
        watch = configs.look if configs is not None else lambda: None
        results = Engine(make_worker, self.progress, resumed, watch).run(mine, self.workers)
        self.progress.finish()
        if configs is not None:
            configs.wait()
        for source in prepared.sources:
            source.check_unchanged()
        return results

    def _finish(
        self, partial: PartialDirectory, writer: TensorWriter, prints: list[Fingerprint], *, fresh: bool, sha256: bool
    ) -> None:
        """On the first rank: the headers, the companions, `soup.json`, and the rename."""
        prepared = self.prepared
        try:
            writer.finish()
            hashes: list[str | None] = [None] * len(prepared.sources)
            output = None
            if sha256:
                hashes, output = sha256_of_files(prepared, partial.path, self.workers.count, self.progress)
            hashes = [h or sha256_on_hub(s) for h, s in zip(hashes, prepared.sources, strict=True)]
            for file in prepared.side_files:
                file.write(partial.path)
            prepared.document.completed(prints, hashes, output).write(partial.path)
        except OSError as error:
            raise storage_error(error, partial.path, 0) from error
        for path in partial.path.glob("journal-*.jsonl"):
            path.unlink()
        partial.publish(replace=fresh)

    def _plan_key(self) -> str:
        """Name the merge: what decides its bytes, and the files it reads; not how the work is cut and shared."""
        prepared = self.prepared
        files = [source.stamp for checkpoint in prepared.sources for source in checkpoint.files.values()]
        tensors = [[t.name, t.dtype, t.shape, t.inputs, sorted(t.parameters.items())] for t in prepared.tensors]
        layout = [[f.name, f.size] for f in prepared.layout.files]
        count = len(prepared.soup.ingredients)
        given = prepared.document.parameters
        parts = [prepared.method.name, given, files, tensors, layout, prepared.allow_nonfinite, count]
        return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def _is_a_merge(directory: Path) -> bool:
    """Whether an unfinished directory without a mark is one of a merge: it has a journal."""
    return any(directory.glob("journal-*.jsonl"))


def foreign_file(directory: Path, prepared: Prepared) -> str | None:
    """Return a file in a partial directory that no merge would have put there, None where there is none."""
    layout = prepared.layout
    weights = (*(f.name for f in layout.files), OPEN_CLIP_WEIGHTS, "*-of-*.safetensors", layout.index_name)
    beside = (*(file.name.partition("/")[0] for file in prepared.side_files), OPEN_CLIP_CONFIG, *TOKENIZER_PATTERNS)
    patterns = (*weights, *beside, "lock", "journal-*.jsonl", SOUP_NAME)
    unfinished = tuple(f"{pattern}.partial" for pattern in patterns)  # what `write_whole` leaves when it is killed
    return next(
        (p.name for p in directory.iterdir() if not any(fnmatch(p.name, o) for o in (*patterns, *unfinished))), None
    )
