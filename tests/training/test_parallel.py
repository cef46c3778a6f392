"""Several ranks, replicated or sharded, train as one process does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soupkit.errors import UsageError
from soupkit.ranks import Ranks
from soupkit.training.classification_step import classification_step
from soupkit.training.parallel import clip_gradients, full_state, parallelize, start_average, update_average
from soupkit.training.step import contrastive_step
from tests.training.contrastive import CLASSES, batch, gradients, reference, small_classifier, tiny_model
from tests.training.processes import in_processes

CASES = [
    (loss, micro_batch, dtype)
    for loss in ("clip", "siglip")
    for micro_batch in (1, 2, 3)
    for dtype in (torch.float64, torch.float32)
]
BATCH = 12


def own(ranks: Ranks, *tensors: Tensor) -> list[Tensor]:
    return [tensor.chunk(ranks.size)[ranks.rank] for tensor in tensors]


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    found = gradients(model)
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def labelled() -> tuple[Tensor, Tensor]:
    return batch(BATCH, torch.float64)[0], torch.arange(BATCH) % CLASSES


def steps_of_all_kinds(ranks: Ranks, shard: bool) -> list[tuple[Tensor, dict[str, Tensor]]]:
    found = []
    for loss, micro_batch, dtype in CASES:
        model = parallelize(tiny_model(bias=loss == "siglip").to(dtype), ranks, shard=shard)
        images, texts = own(ranks, *batch(BATCH, dtype))
        torch.manual_seed(100 + ranks.rank)
        result = contrastive_step(model, images, texts, loss=loss, micro_batch=micro_batch, ranks=ranks)
        found.append((result.loss, whole_gradients(model)))
    model = parallelize(small_classifier(), ranks, shard=shard)
    images, labels = own(ranks, *labelled())
    loss = classification_step(model, images, labels, micro_batch=2, label_smoothing=0.1, ranks=ranks)
    return [*found, (loss, whole_gradients(model))]


@pytest.mark.parametrize(("size", "shard"), [(2, False), (4, False), (2, True)])
def test_any_number_of_ranks_gives_the_gradient_of_the_whole_batch(size, shard):
    answers = in_processes(size, steps_of_all_kinds, shard)
    for i, (loss, micro_batch, dtype) in enumerate(CASES):
        images, texts = batch(BATCH, dtype)
        parts = []
        for rank in range(size):
            pieces = zip(*(t.split(micro_batch) for t in own(Ranks(rank, size), images, texts)), strict=True)
            parts += [(100 + rank if j == 0 else -1, *piece) for j, piece in enumerate(pieces)]
        value, expected = reference(tiny_model(bias=loss == "siglip").to(dtype), parts, loss)
        for answer in answers:
            np.testing.assert_allclose(answer[i][0], value.float(), rtol=1e-6)
            assert answer[i][1].keys() == expected.keys()
            for name, gradient in expected.items():
                # Rounding is of the size of the terms that were summed, which a single element's value does not show.
                relative = 1e-9 if dtype == torch.float64 else 1e-4
                tolerance = relative * max(float(gradient.abs().max()), 1e-3)
                np.testing.assert_allclose(answer[i][1][name], gradient, 0, tolerance, err_msg=f"{CASES[i]}, {name}")
        for answer in answers[1:]:
            assert all(np.array_equal(answer[i][1][name], answers[0][i][1][name]) for name in expected)
    model = small_classifier()
    whole = classification_step(model, *labelled(), micro_batch=BATCH, label_smoothing=0.1)
    for loss, found in (answer[-1] for answer in answers):
        np.testing.assert_allclose(loss, whole, rtol=1e-6)
        assert found.keys() == gradients(model).keys()
        for name, gradient in gradients(model).items():
            np.testing.assert_allclose(found[name], gradient, 0, 1e-9 * max(float(gradient.abs().max()), 1e-3))


def train(ranks: Ranks, shard: bool = False, checkpointing: str = "none") -> dict[str, Any]:
    """Train for some steps with everything that touches parameters; no dropout, so that ranks make no difference."""
    model = tiny_model(bias=True, dropout=0.0).double()
    if ranks.rank:
        # Only the first rank's parameters count.
        nn.init.zeros_(model.visual.conv1.weight)
    model = parallelize(model, ranks, shard=shard, checkpointing=checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    average = start_average(model)
    norms = []
    for step in range(10):
        images, texts = own(ranks, *batch(8, torch.float64, seed=step))
        contrastive_step(model, images, texts, loss="siglip", micro_batch=2, ranks=ranks)
        norms.append(clip_gradients(model, 0.5))
        optimizer.step()
        update_average(average, model, 0.9)
        if step == 4:
            # An evaluation in between leaves nothing behind.
            with torch.no_grad():
                model(*batch(3, torch.float64))
    scalars = [model.logit_scale.detach().clone(), model.logit_bias.detach().clone()]
    with torch.no_grad():
        images, texts = batch(4, torch.float64)
        features = [model.encode_image(images), model.encode_text(texts, normalize=True)]
    return {
        "norms": norms,
        "scalars": scalars,
        "features": features,
        "state": full_state(model.state_dict(), ranks),
        "average": full_state(average, ranks),
        "sharded": [name for name, p in model.named_parameters() if isinstance(p, DTensor)],
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train(Ranks())


@pytest.mark.parametrize(
    ("shard", "checkpointing"), [(False, "none"), (True, "none"), (True, "full"), (True, "selective")]
)
def test_training_on_two_ranks_is_training_in_one_process(alone, shard, checkpointing):
    first, second = in_processes(2, train, shard, checkpointing)
    every = set(alone["state"])
    assert set(first["sharded"]) == (every - {"logit_scale", "logit_bias"} if shard else set())
    for key in ("state", "average"):
        assert second[key] == {}
        assert first[key].keys() == alone[key].keys()
        for name, tensor in alone[key].items():
            np.testing.assert_allclose(first[key][name], tensor, 1e-6, 1e-8, err_msg=f"{key}: {name}")
    for answer in (first, second):
        np.testing.assert_allclose(answer["norms"], alone["norms"], rtol=1e-5)
        for mine, theirs in zip(answer["features"], alone["features"], strict=True):
            np.testing.assert_allclose(mine, theirs, 1e-6, 1e-8)
    assert abs(float(alone["scalars"][0]) - float(tiny_model(bias=True).logit_scale.detach())) > 0.01, (
        "the scale was trained"
    )
    assert np.array_equal(first["scalars"], second["scalars"]), "to the last bit"


def step_in_bfloat16(ranks: Ranks) -> list[Any]:
    model = parallelize(tiny_model(), ranks, shard=True, checkpointing="full", precision="bf16")
    images, texts = own(ranks, *batch(BATCH))
    torch.manual_seed(100 + ranks.rank)
    contrastive_step(model, images, texts, loss="clip", micro_batch=3, ranks=ranks, precision="bf16")
    return [whole_gradients(model), {str(p.dtype) for p in model.parameters()}]


def test_sharded_in_bfloat16_parameters_and_gradients_stay_in_float32():
    answers = in_processes(2, step_in_bfloat16)
    images, texts = batch(BATCH)
    pieces = zip((100, -1, 101, -1), images.split(3), texts.split(3), strict=True)
    _, expected = reference(tiny_model(), list(pieces), "clip")
    for found, dtypes in answers:
        assert dtypes == {"torch.float32"}
        a, b = (np.concatenate([np.ravel(g[name]) for name in expected]) for g in (found, expected))
        assert a.dtype == np.float32
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
        assert 0.97 < np.linalg.norm(a) / np.linalg.norm(b) < 1.03, "the sum over the ranks, not their mean"


def unequal(ranks: Ranks) -> str:
    images, texts = batch(4 + ranks.rank)
    try:
        contrastive_step(tiny_model(), images, texts, loss="clip", micro_batch=2, ranks=ranks)
    except UsageError as error:
        return str(error)
    return ""


def test_ranks_with_batches_of_different_size_all_say_so():
    for answer in in_processes(2, unequal):
        assert "between 4 and 5 samples" in answer


def test_the_norm_and_the_clipped_gradient_are_torchs():
    model = tiny_model()
    images, texts = batch(6)
    contrastive_step(model, images, texts, loss="clip", micro_batch=6)
    before = gradients(model)
    assert torch.equal(clip_gradients(model), clip_gradients(model, 1e9))
    assert all(torch.equal(gradient, before[name]) for name, gradient in gradients(model).items())
    mine = clip_gradients(model, 0.01)
    clipped = gradients(model)
    for name, parameter in model.named_parameters():
        parameter.grad = before[name]
    torch.testing.assert_close(mine, torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(clipped[name], parameter.grad)
    model.logit_scale.grad.fill_(float("nan"))
    assert not clip_gradients(model, 1.0).isfinite()


def test_what_cannot_be_done_is_refused():
    flat = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no repeated blocks"):
        parallelize(flat, Ranks(), shard=True)
    with pytest.raises(UsageError, match="cannot checkpoint"):
        parallelize(flat, Ranks(), checkpointing="full")
