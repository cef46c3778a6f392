"""The step's gradient is that of the whole batch, whatever the micro-batch."""

import pytest
import torch

from soupkit.errors import UsageError
from soupkit.training.step import contrastive_step
from tests.training.contrastive import batch, gradients, reference, tiny_model

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 2e-6}}


def assert_same(found, expected, dtype):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **TOLERANCE[dtype], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("micro_batch", [1, 3, 4, 11, 12, 50])
def test_any_micro_batch_gives_the_gradient_of_the_whole_batch(micro_batch, dtype):
    model = tiny_model().to(dtype)
    images, texts = batch(12, dtype)
    pieces = zip(images.split(micro_batch), texts.split(micro_batch), strict=True)
    parts = [(7 if i == 0 else -1, *piece) for i, piece in enumerate(pieces)]
    value, expected = reference(model, parts, "clip")
    after = torch.get_rng_state()

    torch.manual_seed(7)
    result = contrastive_step(model, images, texts, loss="clip", micro_batch=micro_batch)

    torch.testing.assert_close(result.loss, value.float())
    assert_same(gradients(model), expected, dtype)
    assert torch.equal(torch.get_rng_state(), after), "the random state goes on as after one pass"


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("output_dict", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_models_of_all_kinds(loss, custom, output_dict, bias):
    model = tiny_model(custom, bias, output_dict=output_dict).double()
    images, texts = batch(9, torch.float64)
    parts = [(3, images[:5], texts[:5]), (-1, images[5:], texts[5:])]
    value, expected = reference(model, parts, loss)
    torch.manual_seed(3)
    result = contrastive_step(model, images, texts, loss=loss, micro_batch=5)
    torch.testing.assert_close(result.loss, value.float())
    if loss == "clip":
        # A bias does not change a softmax; its gradient is rounding alone.
        assert expected.pop("logit_bias", torch.tensor(0.0)).abs() < 1e-12
    found = gradients(model)
    assert_same({name: found[name] for name in expected}, expected, torch.float64)


def test_without_the_same_dropout_in_both_passes_the_gradient_would_be_another():
    """The tests above can fail: masks drawn anew change the gradient far beyond their tolerance."""
    model = tiny_model().double()
    images, texts = batch(12, torch.float64)
    _, one = reference(model, [(7, images, texts)], "clip")
    _, other = reference(model, [(8, images, texts)], "clip")
    assert (one["visual.conv1.weight"] - other["visual.conv1.weight"]).abs().max() > 1e-4


def test_a_locked_tower_gets_no_gradient_and_the_other_gets_its_own():
    model = tiny_model().double()
    images, texts = batch(6, torch.float64)
    for parameter in (*model.visual.parameters(), model.logit_scale):
        parameter.requires_grad_(False)
    _, expected = reference(model, [(1, images[:4], texts[:4]), (-1, images[4:], texts[4:])], "clip")
    torch.manual_seed(1)
    contrastive_step(model, images, texts, loss="clip", micro_batch=4)
    assert_same(gradients(model), expected, torch.float64)
    assert not any(name.startswith(("visual", "logit_scale")) for name in expected)


def test_gradients_of_an_earlier_step_are_not_added_to():
    model = tiny_model(dropout=0.0)
    images, texts = batch(6)
    contrastive_step(model, images, texts, loss="clip", micro_batch=2)
    once = gradients(model)
    contrastive_step(model, images, texts, loss="clip", micro_batch=2)
    assert all(torch.equal(gradient, once[name]) for name, gradient in gradients(model).items())


def test_gradient_checkpointing_changes_nothing():
    model = tiny_model().double()
    images, texts = batch(6, torch.float64)
    torch.manual_seed(1)
    contrastive_step(model, images, texts, loss="clip", micro_batch=3)
    expected = gradients(model)
    model.set_grad_checkpointing()
    torch.manual_seed(1)
    contrastive_step(model, images, texts, loss="clip", micro_batch=3)
    assert_same(gradients(model), expected, torch.float64)


def test_bfloat16_compute_gives_nearly_the_same_gradient_in_float32():
    model = tiny_model()
    images, texts = batch(12)
    torch.manual_seed(1)
    exact = contrastive_step(model, images, texts, loss="clip", micro_batch=4)
    expected = torch.cat([g.flatten() for g in gradients(model).values()])
    torch.manual_seed(1)
    low = contrastive_step(model, images, texts, loss="clip", micro_batch=4, precision="bf16")
    found = torch.cat([g.flatten() for g in gradients(model).values()])
    assert found.dtype == torch.float32
    torch.testing.assert_close(low.loss, exact.loss, rtol=0.02, atol=0.02)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert not torch.equal(found, expected), "autocast was on"


def test_what_cannot_be_trained_is_refused():
    class Captioner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images, texts):
            features = self.weight * images.flatten(1)[:, :4]
            return {"image_features": features, "text_features": features, "logit_scale": self.weight, "logits": texts}

    images, texts = batch(4)
    with pytest.raises(UsageError, match="but also logits"):
        contrastive_step(Captioner(), images, texts, loss="clip", micro_batch=2)
    with pytest.raises(UsageError, match="4 images, 3 texts"):
        contrastive_step(tiny_model(), images, texts[:3], loss="clip", micro_batch=2)


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_on_a_gpu_batches_come_from_the_cpu_and_the_gradient_is_the_same(loss):
    images, texts = batch(12)
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model(bias=loss == "siglip").to(device)
        # open_clip's patch dropout draws on the CPU on every device.
        torch.manual_seed(5)
        contrastive_step(model, images, texts, loss=loss, micro_batch=5)
        found.append({name: gradient.cpu() for name, gradient in gradients(model).items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-2, atol=1e-4)
