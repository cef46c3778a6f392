"""The regression behind RegMean and RegMean++: one weight for what several linear layers do to their inputs."""

import torch
from torch import Tensor


class Regression:
    """Finds the weight W whose outputs are nearest to the ingredients' on each one's own inputs: the least squares
    solution of sum G_i W = sum G_i W_i, where G_i is the mean x x' of inputs x (Jin et al. 2023, equation 2).

    Entries of G_i off the diagonal count `alpha` times; `ridge` x the mean diagonal of all G_i is added to each.
    Weights are float64 [in, out], Grams float64 [in, in]; one of each is held beside the sums, however many are added.
    """

    def __init__(self, alpha: float, ridge: float) -> None:
        self._alpha, self._ridge = alpha, ridge
        self._grams: Tensor | None = None
        self._total = self._plain = torch.empty(0)
        self._count = 0

    def add(self, gram: Tensor, weight: Tensor) -> None:
        """Add an ingredient's `gram` [in, in], which is used up, and its `weight` [in, out], both float64."""
        diagonal = gram.diagonal().clone()
        gram.mul_(self._alpha).diagonal().copy_(diagonal)
        self._count += 1
        if self._grams is None:
            self._total, self._plain, self._grams = gram @ weight, weight.clone(), gram
            return
        self._total.addmm_(gram, weight)
        self._plain.add_(weight)
        self._grams.add_(gram)

    def solved(self) -> Tensor:
        """Return the weight, float64 [in, out]; the sums are used up. Inputs that are always zero leave no trace."""
        grams, total = self._grams, self._total
        assert grams is not None
        least = self._ridge * float(grams.diagonal().mean()) / self._count
        total.add_(self._plain, alpha=least)
        grams.diagonal().add_(self._count * least)
        factor, info = torch.linalg.cholesky_ex(grams)
        if not info:
            return torch.cholesky_solve(total, factor)
        return torch.linalg.pinv(grams, hermitian=True) @ total  # the least-norm solution
