"""mergekit's YAML: what it means here, and what is said about what soupkit does not do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.errors import UsageError
from soupkit.merging import read_mergekit
from tests.processes import soupkit

NAMES = [
    "visual.conv1.weight",
    *(f"visual.transformer.resblocks.{i}.mlp.c_fc.weight" for i in range(3)),
    *(f"visual.transformer.resblocks.{i}.attn.in_proj_weight" for i in range(3)),
    "visual.proj",
]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Checkpoints `base`, `a` and `b` in the working directory, full of 0, 1 and 2."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("base", "a", "b")):
        save_file({n: torch.full((2, 2), float(number)) for n in NAMES}, tmp_path / name)
        (tmp_path / name).rename(tmp_path / f"{name}.safetensors")
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.safetensors").rename(tmp_path / name / "model.safetensors")
    return [tmp_path / name for name in ("base", "a", "b")]


def write(text: str) -> Path:
    Path("merge.yml").write_text(text)
    return Path("merge.yml")


TIES = """\
merge_method: ties
base_model: base
models:
  - model: base
  - model: a
    parameters: {weight: 0.5, density: 0.4}
  - model: b
    parameters: {weight: [0, 1]}
parameters: {normalize: false, int8_mask: true, lambda: 0.7}
dtype: bfloat16
out_dtype: float32
tokenizer_source: base
"""


@pytest.mark.usefixtures("models")
def test_models_base_and_parameters_are_read_with_mergekits_defaults() -> None:
    entry = read_mergekit(write(TIES))
    assert (entry.ingredients, entry.base, entry.method, entry.dtype) == (["a", "b"], "base", "ties", "float32")
    assert entry.parameters == {
        "trim": "tensor",
        "density": [0.4, 1.0],
        "weight": [0.5, {"gradient": [0, 1], "outside": 0}],
        "normalize": False,
        "scale": 0.7,
    }


@pytest.mark.usefixtures("models")
def test_filters_become_patterns_and_the_nearest_map_counts() -> None:
    text = """\
merge_method: linear
models:
  - model: a
    parameters:
      weight: [{filter: mlp, value: [1, 3]}, {value: 0.5}]
  - {model: ORG/NAME@v2, parameters: {weight: {filter: attn, value: 2e-1}}}
parameters: {weight: 1}
"""
    entry = read_mergekit(write(text))
    assert entry.ingredients == ["a", "hf-hub:ORG/NAME@v2"] and entry.base is None
    assert entry.parameters["weight"] == [
        {"*mlp*": {"gradient": [1, 3], "outside": 1}, "*": 0.5},
        {"*attn*": 0.2, "*": 1},
    ]


@pytest.mark.usefixtures("models")
def test_the_base_of_slerp_is_where_t_is_zero() -> None:
    text = "merge_method: slerp\nbase_model: b\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.2}\n"
    entry = read_mergekit(write(text))
    assert (entry.ingredients, entry.base, entry.parameters) == (["b", "a"], None, {"t": 0.2})


@pytest.mark.usefixtures("models")
def test_one_slice_of_all_layers_is_a_model() -> None:
    text = (
        "merge_method: linear\nslices:\n  - sources:\n      - {model: a, layer_range: [0, 3]}\n"
        "      - {model: b, layer_range: [0, 3]}\n    parameters: {weight: 2}\n"
    )
    assert read_mergekit(write(text)).parameters == {"weight": 2}
    with pytest.raises(UsageError, match=r"\[0, 2\] is not the whole model, which has 3 layers") as caught:
        read_mergekit(write(text.replace("b, layer_range: [0, 3]", "b, layer_range: [0, 2]")))
    assert caught.value.where == "merge.yml, line 5"


@pytest.mark.usefixtures("models")
def test_a_file_of_mergekits_makes_its_soup() -> None:
    text = """\
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: [0, 1]}}
  - {model: b, parameters: {weight: 0.25}}
parameters: {lambda: 1.0}
"""
    done = soupkit("merge", "--mergekit", write(text), "-o", "soup", cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    merged = {name: x.unique().item() for name, x in load_file("soup/model.safetensors").items()}
    assert [merged[n] for n in NAMES] == [0.5, 0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 0.5]
    refused = soupkit("merge", "a", "--mergekit", write(text), "-o", "soup", cwd=Path.cwd())
    assert refused.returncode == 2 and "merge.yml and REF" in refused.stderr


BASE = "base_model: base\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 1}}\n"


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models: [{model: a}]\n", 1, "has no merge_method"),
        ("version: 1\nsoup: {}\n", 1, "is no file of mergekit's"),
        ("merge_method: passthrough\n" + BASE, 1, "stacks layers"),
        ("merge_method: tise\n" + BASE, 1, "tise is not known"),
        ("merge_method: ties\nmodules: {}\n" + BASE, 2, "says modules"),
        ("merge_method: ties\nchat_template: auto\n" + BASE, 2, "says chat_template"),
        ("merge_method: ties\ntokenizer_source: union\n" + BASE, 2, "puts tokenizers together"),
        ("merge_method: ties\ntokenizer: {source: base, tokens: {}}\n" + BASE, 2, "puts tokenizers together"),
        ("merge_method: ties\n" + BASE + "parameters: {rescale: true}\n", 6, "rescale: True is not what"),
        ("merge_method: ties\n" + BASE + "parameters:\n  densty: 1\n", 7, "no parameter densty"),
        ("merge_method: ties\n" + BASE.replace("weight: 1}}\n  - {", "density: 1}}\n  - {"), 4, "needs weight"),
        ("merge_method: slerp\n" + BASE.replace("base_model: base\n", ""), 1, "needs base_model"),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n", 1, "needs t"),
        ("merge_method: linear\n" + BASE, 2, "no use for a base_model"),
        ("merge_method: ties\nmodels: []\nbase_model: base\n", 2, "should be a list of maps"),
        ("merge_method: ties\nmodels: [{model: a, layer_range: [0, 1]}]\nbase_model: base\n", 2, "says layer_range"),
        ("merge_method: ties\nmodels: [{model: x/y+lora/z}]\nbase_model: base\n", 2, "names a LoRA"),
        ("merge_method: ties\nslices: [{sources: []}, {sources: []}]\nbase_model: base\n", 2, "stack layers"),
        ("merge_method: ties\nbase_model: base\n", 1, "either models or slices"),
        ("merge_method: ties\n" + BASE + "parameters: {lambda: [1, two]}\n", 6, "'two' is no value"),
    ],
)
def test_what_soupkit_does_not_do_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_mergekit(write(text))
    assert caught.value.where == f"merge.yml, line {line}" and caught.value.hint
