"""Dot products of whole tensors: right, and never lost where numbers are small or large."""

import numpy as np
import pytest
import torch

from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.sums import _PRODUCT_RUN, products

SIZES = [0, 1, 5, 63, 65, 4097, _PRODUCT_RUN - 1, 2 * _PRODUCT_RUN + 12_345]
OPS = Arithmetic(torch.float32, torch.device("cpu"))


def near(n: int, spread: float, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Three vectors that share a part of their way from an origin."""
    generator = torch.Generator().manual_seed(n)
    origin, shared = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    xs = [origin + spread * (shared + torch.randn(n, generator=generator, dtype=torch.float64)) for _ in range(3)]
    return [x.to(dtype) for x in xs], origin.to(dtype)


def test_many_vectors_have_their_products_too() -> None:
    xs, origin = near(300_000, 0.05, torch.bfloat16)
    xs = [xs[i % 3].roll(i) for i in range(9)]
    expected = reference(xs, origin)
    lengths = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(np.array(OPS.shares(xs, origin)) - expected) <= 3e-7 * lengths).all()


def reference(xs: list[torch.Tensor], origin: torch.Tensor) -> np.ndarray:
    vectors = [(x.double() - origin.double()).numpy() for x in xs]
    return np.array([[np.dot(a, b) for b in vectors] for a in vectors])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_float32_are_near_those_in_float64(n: int, dtype: torch.dtype) -> None:
    xs, origin = near(n, 0.05, dtype)
    expected = reference(xs, origin)
    lengths = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    found = products(xs, origin)
    assert set(found) == {(i, j) for j in range(3) for i in range(j + 1)}
    assert all(abs(value - expected[pair]) <= 3e-7 * lengths[pair] for pair, value in found.items())
    assert (np.abs(np.array(OPS.shares(xs, origin)) - expected) <= 3e-7 * lengths).all()
    assert (np.abs(np.array(OPS.gram(xs, origin)) - expected) <= 1e-12 * lengths).all()


@pytest.mark.parametrize("factor", [1e-22, 1e25])
def test_products_that_float32_cannot_hold_are_taken_in_float64(factor: float) -> None:
    xs, origin = near(5000, 0.5, torch.float64)
    xs, origin = [(x * factor).bfloat16() for x in xs], (origin * factor).bfloat16()
    assert np.allclose(np.array(OPS.shares(xs, origin)), reference(xs, origin), rtol=1e-12, atol=0)


def test_one_vector_that_equals_the_origin_has_products_of_zero() -> None:
    xs, origin = near(5000, 0.5, torch.bfloat16)
    found = np.array(OPS.shares([xs[0], origin], origin))
    assert found[0, 0] > 0 and not found[1].any() and not found[:, 1].any()
