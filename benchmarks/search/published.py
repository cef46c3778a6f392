"""The greedy soup as the published scripts make it (Wortsman et al. 2022, recipe 1), to compare a search with.

Every trial loads the ingredient, averages it into the soup's weights, builds a model from them, makes its classifier
with open_clip's own function, and decodes and scores every image. What the scripts read from a held-out set's loader is
read here from a task of soupkit's, in `workers` loader processes.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from soupkit.evaluation.task import Task

_BATCH = 32


@dataclass
class Clock:
    """Seconds by what they were spent on; `now` is the clock that is looked at."""

    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        started = self.now()
        yield
        self.seconds[name] += self.now() - started


class _Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, task: Task, transform: object) -> None:
        self._task, self._transform = task, transform

    def __len__(self) -> int:
        return len(self._task.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self._task.dataset.read(index)
        return self._transform(Image.open(io.BytesIO(sample.data)).convert("RGB")), sample.label  # type: ignore[operator]


class PublishedSearch:
    """Scores weights of one architecture on one task, from nothing every time."""

    def __init__(self, directory: str, task: Task, workers: int, clock: Clock) -> None:
        """`directory` is an open_clip directory: its config says what is built, and its weights are not looked at."""
        self._name, self._task, self._workers, self.clock = f"local-dir:{directory}", task, workers, clock
        self._tokenizer = open_clip.get_tokenizer(self._name)
        _, _, self._transform = open_clip.create_model_and_transforms(self._name, load_weights=False)

    @torch.inference_mode()
    def hits(self, state: dict[str, Tensor]) -> int:
        """Build the model with the weights `state`, and count the images that it gets right."""
        with self.clock.at("build"):
            model = open_clip.create_model(self._name, load_weights=False)
            model.load_state_dict(state)
            model.eval()
        with self.clock.at("classifier"):
            templates = [lambda c, t=t: t.replace("{c}", c) for t in self._task.templates]
            head = open_clip.build_zero_shot_classifier(
                model, self._tokenizer, self._task.classnames, templates, device="cpu"
            )
        right = 0
        with self.clock.at("images"):
            for images, labels in DataLoader(_Images(self._task, self._transform), _BATCH, num_workers=self._workers):
                right += int(((model.encode_image(images, normalize=True) @ head).argmax(dim=1) == labels).sum())
        return right

    def load(self, ref: str) -> dict[str, Tensor]:
        """Read the weights of an ingredient."""
        with self.clock.at("load and average"):
            return load_file(f"{ref}/open_clip_model.safetensors")

    def greedy(self, refs: Sequence[str]) -> tuple[list[str], int]:
        """Return the greedy soup of `refs`, in the order in which it was made, and its hits."""
        alone = {ref: self.hits(self.load(ref)) for ref in refs}
        order = sorted(refs, key=lambda ref: -alone[ref])
        soup, best, kept = [order[0]], alone[order[0]], self.load(order[0])
        for candidate in order[1:]:
            new = self.load(candidate)
            with self.clock.at("load and average"):
                n = len(soup)
                tried = {k: kept[k] * (n / (n + 1)) + new[k] * (1 / (n + 1)) for k in kept}
            score = self.hits(tried)
            if score >= best:
                soup, best, kept = [*soup, candidate], score, tried
        return soup, best
