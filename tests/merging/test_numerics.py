"""The promise about numerics, held against exact arithmetic."""

from fractions import Fraction
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from soupkit.merging import RunOptions, merge

N = 48
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
PRECISION = {torch.bfloat16: (8, -126), torch.float16: (11, -14), torch.float32: (24, -126), torch.float64: (53, -1022)}
DTYPES = list(BITS)
NAMES = {d: str(d).removeprefix("torch.") for d in DTYPES}


def any_finite(seed: int, dtype: torch.dtype, limit: float) -> torch.Tensor:
    """Values of any finite bit pattern of `dtype` up to `limit`: zeros of both signs, subnormals, every exponent."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 2 ** (8 * dtype.itemsize), N, dtype=np.uint64)
    raw[:4] = (0, 1, 2, 3)  # zero and the smallest subnormals
    raw[4:8] = raw[:4] + 2 ** (8 * dtype.itemsize - 1)
    values = torch.from_numpy(raw.astype(f"u{dtype.itemsize}").view(f"i{dtype.itemsize}")).view(dtype).clone()
    good = torch.isfinite(values) & (values.double().abs() <= limit)
    return torch.where(good, values, torch.full((), 1.5, dtype=dtype))


def run(tensors: list[torch.Tensor], base: torch.Tensor | None = None, **options: object) -> torch.Tensor:
    """Merge one-tensor checkpoints through files and return the result."""
    with TemporaryDirectory() as place:
        root = Path(place)
        for i, tensor in enumerate(tensors):
            save_file({"x": tensor}, root / f"{i}.safetensors")
        if base is not None:
            save_file({"x": base}, root / "base.safetensors")
            options["base"] = root / "base.safetensors"
        refs = [root / f"{i}.safetensors" for i in range(len(tensors))]
        merge(refs, root / "out", options=RunOptions(device="cpu", threads=1), **options)
        return load_file(root / "out" / "model.safetensors")["x"]


def exact(x: float) -> Fraction:
    return Fraction(x)


def half_ulp(value: Fraction, dtype: torch.dtype) -> Fraction:
    digits, least = PRECISION[dtype]
    exponent = least
    if value:
        ratio = abs(value)
        exponent = max(least, floor(ratio.numerator.bit_length() - ratio.denominator.bit_length()) - 1)
        while Fraction(2) ** (exponent + 1) <= ratio:
            exponent += 1
    return Fraction(2) ** (exponent - digits)


def check(got: torch.Tensor, parts: list[torch.Tensor], weights: list[Fraction], inputs: list[torch.dtype]) -> None:
    """Assert that `got` is within half an ulp plus 2 n eps sum|w x| of the exact weighted sum, element by element."""
    wide = any(d.itemsize > 2 for d in inputs)
    single = not wide or got.dtype.itemsize <= 2
    eps = Fraction(2) ** (-24 if single else -53)
    underflow = Fraction(2) ** (-150 if single else -1075)  # what a product loses where it becomes subnormal
    n = len(parts)
    for k in range(N):
        terms = [w * exact(p[k].item()) for w, p in zip(weights, parts, strict=True)]
        want = sum(terms, Fraction(0))
        bound = half_ulp(want, got.dtype) + 2 * n * eps * sum(map(abs, terms)) + 2 * n * underflow
        assert abs(exact(got[k].item()) - want) <= bound, (k, got[k].item(), float(want))


@given(st.sampled_from(DTYPES), st.integers(2, 17), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_uniform_soup_is_within_half_an_ulp_of_the_exact_mean(dtype: torch.dtype, n: int, seed: int) -> None:
    limit = 1e37 if dtype != torch.float64 else 1e306
    parts = [any_finite(seed + i, dtype, limit) for i in range(n)]
    check(run(parts), parts, [Fraction(1, n)] * n, [dtype] * n)


@given(st.sampled_from(DTYPES), st.lists(st.floats(0.01, 9), min_size=2, max_size=17), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_weighted_soup_is_within_its_bound(dtype: torch.dtype, weights: list[float], seed: int) -> None:
    limit = 1e36 if dtype != torch.float64 else 1e305
    parts = [any_finite(seed + i, dtype, limit) for i in range(len(weights))]
    total = sum(weights)
    shares = (
        [Fraction(w / total) for w in weights] if len(set(weights)) > 1 else [Fraction(1, len(weights))] * len(weights)
    )
    check(run(parts, weights=weights), parts, shares, [dtype] * len(parts))


@given(st.sampled_from(DTYPES), st.lists(st.floats(-3, 3), min_size=2, max_size=17), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_weights_as_they_are_keep_the_bound(dtype: torch.dtype, weights: list[float], seed: int) -> None:
    parts = [any_finite(seed + i, dtype, 1e3) for i in range(len(weights))]
    got = run(parts, weights=weights, parameters={"normalize": 0})
    check(got, parts, [Fraction(w) for w in weights], [dtype] * len(parts))


@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_mixed_inputs_and_any_output_dtype_keep_the_bound(
    first: torch.dtype, second: torch.dtype, out: torch.dtype, seed: int
) -> None:
    limit = 6e4 if out == torch.float16 else 1e37
    parts = [any_finite(seed, first, limit), any_finite(seed + 1, second, limit)]
    got = run(parts, dtype=NAMES[out])
    assert got.dtype == out
    check(got, parts, [Fraction(1, 2)] * 2, [first, second])


@given(st.sampled_from(DTYPES[:3]), st.integers(2, 17), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_identical_ingredients_give_back_their_own_bytes(dtype: torch.dtype, n: int, seed: int) -> None:
    part = any_finite(seed, dtype, 1e37)
    assert torch.equal(run([part] * n).view(BITS[dtype]), part.view(BITS[dtype]))


@given(st.sampled_from(DTYPES), st.integers(1, 5), st.floats(0, 1), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_interpolation_is_near_the_exact_value(dtype: torch.dtype, n: int, alpha: float, seed: int) -> None:
    parts = [any_finite(seed + i, dtype, 1e4) for i in range(n)]
    base = any_finite(seed + 99, dtype, 1e4)
    got = run(parts, base, method="interpolate", parameters={"alpha": alpha})
    a = Fraction(alpha)
    # the base enters twice: base + alpha (mean - base)
    weights = [a / n] * n + [Fraction(1), -a]
    check(got, [*parts, base, base], weights, [dtype])


@given(st.sampled_from(DTYPES), st.integers(1, 5), st.floats(-2, 2), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_task_arithmetic_is_near_the_exact_value(dtype: torch.dtype, n: int, scale: float, seed: int) -> None:
    parts = [any_finite(seed + i, dtype, 1e3) for i in range(n)]
    base = any_finite(seed + 99, dtype, 1e3)
    got = run(parts, base, method="task_arithmetic", parameters={"scale": scale})
    s = Fraction(scale)
    check(got, [*parts, *[base] * n, base], [s] * n + [-s] * n + [Fraction(1)], [dtype])


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_follows_the_great_circle(t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5000, generator=generator) for _ in range(2))
    got = run([a, b], method="slerp", parameters={"t": t}).double()
    x, y = a.double().numpy(), b.double().numpy()
    angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    want = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    np.testing.assert_allclose(got.numpy(), want, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("b", [2.0, -1.0, 0.0])
def test_slerp_of_parallel_opposed_or_zero_tensors_is_linear(b: float) -> None:
    a = torch.linspace(-1, 1, 100)
    got = run([a, b * a], method="slerp", parameters={"t": 0.25})
    torch.testing.assert_close(got, 0.75 * a + 0.25 * b * a)


def test_a_sum_that_overflows_names_the_tensor() -> None:
    from soupkit.errors import CheckpointError

    big = torch.full((N,), 3e38, dtype=torch.bfloat16)
    other = big.clone()
    other[0] = 1
    with pytest.raises(CheckpointError, match=r"not finite.*|'x'"):
        run([big, other])


def test_an_output_dtype_that_is_too_narrow_names_the_tensor() -> None:
    from soupkit.errors import CheckpointError

    big = torch.full((N,), 1e6)
    with pytest.raises(CheckpointError) as caught:
        run([big, big], dtype="float16")
    assert "'x'" in caught.value.where and "float16" in caught.value.what


def test_the_reference_itself_knows_half_an_ulp() -> None:
    for value in (1.0, 1.5, 2.0, 3.0, 1e-40, 1e30):
        step = np.spacing(np.float32(value))
        assert half_ulp(Fraction(float(np.float32(value))), torch.float32) == Fraction(float(step)) / 2
