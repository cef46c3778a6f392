"""An evaluator is opened once on its tasks, and then asked to score models of one architecture, many times."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.device import choose_device
from soupkit.errors import StorageError, UsageError
from soupkit.evaluation import image_pass
from soupkit.evaluation.adapter import build_model, fill_model, open_tokenizer, preprocess_of
from soupkit.evaluation.classifier import zero_shot_classifier
from soupkit.evaluation.content_digest import digest_of_files
from soupkit.evaluation.outcomes import Hits, Outcome, Ranking, Retrieval, score_of
from soupkit.evaluation.pixel_cache import Pixels, open_pixels
from soupkit.evaluation.prompts import PromptEncoder, fill_templates, tokenize
from soupkit.evaluation.task import Score, Task
from soupkit.evaluation.transform import open_transform
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks

T = TypeVar("T")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = 32
_CUDA_BATCH = 512
_PROMPTS = 256  # encoded together


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    `device` is auto, cpu, cuda or cuda:N; `precision` fp32, bf16 or fp16 (None: fp32 on the CPU, bf16 on CUDA);
    `batch_size` counts images (None: as many as suit the device); `cache` is where pixels, digests and scores are kept,
    None for a temporary place that goes away; `scores` whether scores may come from the cache; `limit` scores that many
    images of a task, evenly spread; `skip_corrupt` leaves out images that cannot be decoded; `compile` has
    `torch.compile` make one program of the image tower, which pays for large models and many images only.
    """

    device: str = "auto"
    precision: str | None = None
    batch_size: int | None = None
    cache: Path | None = None
    scores: bool = True
    limit: int | None = None
    skip_corrupt: bool = False
    compile: bool = False


def default_cache() -> Path:
    """Return where soupkit keeps what it can make again: $SOUPKIT_CACHE, or soupkit in the user's cache directory."""
    if place := os.environ.get("SOUPKIT_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soupkit"


class Evaluator:
    """Scores models of one architecture on fixed tasks. A context manager.

    `model` is a live model of the architecture, with weights of no meaning until `load` or the caller fills its
    parameters in place; nothing is rebuilt when they change. Its pixels and tokens are made when it is opened.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[Task],
        options: EvaluationOptions | None = None,
        *,
        tokenizer_files: tuple[Path, ...] = (),
        where: object = "",
        progress: Progress = SILENT,
        ranks: Ranks | None = None,
    ) -> None:
        """Raises DataError for data that are missing or damaged, StorageError without room for the pixels,
        ArchitectureError or CheckpointError for a config that open_clip cannot build or whose tokenizer's files are not
        among `tokenizer_files`; `where` names it in errors."""
        self.options = options or EvaluationOptions()
        self.tasks = tuple(tasks)
        self._ranks = ranks or Ranks()
        self.device = choose_device(self.options.device, self._ranks.local)
        self.dtype = precision_dtype(self.options.precision, self.device)
        transform = open_transform(preprocess_of(config))
        self._temporary = TemporaryDirectory(prefix="soupkit-") if self.options.cache is None else None
        cache = Path(self._temporary.name) if self._temporary else self.options.cache
        assert cache is not None
        self.pixels: tuple[Pixels, ...] = tuple(
            self._ranks.together(
                lambda task=task: open_pixels(  # type: ignore[misc]
                    task,
                    transform,
                    cache,
                    content_of(task, self.options, progress),
                    limit=self.options.limit,
                    skip_corrupt=self.options.skip_corrupt,
                    progress=progress,
                )
            )
            for task in tasks
        )
        tokenizer = open_tokenizer(config, tokenizer_files, where)
        self._prompts = [tokenize(tokenizer, _texts(t, p)) for t, p in zip(self.tasks, self.pixels, strict=True)]
        self.model: nn.Module = build_model(config, self.device, self.dtype, random=False)
        batch = self.options.batch_size or (_CUDA_BATCH if self.device.type == "cuda" else _CPU_BATCH)
        self._how = image_pass.Pass(self.device, self.dtype, batch, transform.mean, transform.std, self.options.compile)
        self._stride = batch  # what the images are divided by among ranks, also when one of them halves its batch
        self._prompts_together = _PROMPTS
        # Whether a model's prompts go over their prefix tree: asked once, of the first weights it encodes with.
        self._uses_tree: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._loaded = False
        if self.device.type == "cuda" and self.options.batch_size is None:
            # Found before anything is scored, so that all models are scored in batches of one size.
            size = transform.size
            self._fitting(lambda: image_pass.rehearse(self.model, size, self._how), self._halve_images)

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is temporary. Closing twice is harmless."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def load(self, checkpoint: Checkpoint) -> None:
        """Fill the live model with the weights of `checkpoint`, on every rank.

        Raises ArchitectureError where they do not fit, CheckpointError where they cannot be read.
        """
        self._ranks.together(lambda: fill_model(self.model, checkpoint))
        if not self._loaded:  # what was found out before was found out without any weights
            self._uses_tree.pop(self.model, None)
        self._loaded = True

    def score(
        self, model: nn.Module | None = None, *, ref: str = "", fingerprint: str | None = None,
        progress: Progress = SILENT,
    ) -> list[Score]:  # fmt: skip
        """Score the live model, or another of the same architecture on the same device and in the same precision."""
        outcomes = self.outcomes(model, progress=progress)
        return [score_of(o, t, ref, fingerprint) for o, t in zip(outcomes, self.tasks, strict=True)]

    def outcomes(self, model: nn.Module | None = None, *, progress: Progress = SILENT) -> list[Outcome]:
        """Return what the live model, or `model`, does on every task."""
        return [self.run(i, [self.text_side(i, model)], model, progress)[0] for i in range(len(self.tasks))]

    def text_side(self, task: int, model: nn.Module | None = None) -> Tensor:
        """Return what the text tower makes of task number `task`: the classifier, float32 [embed, classes], or for
        retrieval the captions' features, float32 [captions, embed].

        Raises CheckpointError where they are not finite.
        """
        side = self._fitting(lambda: self._text_side(task, model), self._halve_prompts)
        image_pass.check_finite(side.isfinite().all(), "prompts", self.dtype)
        return side

    def _text_side(self, task: int, model: nn.Module | None) -> Tensor:
        encoder = self._encoder(task, model or self.model)
        if self.tasks[task].kind != "retrieval":
            return zero_shot_classifier(encoder, len(self.tasks[task].classnames))
        captions: Tensor | None = None
        rows = self._prompts[task].rows
        for part, features in encoder.parts():
            if captions is None:
                captions = image_pass.on_disk(len(rows), features.shape[1])
            texts = torch.nonzero((rows >= part.start) & (rows < part.stop)).flatten()
            captions[texts] = features.cpu()[rows[texts] - part.start]
        assert captions is not None
        return captions

    def _encoder(self, task: int, model: nn.Module) -> PromptEncoder:
        known = self._uses_tree.get(model)
        encoder = PromptEncoder(model, self._prompts[task], self.device, self._prompts_together, known)
        self._uses_tree[model] = encoder.uses_tree
        return encoder

    def run(
        self, task: int, text_sides: Sequence[Tensor], model: nn.Module | None = None, progress: Progress = SILENT
    ) -> list[Outcome]:
        """Return what one image tower does on task number `task` with each of several `text_sides`, in one pass.

        Under `torchrun` every rank scores its share of the images, and all of them return the whole. Raises
        CheckpointError where features are not finite, StorageError for a damaged pixel cache.
        """
        live, pixels = model or self.model, self.pixels[task]
        kind = self.tasks[task].kind
        rows = self._share(pixels.rows)
        if kind == "retrieval":
            mine = self._on_all(lambda: image_pass.embed(live, pixels, rows, self._how, progress))
            images = image_pass.joined([part for part in mine if len(part)])
            owner = np.repeat(np.arange(len(images)), [len(pixels.captions[r]) for r in pixels.rows])
            return [image_pass.match(images, captions, owner, self.device) for captions in text_sides]
        work = image_pass.rank_labels if kind == "multilabel" else image_pass.classify
        parts: list[list[Outcome]] = self._on_all(
            lambda: work(live, text_sides, pixels, rows, self._how, progress)  # type: ignore[arg-type, return-value]
        )
        return [_joined([part[i] for part in parts]) for i in range(len(text_sides))]

    def _on_all(self, work: Callable[[], T]) -> list[T]:
        """Do `work` with images on every rank, and return what each of them made."""
        mine = self._ranks.together(lambda: self._fitting(work, self._halve_images))
        return self._ranks.gather(mine)

    def hit_blocks(
        self, task: int, rows: np.ndarray, classifier: Tensor, model: nn.Module | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, batch by batch, which of `rows` were scored and their hits (bool), so that a caller can stop early.

        `rows` (int64) are images of classification task number `task` in the order in which they are wanted.
        """
        pixels = self.pixels[task]
        labels = torch.from_numpy(pixels.labels).to(self.device)
        done = 0
        while done < len(rows):
            try:
                for part, features in image_pass.image_features(model or self.model, pixels, rows[done:], self._how):
                    chosen = (features @ classifier).argmax(dim=1)
                    hits = (chosen == labels[torch.from_numpy(part).to(self.device)]).cpu().numpy()
                    done += len(part)
                    yield part, hits
            except torch.OutOfMemoryError as error:
                self._halve_images(error)

    @property
    def stride(self) -> int:
        """How many images go through the model together."""
        return self._stride

    def hits(self, task: int, rows: np.ndarray, classifier: Tensor, progress: Progress = SILENT) -> Hits:
        """Return the live model's hits on `rows` (int64) of classification task number `task`, on this rank alone."""
        return self._fitting(
            lambda: image_pass.classify(self.model, [classifier], self.pixels[task], rows, self._how, progress),
            self._halve_images,
        )[0]

    def _share(self, rows: np.ndarray) -> np.ndarray:
        """Return this rank's part of `rows`: whole batches, so that they hold the same images for any number of
        ranks."""
        batches = -(-len(rows) // self._stride)
        first, last = (batches * r // self._ranks.size * self._stride for r in (self._ranks.rank, self._ranks.rank + 1))
        return rows[first:last]

    def _fitting(self, work: Callable[[], T], halve: Callable[[Exception], None]) -> T:
        """Do `work`; where the device has no room for it, `halve` what it takes together for good and do it again."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                halve(error)
            # Not in the clause above: while it lasts, the failed attempt's tensors do.
            torch.cuda.empty_cache()

    def _halve_images(self, error: Exception) -> None:
        if self._how.batch == 1:
            raise StorageError("has no room for one image", self.device, "another --precision or --device") from error
        self._how = replace(self._how, batch=self._how.batch // 2)

    def _halve_prompts(self, error: Exception) -> None:
        if self._prompts_together == 1:
            raise StorageError("has no room for one prompt", self.device, "another --precision or --device") from error
        self._prompts_together //= 2

    def shared_images(self, first: int, second: int) -> int:
        """Count the images that tasks number `first` and `second` share, byte for byte."""
        one, other = (self.pixels[i] for i in (first, second))
        return len({one.hashes[r] for r in one.rows} & {other.hashes[r] for r in other.rows})


def precision_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype that `precision` means on `device`. Raises UsageError."""
    if precision is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in PRECISIONS:
        raise UsageError(f"{precision!r} is no precision", "--precision", f"one of {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def content_of(task: Task, options: EvaluationOptions, progress: Progress = SILENT) -> str:
    """Return the digest of a task's images and what belongs to them; that of the files is remembered in the cache."""
    memory = options.cache / "content" if options.cache is not None else None
    files = digest_of_files(task.dataset.files(), memory, task.name, progress)
    return xxhash.xxh3_128_hexdigest(f"{files} {task.dataset.beside_files()}".encode())


def _texts(task: Task, pixels: Pixels) -> Iterator[str]:
    if task.kind == "retrieval":
        return (caption for row in pixels.rows for caption in pixels.captions[row])
    return fill_templates(task.classnames, task.templates, task.dataset.place)


def _joined(parts: list[Outcome]) -> Outcome:
    """Put the ranks' parts of one outcome together, in the order of the images."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Ranking):
        ranked = [p for p in parts if isinstance(p, Ranking)]
        return Ranking(np.concatenate([p.scores for p in ranked]), np.concatenate([p.labels for p in ranked]))
    assert not isinstance(first, Retrieval)
    hits = [p for p in parts if isinstance(p, Hits)]
    five = [p.top5 for p in hits if p.top5 is not None]
    return Hits(
        np.concatenate([p.top1 for p in hits]),
        np.concatenate(five) if five else None,
        np.concatenate([p.labels for p in hits]),
    )
