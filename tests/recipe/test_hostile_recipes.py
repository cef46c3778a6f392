"""Recipes that are damaged or mean harm end in an error that names the line, soon and in little memory."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soupkit.errors import SoupkitError, UsageError
from soupkit.recipe.graph import read_recipe
from soupkit.training.runs import read_runs

RUN = "model: x\n    data: {shards: digits:train}\n    batch_size: 8\n    samples: 64\n    lr: 1e-3\n"
WHOLE = f"version: 1\ntrain:\n  a:\n    {RUN}soup:\n  s: {{ingredients: ['${{train.a}}', b]}}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)

HOSTILE = {
    "aliases that multiply": (BOMB, "more than 100,000 values"),
    "merged aliases that multiply": (MERGED, "more than 100,000 values"),
    "an alias of what it is in": ("version: 1\ntrain: &a {b: *a}\n", "stands for what it is in"),
    "a key that is a number": (f"version: 1\ntrain:\n  1:\n    {RUN}", "the key 1 is no text"),
    "a key that is a list": ("version: 1\n? [a, b]\n: 1\n", "a list or a map is no text"),
    "a key that is nothing": ("version: 1\n~: 1\n", "is no text"),
    "a run that leads elsewhere": (f"version: 1\ntrain:\n  ../x:\n    {RUN}", "no name for a run"),
    "a run at an absolute path": (f"version: 1\ntrain:\n  /tmp/x:\n    {RUN}", "no name for a run"),
    "a run with a long name": (f"version: 1\ntrain:\n  {'x' * 300}:\n    {RUN}", "no name for a run"),
    "a variant that leads elsewhere": (
        f"version: 1\ntrain:\n  a:\n    {RUN}    sweep: {{variants: {{../x: {{lr: 1}}}}}}\n",
        "no name for a run",
    ),
    "a soup that leads elsewhere": ("version: 1\nsoup: {../x: {ingredients: [a, b]}}\n", "no name for a soup"),
    "a recipe that leads elsewhere": (WHOLE.replace("version: 1", "version: 1\nname: .."), "name should be a word"),
    "a folder that leads elsewhere": (
        WHOLE + "push: {soup: '${soup.s}', repo: me/x, folder: ../../x}\n",
        "leads out of the run's directory",
    ),
    "a sweep of many": (
        f"version: 1\ntrain:\n  a:\n    {RUN}    sweep: {{count: 1000000000, draw: {{lr: {{uniform: [1, 2]}}}}}}\n",
        r"count: input should be less",
    ),
    "sweeps that multiply": (
        f"version: 1\ntrain:\n  a:\n    {RUN}    sweep: {{count: 1000, draw: {{lr: {{uniform: [1, 2]}}}}}}\n"
        f"soup: {{s: {{ingredients: [{', '.join(['${train.a}'] * 200)}]}}}}\n".replace("${train.a}", "'${train.a}'"),
        "more than 100,000 runs",
    ),
    "a number of 5,000 digits": (WHOLE.replace("samples: 64", f"samples: {'9' * 5000}"), "too long a number"),
    "a number beyond 64 bits": (WHOLE.replace("samples: 64", f"samples: {'9' * 30}"), "samples: input should be less"),
    "a number beyond floats": (WHOLE.replace("samples: 64", "samples: 1e999"), "samples"),
    "a float beyond floats": (WHOLE.replace("lr: 1e-3", "lr: 1.0e+999"), "lr: input should be a finite number"),
    "a date that is none": (WHOLE.replace("lr: 1e-3", "lr: 2020-99-99"), "not valid YAML"),
    "lists in lists": ("[" * 400 + "]" * 400, r"levels deep|not valid YAML"),
    "many lists in lists": ("[" * 100_000, "not valid YAML"),
    "maps in maps": ("version: 1\ntrain: {a: {model: " + "{a: " * 60 + "1" + "}" * 60 + "}}\n", "levels deep"),
    "a class of Python": ("version: !!python/object/apply:os.system [id]\n", "not valid YAML"),
    "no number behind the tag of one": ("version: !!int x\n", "not valid YAML"),
    "no date behind the tag of one": ("version: !!timestamp x\n", "not valid YAML"),
    "no text": ("\x00\x01", "not valid YAML"),
    "a large file": ("#" * (2 << 20), "larger than 1 MiB"),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def recipe(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return recipe


@pytest.mark.parametrize(("text", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_means_harm_is_refused_with_its_place(write: Callable[[str], Path], text: str, said: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=said) as caught:
        read_recipe(write(text))
    assert caught.value.hint
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


def test_a_recipe_as_people_write_them_is_within_the_limits(write: Callable[[str], Path]) -> None:
    common = WHOLE.replace("  a:\n", "  a: &a\n") + "    \n"
    assert [s.name for s in read_recipe(write(common)).steps] == ["train.a", "soup.s"]
    many = "version: 1\ntrain:\n" + "".join(f"  a{i}:\n    {RUN}" for i in range(500))
    assert len(read_runs(write(many))) == 500


PIECES = ["[", "{", "*a", "&a ", "!!", ": ", "- ", "\n  ", "'", "1e9", "~", "\t", "..", "%", "<<: "]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_in_a_recipe_it_is_read_or_refused(
    write: Callable[[str], Path], data: st.DataObject
) -> None:
    text = WHOLE + "evaluate: {refs: ['${soup.s}'], tasks: [digits:test]}\nreport: {}\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        to = min(len(text), at + data.draw(st.integers(0, 12)))
        piece = st.sampled_from(
            ["[", "{", "*a", "&a ", "!!", ": ", "- ", "\n  ", "'", "1e9", "~", "\t", "..", "%", "<<: "]
        )
        text = text[:at] + data.draw(piece | st.text(max_size=3)) + text[to:]
    path = write("")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_recipe(path)
    except SoupkitError as error:
        assert str(path) in error.where  # noqa: PT017 - most of them are refused
