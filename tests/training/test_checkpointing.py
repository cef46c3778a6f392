"""Selective checkpointing: the gradients of a pass that keeps everything, without a product that is taken twice."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from soupkit.errors import UsageError
from soupkit.ranks import Ranks
from soupkit.training.entry import TrainEntry
from soupkit.training.parallel import parallelize
from soupkit.training.step import contrastive_step
from tests.training.contrastive import batch, gradients, tiny_model


def stepped(
    checkpointing: Any, *, precision: Any = "fp32", compile: bool = False
) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one step in micro-batches, with patch dropout, and its operations."""
    torch.manual_seed(0)
    model = parallelize(tiny_model(), Ranks(), checkpointing=checkpointing, compile=compile)
    images, texts = batch(6)
    torch.manual_seed(1)
    with FlopCounterMode(display=False) as counter:
        contrastive_step(model, images, texts, loss="clip", micro_batch=3, precision=precision)
    return gradients(model), counter.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_have_the_bits_of_a_step_that_keeps_everything(precision: str) -> None:
    expected, plain = stepped("none", precision=precision)
    for how in ("selective", "full"):
        found, operations = stepped(how, precision=precision)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
        assert operations == plain if how == "selective" else operations > 1.1 * plain


def test_a_compiled_block_has_nearly_the_same_gradients() -> None:
    expected, _ = stepped("none")
    found, _ = stepped("selective", compile=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_pass_without_gradients_is_the_plain_one() -> None:
    model = tiny_model(dropout=0.0)
    images, texts = batch(3)
    with torch.no_grad():
        expected = model(images, texts)
        found = parallelize(model, Ranks(), checkpointing="selective")(images, texts)
    for one, other in zip(_flat(found), _flat(expected), strict=True):
        assert torch.equal(one, other)


def _flat(output: Any) -> list[torch.Tensor]:
    return list(output.values() if isinstance(output, dict) else output)


def test_a_model_without_blocks_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no repeated blocks"):
        parallelize(flat, Ranks(), checkpointing="selective")


@pytest.mark.parametrize(("written", "meant"), [(True, "full"), (False, "none"), ("selective", "selective")])
def test_it_is_switched_on_and_off_or_named(written: Any, meant: str) -> None:
    fields = {"model": {}, "data": {"shards": "x.tar"}, "batch_size": 4, "samples": 8, "lr": 1e-3}
    assert TrainEntry.model_validate({**fields, "grad_checkpointing": written}).grad_checkpointing == meant
    with pytest.raises(ValidationError, match="grad_checkpointing"):
        TrainEntry.model_validate({**fields, "grad_checkpointing": "some"})
