"""The sums that statistics are made of: squared gradients of a likelihood, and products of what goes into layers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.towers import is_image
from soupkit.errors import DataError
from soupkit.evaluation.candidates import Candidate
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import is_head
from soupkit.evaluation.image_pass import check_finite, normalise, scale_and_shift
from soupkit.evaluation.layer_inputs import LayerInputs
from soupkit.progress import Progress


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is loaded, and the images of its evaluator's task number `task`, which it is shown; `labels`,
    "sampled" with `seed` or "true", are whose likelihood counts. Raises DataError for a task without images."""

    evaluator: Evaluator
    checkpoint: Checkpoint
    candidate: Candidate
    labels: str
    seed: int
    progress: Progress
    task: int = 0

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise DataError("has no images", self.evaluator.tasks[self.task].name, "name a split with images")

    @property
    def rows(self) -> np.ndarray:
        """The images, int64 [n]."""
        return self.evaluator.pixels[self.task].rows

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.evaluator.device

    def encode(self, images: Tensor) -> Tensor:
        """Return features [n, embed], or a head's outputs, of images [n, 3, height, width]."""
        return self.evaluator.how.tower(self.evaluator.model)(images)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the live parameters of the image tower, or of all of a model with a head, by their checkpoint's
        names."""
        head = is_head(self.candidate.config)
        live = {(p.data_ptr(), p.shape): p for p in self.evaluator.model.parameters()}
        named = {
            name: live.get((tensor.data_ptr(), tensor.shape))
            for name, tensor in self.evaluator.tensors(self.checkpoint).items()
            if head or is_image(name)
        }
        return {name: parameter for name, parameter in named.items() if parameter is not None}

    def batches(self, size: int | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield which of the images a batch holds, and their pixels [n, 3, height, width], normalised."""
        pixels, how = self.evaluator.pixels[self.task], self.evaluator.how
        _, height, width, channels = pixels.images.shape
        scale, shift = scale_and_shift(how, width)
        for start in range(0, len(self.rows), size or how.batch):
            part = self.rows[start : start + (size or how.batch)]
            stored = torch.from_numpy(pixels.take(part)).view(len(part), height, width * channels)
            x = torch.empty(len(part), height, width * channels, device=how.device)
            normalise(x, stored.to(how.device), scale, shift)
            yield part, x.view(len(part), height, width, channels).permute(0, 3, 1, 2).to(how.dtype)
            self.progress.advance(len(part))

    def blank(self) -> Tensor:
        """Return one image without content, [1, 3, height, width]."""
        size = (1, *self.evaluator.pixels[self.task].images.shape[1:])
        return torch.zeros(size, device=self.device, dtype=self.evaluator.how.dtype).permute(0, 3, 1, 2)


class Shown(Protocol):
    """What Grams are collected of: a live model and images, as `Subject` has them."""

    @property
    def rows(self) -> np.ndarray: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def encode(self, images: Tensor) -> Tensor: ...  # noqa: D102
    def parameters(self) -> Mapping[str, nn.Parameter]: ...  # noqa: D102
    def batches(self) -> Iterator[tuple[np.ndarray, Tensor]]: ...  # noqa: D102
    def blank(self) -> Tensor: ...  # noqa: D102


class FisherSums:
    """Squared gradients of the log-likelihood, image by image."""

    transposed: frozenset[str] = frozenset()

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._parameters = subject.parameters()
        evaluator = subject.evaluator
        with torch.inference_mode():
            side = evaluator.text_side(0)
        self._classifier = side.clone() * (1.0 if is_head(subject.candidate.config) else evaluator.scale)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what is collected, by the names of weights."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def of(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the mean squared gradients of these parameters, float64."""
        subject = self.subject
        chosen = [self._parameters[name] for name in names]
        sums = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in chosen]
        generator = torch.Generator().manual_seed(subject.seed)
        labels = subject.evaluator.pixels[0].labels
        for parameter in chosen:
            parameter.requires_grad_(True)
        try:
            for part, image in subject.batches(1):
                chances = self._log_likelihood(image)
                label = int(labels[part[0]])
                if subject.labels == "sampled":
                    label = int(torch.multinomial(chances.detach().exp().cpu(), 1, generator=generator))
                for total, slope in zip(
                    sums, torch.autograd.grad(chances[label], chosen, allow_unused=True), strict=True
                ):
                    if slope is not None:
                        total.add_(slope.double().square_())
        finally:
            for parameter in chosen:
                parameter.requires_grad_(False)
        return {name: total / len(subject.rows) for name, total in zip(names, sums, strict=True)}

    def _log_likelihood(self, image: Tensor) -> Tensor:
        """Return log p of each class [classes] for an image [1, 3, height, width]."""
        features = self.subject.encode(image).float()
        if not is_head(self.subject.candidate.config):
            features = normalize(features, dim=-1)
        logits = features @ self._classifier
        check_finite(logits.isfinite().all(), "images", self.subject.evaluator.how)
        return log_softmax(logits, dim=-1)[0]


class _AllSeen(Exception):
    """Ends a pass through a model behind the last layer that is asked for."""


class GramSums:
    """Mean x x' of each linear layer's inputs x."""

    def __init__(self, subject: Shown) -> None:
        self.subject = subject
        self._names = {(p.data_ptr(), p.shape): name for name, p in subject.parameters().items() if p.ndim == 2}
        self._widths: dict[str, int] = {}  # in the order in which the model comes to the layers
        self._uses: Counter[str] = Counter()  # by one pass: a weight may serve several layers
        self.transposed: set[str] = set()

        def look(name: str, inputs: Tensor, transposed: bool) -> None:
            self._widths[name] = inputs.shape[-1]
            self._uses[name] += 1
            if transposed:
                self.transposed.add(name)

        with torch.inference_mode(), LayerInputs(self._names, look):
            subject.encode(subject.blank())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what is collected, by the names of weights, in the order of their layers."""
        return {name: (width, width) for name, width in self._widths.items()}

    def of(self, names: Sequence[str], *, no_further: bool = False) -> dict[str, Tensor]:
        """Return the Grams of these layers, float64 [in, in]; with `no_further` what comes behind them is not
        computed."""
        device = self.subject.device
        sums = {n: torch.zeros(*self.shapes()[n], dtype=torch.float64, device=device) for n in names}
        counts = dict.fromkeys(names, 0)
        asked = sum(self._uses[name] for name in names)
        seen = 0

        def add(name: str, inputs: Tensor, _: bool) -> None:
            nonlocal seen
            if name in sums:
                rows = inputs.reshape(-1, inputs.shape[-1]).double()
                sums[name].addmm_(rows.T, rows)
                counts[name] += len(rows)
                seen += 1
                if no_further and seen == asked:
                    raise _AllSeen

        with torch.inference_mode():
            for _, images in self.subject.batches():
                seen = 0
                with suppress(_AllSeen), LayerInputs(self._names, add):
                    self.subject.encode(images)
        return {name: total / max(1, counts[name]) for name, total in sums.items()}
