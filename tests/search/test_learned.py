"""Learned soups: the gradient against autograd in float64 with all ingredients in memory, and what learning finds."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

import soupkit
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.checkpoint.towers import block_patterns
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import HeadOptions
from soupkit.evaluation.prompts import fill_templates
from soupkit.evaluation.transform import open_transform
from soupkit.progress import SILENT
from soupkit.ranks import Ranks
from soupkit.search.candidate import uniform
from soupkit.search.hit_score import hit_metric
from soupkit.search.ingredients import open_ingredients
from soupkit.search.live_soups import LiveSoups
from soupkit.search.mixing_gradient import MixingGradient
from soupkit.search.running_sum import RunningSum
from soupkit.search.strategies.learned import Adam, learn
from tests.search.tables import Tables

LIMIT = 90


def options(cache: Path) -> EvaluationOptions:
    return EvaluationOptions(cache=cache, limit=LIMIT, batch_size=16, device="cpu", scores=False)


@pytest.fixture(scope="module")
def live(fine_tunes: list[Path], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSoups]:
    with ExitStack() as stack:
        refs, place = [str(path) for path in fine_tunes[:3]], tmp_path_factory.mktemp("nothing")
        ingredients = open_ingredients(
            refs, place / "soup", stack, head=HeadOptions(), keep_going=False, memory=None, progress=SILENT
        )
        assert ingredients.config is not None
        tasks = open_tasks(["digits"], split="val")
        evaluator = stack.enter_context(
            Evaluator(ingredients.config, tasks, options(cache), tokenizer_files=ingredients.tokenizer_files)
        )
        yield LiveSoups(ingredients, ingredients.config, evaluator, 1, Ranks(), SILENT)


def in_float64(
    live: LiveSoups, blocks: tuple[str, ...], shares: np.ndarray, factor: float, images: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """The loss and its derivatives by autograd, by what open_clip computes with a mixture made of all ingredients."""
    from fnmatch import fnmatchcase

    task, pixels, model = live.selecting[0], live.evaluator.pixels[0], live.evaluator.model
    states = [{name: file.read(name).double() for name in file} for file in live.ingredients.checkpoints]
    by_shares = torch.tensor(shares, requires_grad=True)
    by_factor = torch.tensor(factor, dtype=torch.float64, requires_grad=True)
    block = {name: next(i for i, p in enumerate(blocks) if fnmatchcase(name, p)) for name in states[0]}
    mixed = {name: sum(by_shares[block[name], m] * state[name] for m, state in enumerate(states)) for name in states[0]}
    tokens = open_tokenizer(live.config, live.ingredients.tokenizer_files, "")(
        list(fill_templates(task.classnames, task.templates, ""))
    )
    transform = open_transform(live.config["preprocess_cfg"], "")
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
    rows = pixels.rows[images]
    x = (torch.from_numpy(pixels.take(rows).copy()).permute(0, 3, 1, 2).double() / 255 - mean) / std

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self.model.encode_image(x), self.model.encode_text(tokens), self.model.logit_scale

    both = Both()
    state = {f"model.{name}": tensor for name, tensor in mixed.items()}
    state |= {f"model.{name}": buffer.double() for name, buffer in model.named_buffers() if name not in mixed}
    image, text, scale = functional_call(both, state, (x, tokens))
    classes = normalize(normalize(text, dim=-1).view(len(task.classnames), -1, text.shape[-1]).mean(dim=1), dim=-1)
    logits = by_factor * scale.exp() * normalize(image, dim=-1) @ classes.T
    loss = cross_entropy(logits, torch.from_numpy(pixels.labels[rows]))
    loss.backward()
    assert by_shares.grad is not None and by_factor.grad is not None
    return float(loss.detach()), float(by_factor.grad), by_shares.grad.numpy()


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_gradient_is_that_of_all_ingredients_in_float64(live: LiveSoups, tmp_path: Path, per_layer: bool) -> None:
    blocks = block_patterns(list(live.ingredients.checkpoints[0])) if per_layer else ("*",)
    assert len(blocks) == (1 if not per_layer else 1 + len({b for b in blocks if "resblocks" in b}))
    assert not per_layer or len(blocks) > 3
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(3), len(blocks))
    images = np.sort(generator.choice(LIMIT, 40, replace=False))
    found = MixingGradient(live, tmp_path).of([0, 1, 2], blocks, shares, 0.7, images)
    loss, by_factor, by_shares = in_float64(live, blocks, shares, 0.7, images)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.by_factor == pytest.approx(by_factor, rel=1e-4)
    assert found.by_shares == pytest.approx(by_shares, rel=2e-4, abs=2e-4 * np.abs(by_shares).max())


def test_what_was_differentiated_is_kept_and_not_computed_again(
    live: LiveSoups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, shares = np.arange(20), np.full((1, 3), 1 / 3)
    first = MixingGradient(live, tmp_path).of([0, 1, 2], ("*",), shares, 1.0, images)
    monkeypatch.setattr(RunningSum, "products", lambda *_: pytest.fail("computed again"))
    again = MixingGradient(live, tmp_path).of([0, 1, 2], ("*",), shares, 1.0, images)
    assert first.loss == again.loss and (first.by_shares == again.by_shares).all()
    with pytest.raises(pytest.fail.Exception):
        MixingGradient(live, tmp_path).of([0, 1, 2], ("*",), shares, 1.1, images)
    (kept,) = (tmp_path / "gradients").iterdir()
    kept.write_text(kept.read_text()[:10])
    with pytest.raises(pytest.fail.Exception):
        MixingGradient(live, tmp_path).of([0, 1, 2], ("*",), shares, 1.0, images)


def test_adam_is_that_of_torch() -> None:
    generator = np.random.default_rng(0)
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    theirs, mine, at = torch.optim.Adam([x], lr=0.1), Adam(0.1, 4), np.zeros(4)
    for _ in range(20):
        gradient = generator.normal(size=4)
        x.grad = torch.from_numpy(gradient)
        theirs.step()
        at = at + mine.step(gradient)
        assert at == pytest.approx(x.detach().numpy(), rel=1e-12)


def test_on_a_pool_of_good_and_useless_ingredients_learned_weights_beat_equal_ones_and_reach_the_least_loss() -> None:
    generator = np.random.default_rng(0)
    noise = np.array([0.4, 0.6, 3.0, 4.0])[:, None]
    margins = generator.normal(0.5, 1, 2000) + noise * generator.normal(size=(4, 2000))
    tables = Tables(margins, hit_metric(["acc1"], [np.zeros(2000, np.int64)]))
    found = learn(tables, tables.order(), epochs=20)
    assert (
        tables.worth(found.soup) > tables.worth(uniform(range(4)))
        and tables.worth(found.soup) >= tables.scored[uniform(tables.order()[:1])]
    )
    order = tables.order()

    def loss(x: np.ndarray) -> float:
        shares = np.exp(x[:4] - x[:4].max())
        return float(np.log1p(np.exp(-math.exp(x[4]) * (shares / shares.sum()) @ margins[order])).mean())

    least = minimize(loss, np.zeros(5), method="BFGS")
    assert tables.facts["learned"]["loss"][-1] == pytest.approx(least.fun, abs=2e-3)
    assert tables.facts["learned"]["factor"] == pytest.approx(math.exp(least.x[4]), rel=0.1)


@pytest.mark.parametrize("per", ["model", "layer"])
def test_a_learned_soup_is_what_merge_writes_and_is_scored_as_any_other(
    fine_tunes: list[Path], cache: Path, tmp_path: Path, per: str
) -> None:
    given: dict[str, Any] = {"tasks": "digits", "strategy": "learned", "learned_per": per, "epochs": 2,
                             "learned_batch": 45, "evaluation": options(cache)}  # fmt: skip
    document = soupkit.search(fine_tunes[:4], tmp_path / "soup", **given).document
    (score,) = soupkit.evaluate([tmp_path / "soup"], ["digits:val"], options=options(cache)).scores
    assert document.score.value == score.value and document.score.fingerprint == score.fingerprint
    mixtures = [d for d in document.decisions if d.action == "learn"]
    assert len(mixtures) == 3 and document.score.value == max(d.value or 0 for d in document.decisions)
    learned = document.facts["learned"]
    assert learned["images"] == LIMIT and learned["images_differentiated"] == 2 * LIMIT
    assert learned["loss"][1] < learned["loss"][0]
    assert any("the gradient saw the labels of all 90 images that select" in note for note in document.notes)
    last = mixtures[-1].weights
    assert isinstance(last, dict if per == "layer" else list)


def test_only_a_loss_of_classifications_can_be_learned_from(points: list[Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {"strategy": "learned", "evaluation": EvaluationOptions(device="cpu", cache=None)}
    with pytest.raises(UsageError, match="--strategy learned: needs a loss that can be differentiated"):
        soupkit.search(points[:2], tmp_path / "soup", score=lambda path: 1.0, **given)
    assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()
    with open_checkpoint(points[0]) as file:
        assert block_patterns(list(file)) == ("*",)
