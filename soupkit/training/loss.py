"""The contrastive losses, value and gradient, in tiles: the logits of a batch are never held whole.

A batch of N pairs has N x N logits, and autograd keeps several matrices of that size. Here the logits are made tile by
tile: for CLIP's loss once for the normalizers of rows and columns, which need all of them, and once more for the
gradient; for SigLIP's loss, whose terms stand alone, just once. That is four products of N x N x D at most, where
autograd needs six, because both directions share one matrix of logits. Under several ranks each one makes the rows of
its own images.

Sources: Radford et al. 2021 (https://arxiv.org/abs/2103.00020), Zhai et al. 2023 (https://arxiv.org/abs/2303.15343).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from soupkit.errors import UsageError
from soupkit.ranks import Ranks

Loss = Literal["clip", "siglip"]

# Large enough for matrix products at full rate, small enough for a few tiles to weigh little beside the features.
_ROWS, _COLUMNS = 1024, 4096

# torch 2.14 renames these two, and warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True, slots=True)
class LossGradients:
    """The loss over the global batch, and its gradient with respect to what this rank gave.

    `loss` is a scalar, the same on all ranks. `image` and `text` are (n, d). `logit_scale` and `logit_bias` are
    scalars that hold this rank's share: the gradient is their sum over the ranks. All are in float32, or in float64
    where the features are.
    """

    loss: Tensor
    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor


@torch.no_grad()
def contrastive_gradients(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    loss: Loss = "clip",
    ranks: Ranks | None = None,
    tile: tuple[int, int] = (_ROWS, _COLUMNS),
) -> LossGradients:
    """Return CLIP's or SigLIP's loss over the batches of all ranks together, and its gradient.

    `image` and `text` are this rank's features, (n, d) with the same n on every rank, normalized or not; row i of the
    one belongs to row i of the other. `logit_scale` (already exponentiated) and `logit_bias` have one element. The
    values are those of open_clip's `ClipLoss` and `SigLipLoss` on the batch as a whole: cross-entropy averaged over
    both directions, and the sum of all pairs' sigmoid terms divided by the number of images. Products are in float32
    at least. `tile` is the rows and columns of logits held at a time.

    Raises UsageError when the features differ in shape, or the ranks in their number.
    """
    ranks = ranks or Ranks()
    if image.ndim != 2 or image.shape != text.shape:
        raise UsageError(
            f"features of images {tuple(image.shape)} and texts {tuple(text.shape)} do not pair up",
            "loss",
            "give (n, d) features of n images and of their n texts",
        )
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    image, text = image.to(dtype), text.to(dtype)
    scale = logit_scale.reshape(()).to(dtype)
    bias = torch.zeros_like(scale) if logit_bias is None else logit_bias.reshape(()).to(dtype)
    tiles = _Tiles(image, _gather(text, ranks), scale, bias, ranks.rank * len(image), tile)
    part = _clip(tiles, ranks) if loss == "clip" else _siglip(tiles)
    total = part.loss
    if ranks.size > 1:
        dist.all_reduce(total)
    return LossGradients(total, part.image, _scatter(part.text, ranks), part.logit_scale, part.logit_bias)


class _Tiles:
    """The logits of this rank's images against the texts of all ranks, tile by tile in one buffer."""

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, first: int, tile: tuple[int, int]):
        self.image, self.text, self.scale, self.bias, self.first = image, text, scale, bias, first
        self.rows, self.columns = min(tile[0], len(image)), min(tile[1], len(text))
        self._buffer = image.new_empty(self.rows * self.columns)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Yield rows, columns, their logits (good until the next tile), and a view of the matching pairs' logits."""
        for r in range(0, len(self.image), self.rows):
            rows = slice(r, min(r + self.rows, len(self.image)))
            scaled = self.image[rows] * self.scale
            for c in range(0, len(self.text), self.columns):
                columns = slice(c, min(c + self.columns, len(self.text)))
                height, width = len(scaled), columns.stop - c
                logits = self._buffer[: height * width].view(height, width)
                torch.mm(scaled, self.text[columns].T, out=logits).add_(self.bias)
                yield rows, columns, logits, logits.diagonal(self.first + r - c)


class _Sums:
    """Accumulates the gradient of the features, scale and bias from the gradients of tiles of logits."""

    def __init__(self, tiles: _Tiles):
        self._tiles = tiles
        self._image, self._text = torch.zeros_like(tiles.image), torch.zeros_like(tiles.text)
        self._bias = torch.zeros_like(tiles.bias)

    def add(self, rows: slice, columns: slice, gradient: Tensor) -> None:
        self._image[rows].addmm_(gradient, self._tiles.text[columns])
        self._text[columns].addmm_(gradient.T, self._tiles.image[rows])
        self._bias += gradient.sum()

    def finish(self, loss: Tensor) -> LossGradients:
        # A logit is scale * <image, text> + bias, so the scale's gradient, <gradient @ text, image>, needs no logits.
        scale = torch.linalg.vecdot(self._image, self._tiles.image).sum()
        self._image *= self._tiles.scale
        self._text *= self._tiles.scale
        return LossGradients(loss, self._image, self._text, scale, self._bias)


def _clip(tiles: _Tiles, ranks: Ranks) -> LossGradients:
    n, total = len(tiles.image), len(tiles.text)
    by_row = tiles.image.new_full((n,), -torch.inf)
    by_column = tiles.image.new_full((total,), -torch.inf)
    matching = tiles.image.new_zeros(())
    for rows, columns, logits, diagonal in tiles:
        matching += diagonal.sum()
        by_row[rows] = torch.logaddexp(by_row[rows], logits.logsumexp(1))
        by_column[columns] = torch.logaddexp(by_column[columns], logits.logsumexp(0))
    by_column = _logsumexp_over(by_column, ranks)
    own = by_column[tiles.first : tiles.first + n]
    loss = ((by_row.sum() + own.sum()) / 2 - matching) / total

    sums = _Sums(tiles)
    spare = tiles.image.new_empty(tiles.rows * tiles.columns)
    for rows, columns, logits, diagonal in tiles:
        other = spare[: logits.numel()].view_as(logits)
        torch.sub(logits, by_column[columns], out=other).exp_()
        logits.sub_(by_row[rows, None]).exp_().add_(other)
        diagonal -= 2
        sums.add(rows, columns, logits.div_(2 * total))
    return sums.finish(loss)


def _siglip(tiles: _Tiles) -> LossGradients:
    total = len(tiles.text)
    loss = tiles.image.new_zeros(())
    sums = _Sums(tiles)
    for rows, columns, logits, diagonal in tiles:
        matching = diagonal.clone()
        terms = logsigmoid(-logits)
        terms.diagonal(tiles.first + rows.start - columns.start).copy_(logsigmoid(matching))
        loss -= terms.sum() / total
        logits.sigmoid_()
        diagonal.copy_(-torch.sigmoid(-matching))
        sums.add(rows, columns, logits.div_(total))
    return sums.finish(loss)


def _gather(features: Tensor, ranks: Ranks) -> Tensor:
    if ranks.size == 1:
        return features
    # Ranks that disagree on the size would hang or mix up rows; this says so on all of them.
    sizes = torch.tensor([len(features), -len(features)], device=features.device)
    dist.all_reduce(sizes, dist.ReduceOp.MAX)
    largest, smallest = sizes[0].item(), -sizes[1].item()
    if largest != smallest:
        what = f"ranks have between {smallest} and {largest} samples; all need the same number"
        raise UsageError(what, "loss", "divide the batch evenly")
    everything = features.new_empty(ranks.size * len(features), features.shape[1])
    _all_gather(everything, features.contiguous())
    return everything


def _scatter(gradient: Tensor, ranks: Ranks) -> Tensor:
    """Return this rank's rows of the sum over the ranks of their shares."""
    if ranks.size == 1:
        return gradient
    own = gradient.new_empty(len(gradient) // ranks.size, gradient.shape[1])
    _reduce_scatter(own, gradient)
    return own


def _logsumexp_over(values: Tensor, ranks: Ranks) -> Tensor:
    """Return the elementwise logsumexp over the ranks."""
    if ranks.size == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    total = (values - largest).exp()
    dist.all_reduce(total)
    return total.log_().add_(largest)
