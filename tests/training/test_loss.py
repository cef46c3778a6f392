"""The loss in tiles is open_clip's loss, and so is its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from soupkit.errors import UsageError
from soupkit.training.loss import contrastive_gradients
from tests.training.contrastive import whole_loss


def inputs(n: int, width: int, dtype: torch.dtype, spread: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2))
    # Text a little like its image, as in training; not normalized, which the loss does not require.
    text = image + text
    values = [spread * image / width**0.5, text / width**0.5, torch.tensor(14.3), torch.tensor(-2.5)]
    return [value.to(dtype).requires_grad_() for value in values]


def expected(loss: str, values: list[Tensor]) -> list[Tensor]:
    value = whole_loss(loss, *values)
    return [value.detach(), *torch.autograd.grad(value, values)]


def found(loss: str, values: list[Tensor], tile: tuple[int, int] = (1024, 4096)) -> list[Tensor]:
    result = contrastive_gradients(*values, loss=loss, tile=tile)
    return [result.loss, result.image, result.text, result.logit_scale, result.logit_bias]


@settings(max_examples=40, deadline=None)
@given(
    loss=st.sampled_from(["clip", "siglip"]),
    n=st.integers(1, 40),
    width=st.integers(1, 20),
    tile=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    spread=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 2**30),
)
def test_any_tiling_gives_open_clips_loss_and_gradient(loss, n, width, tile, spread, seed):
    values = inputs(n, width, torch.float64, spread, seed)
    for mine, theirs in zip(found(loss, values, tile), expected(loss, values), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12 * max(1.0, spread * spread))


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_in_float32_its_error_is_of_the_size_of_open_clips(loss):
    exact = inputs(700, 64, torch.float64)
    single = [value.detach().float().requires_grad_() for value in exact]
    rounded = [value.detach().double().requires_grad_() for value in single]
    for mine, theirs, truth in zip(
        found(loss, single, (128, 256)), expected(loss, single), expected(loss, rounded), strict=True
    ):
        assert mine.dtype == torch.float32
        allowed = 4 * (theirs - truth).abs().max() + 1e-6 * truth.abs().max() + 1e-9
        assert (mine - truth).abs().max() <= allowed


def test_logits_far_apart_neither_overflow_nor_vanish():
    # Rows whose largest logits differ by hundreds: a normalizer shared by a tile would lose some of them in float32.
    for dtype in (torch.float64, torch.float32):
        values = inputs(50, 8, dtype)
        with torch.no_grad():
            values[0][::3] *= 300
            values[1][::7] *= 30
        mine, theirs = found("clip", values, (16, 16)), expected("clip", values)
        # Not the last, the bias: it does not change a softmax, and its gradient is rounding alone.
        for a, b in zip(mine[:-1], theirs[:-1], strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(
                a, b, rtol=1e-9 if dtype == torch.float64 else 1e-4, atol=1e-5 * float(b.abs().max())
            )


def test_features_in_bfloat16_are_multiplied_in_float32():
    low = [value.detach().bfloat16() for value in inputs(60, 16, torch.float32)]
    high = [value.float() for value in low]
    for a, b in zip(found("clip", low), found("clip", high), strict=True):
        assert torch.equal(a, b)


def test_features_that_do_not_pair_up_are_refused():
    image, text, scale, _ = inputs(4, 3, torch.float32)
    with pytest.raises(UsageError, match="do not pair up"):
        contrastive_gradients(image, text[:3], scale)
