"""Statistics of a pool's fine-tunes for the methods that weigh by data: as `soupkit statistics` collects them, of
fine-tunes that are no files, each on training images of its own task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.methods.images import SIDE
from benchmarks.methods.pools import Pool
from benchmarks.methods.tower import State, Tower
from soupkit.checkpoint import fingerprint, open_checkpoint
from soupkit.checkpoint.in_memory import held
from soupkit.evaluation.merged_grams import Member, MergedGrams
from soupkit.evaluation.statistics_sums import GramSums
from soupkit.merging.statistics import BEHIND, KIND, OF

EXAMPLES, ALPHA, RIDGE = 256, 0.95, 1e-6  # the command's defaults
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Images:
    """Training images [n, 3, 28, 28] before a tower, as sums of statistics ask for them."""

    tower: Tower
    head: int
    images: Tensor
    state: State

    @property
    def rows(self) -> np.ndarray:
        """The images' numbers."""
        return np.arange(len(self.images))

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.tower(images, self.head)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return the parameters that are merged."""
        return {name: p for name, p in self.tower.named_parameters() if name in self.state}

    def batches(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield the images, and their numbers."""
        for part in np.array_split(self.rows, -(-len(self.images) // _BATCH)):
            yield part, self.images[part]

    def blank(self) -> Tensor:
        """Return one image without content."""
        return torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)


class Statistics:
    """The files of statistics of one pool, below `folder`; each kind is collected when it is first asked for."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._files: dict[tuple[str, float], list[str]] = {}
        self._prints = [_fingerprint(state) for state in pool.ingredients]

    def files(self, kind: str, alpha: float = ALPHA) -> list[str]:
        """Return a file for each ingredient; `alpha` counts for merged Grams alone."""
        alpha = alpha if kind == "merged_gram" else 0.0
        if (kind, alpha) not in self._files:
            behind = f'{{"alpha": {alpha}, "ridge": {RIDGE}}}'
            said = {BEHIND: behind} if kind == "merged_gram" else {}
            collected = {"fisher": self._fisher, "gram": self._gram}.get(kind, lambda: self._merged(alpha))()
            paths = [self._folder / f"{kind}-{alpha}-{i}.safetensors" for i in range(len(collected))]
            for path, values, of in zip(paths, collected, self._prints, strict=True):
                save_file(values, path, {KIND: kind, OF: of, **said})
            self._files[kind, alpha] = [str(path) for path in paths]
        return self._files[kind, alpha]

    def _shown(self, i: int) -> Images:
        head = min(i, len(self._pool.tasks) - 1)
        images = self._pool.tasks[head].train[0]
        rows = torch.arange(EXAMPLES).mul(len(images)).div(EXAMPLES, rounding_mode="floor").unique()
        return Images(self._pool.tower, head, images[rows], self._pool.ingredients[i])

    def _gram(self) -> list[dict[str, Tensor]]:
        made = []
        for i, state in enumerate(self._pool.ingredients):
            self._pool.load(state)
            sums = GramSums(self._shown(i))
            made.append({name: gram.float() for name, gram in sums.of(list(sums.shapes())).items()})
        return made

    def _merged(self, alpha: float) -> list[dict[str, Tensor]]:
        states = self._pool.ingredients
        live = {n: p for n, p in self._pool.tower.state_dict().items() if n in states[0]}
        members = [Member(self._shown(i), state.__getitem__) for i, state in enumerate(states)]
        made: list[dict[str, Tensor]] = [{} for _ in states]
        for found in MergedGrams(members, live, alpha, RIDGE).collect(lambda names: iter([list(names)])):
            made[found.member][found.name] = found.gram
        return made

    def _fisher(self) -> list[dict[str, Tensor]]:
        """Return the mean squared gradients of log p(y), with y drawn from the fine-tune's own predictions."""
        made = []
        for i, state in enumerate(self._pool.ingredients):
            self._pool.load(state)
            shown, generator = self._shown(i), torch.Generator().manual_seed(0)
            parameters = shown.parameters()
            sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
            for image in shown.images.split(1):
                chances = shown.encode(image).log_softmax(1)[0]
                label = int(torch.multinomial(chances.detach().exp(), 1, generator=generator))
                slopes = torch.autograd.grad(chances[label], list(parameters.values()), allow_unused=True)
                for total, slope in zip(sums.values(), slopes, strict=True):
                    if slope is not None:
                        total.add_(slope.square())
            made.append({name: total / len(shown.images) for name, total in sums.items()})
        return made


def _fingerprint(state: State) -> str:
    with held(state) as ref, open_checkpoint(ref) as checkpoint:
        return fingerprint(checkpoint).value
