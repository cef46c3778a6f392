"""What is dropped at random is distributed as the papers say: over many seeds, by exact tests with fixed seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from soupkit.merging.arithmetic import Arithmetic, AtHand
from soupkit.merging.registry import METHODS

SEEDS = 600
ROWS, ROW = 8, 12
LEAST_P = 1e-3  # below it a hypothesis is rejected; the seeds are fixed, so that the outcome is too
DENSITY, EPSILON = 0.4, 0.25
GENERATOR = torch.Generator().manual_seed(5)
VECTOR = torch.randn(ROWS, ROW, generator=GENERATOR, dtype=torch.float64)


def soup(method: str, parameters: Mapping[str, Any], ingredients: list[Tensor], seed: int, name: str = "x") -> Tensor:
    """Merge around a base of zeros, in float64."""
    ops = Arithmetic(torch.float64, torch.device("cpu"))
    ops.begin(AtHand(((name, 0, VECTOR.numel()),)))
    n = len(ingredients)
    row = METHODS[method]
    own = {k: p.default for k, p in row.parameters.items() if p.default is not None}
    own |= {"seed": seed, **parameters}
    own = {k: (v,) * n if row.parameters[k].per_ingredient and not isinstance(v, tuple) else v for k, v in own.items()}
    return row.function(ops, ingredients, torch.zeros(ROWS, ROW, dtype=torch.float64), **own).reshape(ROWS, ROW).clone()


def kept(method: str, parameters: Mapping[str, Any], **how: Any) -> np.ndarray:
    """Which entries of one task vector each of many seeds keeps: bool (seeds, rows, row)."""
    given = {"rescale": "none", "normalize": False, **parameters}
    return np.array([(soup(method, given, [VECTOR], seed, **how) != 0).numpy() for seed in range(SEEDS)])


def probabilities(method: str) -> np.ndarray:
    """With which probability each entry is kept, by the papers' formulas: float64 (rows, row)."""
    if method.startswith("dare"):
        return np.full((ROWS, ROW), DENSITY)
    ranks = np.abs(VECTOR.numpy()).argsort(axis=1).argsort(axis=1)
    return DENSITY - EPSILON + 2 * EPSILON * ranks / (ROW - 1)


def parameters_of(method: str) -> dict[str, Any]:
    return {"density": DENSITY, **({"epsilon": EPSILON} if method.startswith("della") else {})}


METHODS_AT_RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]


@pytest.mark.parametrize("method", METHODS_AT_RANDOM)
def test_each_entry_is_kept_with_the_probability_of_the_paper(method: str) -> None:
    """Every entry's count is binomial: the sum of squared z-scores is chi-squared, one degree for each entry."""
    p, counts = probabilities(method), kept(method, parameters_of(method)).sum(axis=0)
    z = (counts - SEEDS * p) / np.sqrt(SEEDS * p * (1 - p))
    assert stats.chi2.sf((z**2).sum(), z.size) > LEAST_P
    assert stats.chi2.cdf((z**2).sum(), z.size) > LEAST_P, "nor are the counts more even than chance makes them"


@pytest.mark.parametrize("method", METHODS_AT_RANDOM)
def test_the_mean_over_seeds_is_the_task_vector_and_the_variance_that_of_the_formula(method: str) -> None:
    """v / p with probability p has mean v and variance v^2 (1 - p) / p."""
    given = {**parameters_of(method), "normalize": False}
    soups = np.array([soup(method, given, [VECTOR], seed).numpy() for seed in range(SEEDS)])
    p, v = probabilities(method), VECTOR.numpy()
    variance = v**2 * (1 - p) / p
    z = (soups.mean(axis=0) - v) / np.sqrt(variance / SEEDS)
    assert stats.chi2.sf((z**2).sum(), z.size) > LEAST_P
    np.testing.assert_allclose(soups.var(axis=0).sum(), variance.sum(), rtol=0.1)


@pytest.mark.parametrize("method", METHODS_AT_RANDOM)
def test_entries_seeds_and_tensors_are_independent(method: str) -> None:
    p = probabilities(method)
    z = (kept(method, parameters_of(method)) - p) / np.sqrt(p * (1 - p))
    other = (kept(method, parameters_of(method), name="y") - p) / np.sqrt(p * (1 - p))
    pairs = {
        "neighbours": (z[:, :, 1:], z[:, :, :-1]),
        "rows": (z[:, 1:], z[:, :-1]),
        "seeds": (z[1:], z[:-1]),
        "tensors": (z, other),
    }
    for what, (one, two) in pairs.items():
        score = float((one * two).sum() / np.sqrt(one.size))
        assert 2 * stats.norm.sf(abs(score)) > LEAST_P, what


def test_ingredients_are_dropped_independently() -> None:
    one, two = torch.ones(ROWS, ROW, dtype=torch.float64), torch.full((ROWS, ROW), 2.0, dtype=torch.float64)
    given = {"rescale": "none", "density": DENSITY}
    sums = np.array([soup("dare_linear", given, [one, two], seed).numpy() for seed in range(100)])
    counts = [int((sums == value).sum()) for value in (0.0, 1.0, 2.0, 3.0)]
    q = 1 - DENSITY
    expected = np.array([q * q, DENSITY * q, q * DENSITY, DENSITY * DENSITY]) * sums.size
    assert stats.chisquare(counts, expected).pvalue > LEAST_P


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_they_agree_in_distribution_with_mergekit(method: str) -> None:
    """Of each entry both keep a binomial count; and what is kept is rescaled to the same length."""
    sparsify = pytest.importorskip("mergekit.sparsify")
    kind = "random" if method.startswith("dare") else "della_magprune"
    torch.manual_seed(0)
    theirs = torch.stack(
        [
            sparsify.sparsify(
                VECTOR.float(), DENSITY, sparsify.SparsificationMethod(kind),
                epsilon=EPSILON, rescale_norm=sparsify.RescaleNorm.l1,
            )
            for _ in range(SEEDS)
        ]
    ).numpy()  # fmt: skip
    given = {**parameters_of(method), "rescale": "l1", "normalize": False}
    ours = np.array([soup(method, given, [VECTOR], seed).numpy() for seed in range(SEEDS)])
    here, there = ((x != 0).sum(axis=0) for x in (ours, theirs))
    shared = (here + there) / (2 * SEEDS)
    z = (here - there) / np.sqrt(2 * SEEDS * shared * (1 - shared))
    assert stats.chi2.sf((z**2).sum(), z.size) > LEAST_P
    length = float(VECTOR.abs().sum())
    np.testing.assert_allclose(np.abs(ours).sum(axis=(1, 2)), length, rtol=1e-12)
    np.testing.assert_allclose(np.abs(theirs).sum(axis=(1, 2)), length, rtol=1e-5)
    assert stats.ks_2samp(ours.max(axis=(1, 2)), theirs.max(axis=(1, 2))).pvalue > LEAST_P
