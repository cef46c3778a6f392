"""mergekit's YAML: what it means here, and what is said about what soupkit does not do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.errors import UsageError
from soupkit.merging import merge, read_mergekit
from soupkit.merging.registry import METHODS
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


# Files of public model cards, with the models' names shortened, and filters named as a CLIP's tensors are.
FOUND = {
    "dare_ties with the base among the models": """\
models:
  - model: base
    # No parameters necessary for base model
  - model: a
    parameters:
      density: 0.53
      weight: 0.4
  - model: b
    parameters:
      density: 0.53
      weight: 0.3
merge_method: dare_ties
base_model: base
parameters:
  int8_mask: true
dtype: bfloat16
""",
    "slerp of slices by filters": """\
slices:
  - sources:
      - model: a
        layer_range: [0, 3]
      - model: b
        layer_range: [0, 3]
merge_method: slerp
base_model: a
parameters:
  t:
    - filter: attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
""",
    "ties by gradients and filters": """\
models:
- model: a
  parameters:
    density: [1, 0.7, 0.1] # density gradient
    weight: 1.0
- model: b
  parameters:
    density: 0.33
    weight:
    - filter: mlp
      value: 0.5
    - value: 0
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    "the base's tokenizer by its name": """\
base_model: base
models:
  - model: base
  - model: a
    parameters:
      density: 0.5
      weight: 0.5
  - model: b
    parameters:
      density: 0.5
      weight: 0.5
merge_method: dare_ties
parameters:
  int8_mask: true
dtype: bfloat16
tokenizer_source: base
tokenizer:
  source: base
""",
    "task_arithmetic, normalized": """\
models:
  - model: a
    parameters:
      weight: 1
  - model: b
    parameters:
      weight: .5
merge_method: task_arithmetic
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    "della_linear by gradients": """\
models:
  - model: a
    parameters:
      weight: [0.2, 0.5, 0.9, 1.0, 0.95, 0.8, 0.4, 0.2]
      density: 0.55
      epsilon: 0.4
  - model: b
    parameters:
      weight: [0.8, 1.0, 0.9, 0.7, 0.5, 0.4, 0.2, 0.0]
      density: 0.5
      epsilon: 0.4
merge_method: della_linear
base_model: base
parameters:
  lambda: 0.94
  normalize: 1.0
dtype: bfloat16
tokenizer: {}
""",
    "karcher": """\
models:
  - model: a
  - model: b
merge_method: karcher
dtype: bfloat16
parameters:
  tol: 1e-10
  max_iter: 1200
""",
    "nuslerp by gradients": """\
models:
  - model: a
    parameters:
      weight: [0.1, 0.3, 0.1]
  - model: b # a comment
    parameters:
      weight: [0.9, 0.7, 0.9]

merge_method: nuslerp

dtype: float32
out_dtype: bfloat16 # Or float16, float32
""",
    "breadcrumbs_ties": """\
models:
  - model: a
    parameters:
      gamma: 0.01
      density: 0.9
      weight: [0.0825, 0.0825, 0.0825, 0.33, 0.0825]
  - model: b
    parameters:
      gamma: 0.01
      density: 0.9
      weight: [0.33, 0.0825, 0.0825, 0.0825, 0.0825]
merge_method: breadcrumbs_ties
base_model: base
parameters:
  normalize: false
  int8_mask: true
dtype: bfloat16
""",
    "slerp from a base that is no model": """\
merge_method: slerp
dtype: bfloat16
base_model: b
models:
  - model: a
parameters:
  t: 0.45

""",
    "model_stock with the base on top": """\
base_model: base
merge_method: model_stock
dtype: bfloat16
models:
  - model: a # storytelling
  - model: b # sprinkle in some
""",
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", FOUND)
def test_files_of_model_cards_are_merged(name: str) -> None:
    entry = read_mergekit(write(FOUND[name]))
    base = entry.base
    merged = merge(
        list(entry.ingredients), method=entry.method_name, base=base, parameters=entry.parameters, dtype=entry.dtype
    )
    dtype = "float16" if "dtype: float16" in FOUND[name] else "bfloat16"
    assert {str(x.dtype) for x in merged.values()} == {f"torch.{dtype}"} and set(merged) == set(NAMES)
    assert all(bool(x.isfinite().all()) for x in merged.values())
    assert (base is not None) == (METHODS[entry.method_name].needs_base)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + 'merge_method: della\nchat_template: "chatml"\n', "says chat_template"),
        (BASE + "merge_method: ties\ntokenizer:\n  source: union\n", "puts tokenizers together"),
        (BASE + "merge_method: sce\nselect_topk: .15\ndype: float32\n", "says select_topk"),
        (BASE + "merge_method: sce\nparameters: {normalize: true, select_topk: 0.5}\n", "no parameter weight"),
        ("name: First\nmodels: [{model: a}, {model: b}]\nmerge_method: karcher\n", "says name"),
        ("base_model: base\nmerge_method: della_linear\nmodules:\n  default:\n    slices: []\n", "says modules"),
        ("base_model: base\nmerge_method: breadcrumbs\nmodels: [{model: a, weight: 1.0}]\n", "says weight"),
        ("base_model: x/y+p/LORA\nmerge_method: sce\nmodels: [{model: a}]\n", "names a LoRA"),
        (BASE + "merge_method: slerp\nparameters: {t: 0.5}\noutput_dir: exp\n", "says output_dir"),
    ],
)
def test_what_model_cards_ask_for_beyond_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_mergekit(write(text))
    assert "merge.yml" in str(caught.value.where) and caught.value.hint
