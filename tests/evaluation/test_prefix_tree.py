"""Prompts over the tree of their prefixes, against `encode_text` in float64."""

import tracemalloc

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch.nn.functional import normalize

from soupkit.evaluation import prefix_tree
from soupkit.evaluation import prompts as prompts_module
from soupkit.evaluation.adapter import causal_text_tower
from soupkit.evaluation.classifier import zero_shot_classifier
from soupkit.evaluation.prefix_tree import build_tree
from soupkit.evaluation.prompts import PromptEncoder, Prompts, fill_templates, tokenize
from tests.conftest import TINY_MODEL

TEXT = {**TINY_MODEL["text_cfg"], "context_length": 16, "layers": 2}
END = 49407


def tiny(seed: int = 0) -> CLIP:
    torch.manual_seed(seed)
    model = CLIP(16, dict(TINY_MODEL["vision_cfg"]), dict(TEXT)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def model() -> CLIP:
    return tiny()


rows = st.lists(st.lists(st.integers(1, 3), min_size=0, max_size=14), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from([4, 16, 16_384]), st.sampled_from([2, 8, 64]))
def test_any_prompts_get_the_features_of_encode_text(model: CLIP, texts: list[list[int]], nodes: int, run: int) -> None:
    tokens = torch.zeros(len(texts), 16, dtype=torch.int64)
    for i, text in enumerate(texts):
        tokens[i, : len(text) + 1] = torch.tensor([*text, END])
    distinct, own = tokens.unique(dim=0, return_inverse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts_module, "_TREE_NODES", nodes)
        patch.setattr(prefix_tree, "_RUN", run)
        patch.setattr(prefix_tree, "_ROWS", 4 * run)
        encoder = PromptEncoder(model, Prompts(distinct.numpy(), own, 16), torch.device("cpu"), batch=1)
        assert encoder.uses_tree
        found = encoder.encode()
    with torch.inference_mode():
        expected = normalize(model.encode_text(tokens).float(), dim=-1)
    assert (found - expected).abs().max() < 1e-6


def test_the_tree_holds_each_prefix_once() -> None:
    tree = build_tree(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 4], [1, 5, 0]]), np.array([2, 2, 2, 1]))
    assert tree.size == 5
    assert tree.ends.tolist() == [2, 2, 3, 4]


def test_imagenet_templates_need_a_small_part_of_the_tokens(model: CLIP) -> None:
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    templates = [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES]
    prompts = tokenize(
        open_clip.SimpleTokenizer(context_length=16), fill_templates(IMAGENET_CLASSNAMES[:20], templates, "")
    )
    encoder = PromptEncoder(model, prompts, torch.device("cpu"))
    assert encoder.tokens_computed * 2 < len(prompts.rows) * 16


@pytest.mark.parametrize("classes", [10, 400])
def test_what_a_prompt_takes_does_not_grow(model: CLIP, classes: int) -> None:
    """Texts, lists of tokens or masks that were kept would take a kilobyte a prompt."""

    def tokenizer(texts: list[str]) -> torch.Tensor:
        tokens = torch.zeros(len(texts), 77, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            template, name = map(int, text.split())
            words = [49406, *range(template, template + 6), 1000 + name, 2000 + name, template, 3000 + template, END]
            row[: len(words)] = torch.tensor(words)
        return tokens

    tower = causal_text_tower(model)
    assert tower is not None
    texts = fill_templates([str(c) for c in range(classes)], [f"{t} {{c}}" for t in range(50)], "")
    tracemalloc.start()
    try:
        prompts = tokenize(tokenizer, texts)
        trees = prompts.trees(tower, torch.device("cpu"), 16_384)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(prompts) == len(prompts.rows) == 50 * classes and len(trees) <= 1 + classes // 50
    assert held < 200_000 + 250 * len(prompts)
    assert peak < 4_000_000 + 300 * len(prompts)


@pytest.mark.parametrize("last", [0, 7])
def test_prompts_get_their_padding_back(last: int) -> None:
    """Of two blocks one is cut to the context in every row; `last` is what the others are padded with."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 3, (1100, 12), generator=generator)
    rows[:600, 5:] = last
    rows[0, 4] = 70_000  # more than 16 bits
    rows[700:] = rows[:400]
    parts = iter(rows.split(512))
    prompts = tokenize(lambda _: next(parts), map(str, range(1100)))
    expected, own = rows.unique(dim=0, return_inverse=True)
    assert torch.equal(prompts.tokens(), expected) and torch.equal(prompts.rows, own)
    assert torch.equal(prompts.tokens()[prompts.rows], rows) and prompts.context == 12


def test_a_class_that_shares_its_prompts_with_another_gets_its_own_mean(model: CLIP) -> None:
    names = ["dog", "cat", "dog", "a very long name of a thing"]
    texts = list(fill_templates(names, ["a {c}", "the {c}", "a {c} {c}"], ""))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    encoder = PromptEncoder(model, tokenize(tokenizer, texts), torch.device("cpu"))
    with torch.inference_mode():
        features = normalize(model.encode_text(tokenizer(texts)), dim=-1)
        expected = normalize(features.view(4, 3, -1).mean(dim=1), dim=-1).T
    assert (zero_shot_classifier(encoder, 4) - expected).abs().max() < 1e-6


def test_weights_changed_in_place_count_at_once() -> None:
    model = tiny()
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    encoder = PromptEncoder(model, tokenize(tokenizer, ["a dog", "a cat"]), torch.device("cpu"))
    before = encoder.encode()
    with torch.no_grad():
        for name, parameter in tiny(1).named_parameters():
            model.get_parameter(name).copy_(parameter)
        expected = normalize(model.encode_text(tokenizer(["a dog", "a cat"])).float(), dim=-1)
    assert (encoder.encode() - expected).abs().max() < 1e-6
    assert (before - expected).abs().max() > 1e-2


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "first"}, {"embed_cls": True}])
def test_towers_that_are_not_causal_or_pool_elsewhere_are_not_taken_for_it(change: dict[str, object]) -> None:
    from open_clip.model import CustomTextCLIP

    torch.manual_seed(0)
    model = CustomTextCLIP(16, dict(TINY_MODEL["vision_cfg"]), {**TEXT, **change})
    assert causal_text_tower(model) is None


def test_a_tower_that_answers_otherwise_than_its_parts_is_encoded_at_full_length() -> None:
    class Shifted(CLIP):
        def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            return super().encode_text(text, normalize) + 0.01

    model = tiny()
    model.__class__ = Shifted
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    encoder = PromptEncoder(model, tokenize(tokenizer, ["a dog", "two cats"]), torch.device("cpu"))
    assert not encoder.uses_tree
    with torch.inference_mode():
        expected = normalize(model.encode_text(tokenizer(["a dog", "two cats"])).float(), dim=-1)
    assert (encoder.encode() - expected).abs().max() < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
def test_the_tree_on_cuda_gives_what_encode_text_gives(dtype: torch.dtype, tolerance: float) -> None:
    model, device = tiny().to("cuda", dtype), torch.device("cuda")
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    texts = list(fill_templates(["dog", "cat", "a very long name of a thing"], ["a {c}", "the {c}", "{c} and {c}"], ""))
    encoder = PromptEncoder(model, tokenize(tokenizer, texts), device)
    assert encoder.uses_tree
    with torch.inference_mode():
        expected = normalize(model.encode_text(tokenizer(texts).to(device)).float(), dim=-1)
    assert (encoder.encode() - expected).abs().max() < tolerance
    assert torch.equal(zero_shot_classifier(encoder, 3), zero_shot_classifier(encoder, 3))
