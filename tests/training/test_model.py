"""The model of a run: what is trained of it, and what cannot be trained."""

from typing import Any

import pytest

from soupkit.errors import SoupkitError
from tests.training.runs import entry, model_of


def test_locked_towers_are_not_trained() -> None:
    model = model_of(entry(lock_image=True))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and not any(n.startswith("visual.") for n in trained)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "ViT-Z-99"}, "knows no model"),
        ({"model": {"embed_dim": 3}}, "no vision_cfg and text_cfg"),
        ({"loss": "siglip"}, "no logit_bias"),
        ({"model": "missing.json"}, "cannot be read"),
        ({"init": "nowhere"}, "does not exist"),
    ],
)
def test_a_model_that_cannot_be_trained_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SoupkitError, match=said):
        model_of(entry(**fields))
