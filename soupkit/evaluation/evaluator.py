"""An evaluator is opened once on its tasks, and then asked to score models of one architecture, many times."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.device import choose_device
from soupkit.errors import StorageError
from soupkit.evaluation import image_pass
from soupkit.evaluation.adapter import build_model, fill_model, logit_scale
from soupkit.evaluation.calibration import with_chances
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.head_models import build_head, fill_head, tensors_by_file_names
from soupkit.evaluation.head_transform import transform_of
from soupkit.evaluation.heads import is_head
from soupkit.evaluation.loss_gradient import LossGradient
from soupkit.evaluation.metrics import needs
from soupkit.evaluation.options import EvaluationOptions, precision_dtype
from soupkit.evaluation.outcomes import Hits, Outcome, score_of
from soupkit.evaluation.pixel_cache import open_pixels
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.task import Score, Task
from soupkit.evaluation.task_runs import TASK_RUNS
from soupkit.evaluation.text_sides import HeadSides, PromptSides, TextSides
from soupkit.evaluation.transform import Transform
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks
from soupkit.scratch import ScratchDirectory

T = TypeVar("T")
_CPU_BATCH = 32
_CUDA_BATCH = 512
_ROOM_HINT = "choose another --precision or --device"


class Evaluator:
    """Scores models of one architecture on fixed tasks. A context manager.

    `model` is a live model of the architecture, with weights of no meaning until `load` or the caller fills its
    parameters in place; nothing is rebuilt when they change. Its pixels and tokens are made when it is opened.

    >>> from soupkit.evaluation import open_tasks
    >>> with soupkit.open_checkpoint("runs/a") as checkpoint:
    ...     how = soupkit.EvaluationOptions(device="cpu", limit=20)
    ...     with soupkit.Evaluator(checkpoint.config, open_tasks(["digits"]), how) as evaluator:
    ...         evaluator.load(checkpoint)
    ...         [(score.task, score.n) for score in evaluator.score(ref="runs/a")]
    [('digits', 20)]
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
        self._config, head = config, is_head(config)
        transform = transform_of(config, where)
        self._temporary = ScratchDirectory() if self.options.cache is None else None
        cache = Path(self._temporary.name) if self._temporary else self.options.cache
        assert cache is not None
        self.pixels: tuple[Pixels, ...] = tuple(
            self._ranks.together(self._open_pixels, task, transform, cache, progress) for task in tasks
        )
        self._sides: TextSides = (
            HeadSides(self.tasks, config, self.device, where)
            if head
            else PromptSides(self.tasks, self.pixels, config, tokenizer_files, self.device, where)
        )
        self.model: nn.Module = (
            build_head(config, self.device, self.dtype)
            if head
            else build_model(config, self.device, self.dtype, random=False, progress=progress)
        )
        batch = self.options.batch_size or (_CUDA_BATCH if self.device.type == "cuda" else _CPU_BATCH)
        self._how = image_pass.Pass(
            self.device, self.dtype, batch, transform.mean, transform.std, self.options.compile, head
        )
        self._stride = batch  # what the images are divided by among ranks, also when one of them halves its batch
        self._loaded = False
        self.scale = 1.0  # what the weights that were loaded multiply cosines by
        if self.device.type == "cuda" and self.options.batch_size is None:
            # Found before anything is scored, so that all models are scored in batches of one size.
            size = transform.size
            self._fitting(lambda: image_pass.rehearse(self.model, size, self._how), self._halve_images)

    def _open_pixels(self, task: Task, transform: Transform, cache: Path, progress: Progress) -> Pixels:
        content = content_of(task, self.options, progress)
        return open_pixels(
            task, transform, cache, content,
            limit=self.options.limit, skip_corrupt=self.options.skip_corrupt, progress=progress,
        )  # fmt: skip

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
        self._ranks.together(self._fill, checkpoint)
        if not self._loaded:  # what was found out before was found out without any weights
            self._sides.weights_came(self.model)
        self._loaded = True
        self._how = replace(self._how, subject=checkpoint.ref)
        self.scale = self._ranks.together(logit_scale, self.model, checkpoint)

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Return the live model's tensors under the names that `checkpoint`, of its architecture, has for them: what is
        written into them is in the model."""
        if is_head(self._config):
            return tensors_by_file_names(self.model, self._config, checkpoint)
        return dict(self.model.state_dict())

    def _fill(self, checkpoint: Checkpoint) -> None:
        if is_head(self._config):
            fill_head(self.model, self._config, checkpoint)
        else:
            fill_model(self.model, checkpoint)

    def score(
        self, model: nn.Module | None = None, *, ref: str = "", fingerprint: str | None = None,
        progress: Progress = SILENT,
    ) -> list[Score]:  # fmt: skip
        """Score the live model, or another of the same architecture on the same device and in the same precision."""
        outcomes = self.outcomes(model, progress=progress)
        return [score_of(outcome, task, ref, fingerprint) for outcome, task in zip(outcomes, self.tasks, strict=True)]

    def outcomes(self, model: nn.Module | None = None, *, progress: Progress = SILENT) -> list[Outcome]:
        """Return what the live model, or `model`, does on every task."""
        outcomes = [self.run(i, [self.text_side(i, model)], model, progress)[0] for i in range(len(self.tasks))]
        return [with_chances(outcome, logit_scale(model or self.model)) for outcome in outcomes]

    def text_side(self, task: int, model: nn.Module | None = None) -> Tensor:
        """Return what images are compared with on task number `task`: the classifier, float32 [embed, classes], for
        retrieval the captions' features, float32 [captions, embed], and for a model with a head what picks the task's
        classes, float32 [outputs, classes].

        Raises CheckpointError where they are not finite.
        """
        side = self._fitting(partial(self._sides.of, task, model or self.model), self._sides.halve)
        image_pass.check_finite(side.isfinite().all(), "prompts", self._how)
        return side

    def run(
        self, task: int, text_sides: Sequence[Tensor], model: nn.Module | None = None, progress: Progress = SILENT
    ) -> list[Outcome]:
        """Return what one image tower does on task number `task` with each of several `text_sides`, in one pass.

        Under `torchrun` every rank scores its share of the images, and all of them return the whole. Raises
        CheckpointError where features are not finite, StorageError for a damaged pixel cache.
        """
        live, pixels, kind = model or self.model, self.pixels[task], TASK_RUNS[self.tasks[task].kind]
        rows = self._share(pixels.rows)
        keep_logits = any(needs(self.tasks[task], what) for what in ("logits", "chances"))

        def look() -> Any:
            how = replace(self._how, keep_logits=keep_logits)
            return kind.look(live, text_sides, pixels, rows, how, progress)

        parts = self._ranks.gather(self._ranks.together(self._fitting, look, self._halve_images))
        return kind.outcomes(parts, text_sides, pixels, self.device)

    def features(self, task: int, rows: np.ndarray, progress: Progress = SILENT) -> Tensor:
        """Return the live model's features of images `rows` (int64 [n]) of task number `task`, float32 [n, embed] of
        length one, on disk. Under `torchrun` every rank takes its share, and all of them return the whole."""

        def look() -> Tensor:
            return image_pass.embed(self.model, self.pixels[task], self._share(rows), self._how, progress)

        parts = self._ranks.gather(self._ranks.together(self._fitting, look, self._halve_images))
        return image_pass.joined([part for part in parts if len(part)])

    @property
    def how(self) -> image_pass.Pass:
        """How images go through the model."""
        return self._how

    @property
    def stride(self) -> int:
        """How many images go through the model together."""
        return self._stride

    def hits(
        self, task: int, rows: np.ndarray, classifier: Tensor, progress: Progress = SILENT, *, keep_logits: bool = False
    ) -> Hits:
        """Return the live model's hits on `rows` (int64) of classification task number `task`, on this rank alone; with
        `keep_logits` the logits as well."""

        def look() -> list[Hits]:
            how = replace(self._how, keep_logits=keep_logits)
            return image_pass.classify(self.model, [classifier], self.pixels[task], rows, how, progress)

        return self._fitting(look, self._halve_images)[0]

    def loss_gradient(self) -> LossGradient:
        """Return what differentiates the live model's loss on the classification tasks."""
        return LossGradient(self.model, self._sides, self.pixels, self._how)

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
            raise StorageError("has no room for one image", self.device, _ROOM_HINT) from error
        self._how = replace(self._how, batch=self._how.batch // 2)

    def shared_images(self, first: int, second: int) -> int:
        """Count the images that tasks number `first` and `second` share, byte for byte."""
        one, other = (self.pixels[i] for i in (first, second))
        return len({one.hashes[r] for r in one.rows} & {other.hashes[r] for r in other.rows})
