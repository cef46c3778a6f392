"""`soup.json` as a value: what is written is read again, and files of other versions are read too."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soupkit.checkpoint.fingerprint import Fingerprint
from soupkit.merging.soup_directory import IngredientRecord, SoupDocument, SourceRecord

PLANNED = SoupDocument(
    method="linear",
    parameters={"weight": [2.0, 1.0]},
    dtype="bfloat16",
    base=SourceRecord("base"),
    model="ViT-B-32",
    model_from="--model",
    ingredients=(IngredientRecord("a", weight=2 / 3), IngredientRecord("b", weight=1 / 3)),
)
PRINTS = [Fingerprint(f"xxh3:{i}", f"xxh3:i{i}", f"xxh3:t{i}") for i in range(4)]
WHOLE = PLANNED.completed(PRINTS, ["1", None, "3"], "4")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    WHOLE.write(tmp_path)
    assert SoupDocument.read(tmp_path) == WHOLE


def test_the_keys_are_those_of_the_interface(tmp_path: Path) -> None:
    WHOLE.write(tmp_path)
    said = json.loads((tmp_path / "soup.json").read_text())
    assert list(said) == [
        "schema", "soupkit", "method", "parameters", "dtype", "base", "model", "model_from", "ingredients", "output",
    ]  # fmt: skip
    assert said["base"] == {"ref": "base", "fingerprint": "xxh3:2", "sha256": "3"}
    assert said["ingredients"][0] == {"ref": "a", "fingerprint": "xxh3:0", "sha256": "1", "weight": 2 / 3}
    assert said["output"] == {
        "fingerprint": "xxh3:3", "towers": {"image": "xxh3:i3", "text": "xxh3:t3"}, "sha256": "4",
    }  # fmt: skip


def test_what_a_file_lacks_has_a_default_and_what_is_new_in_it_is_left_out() -> None:
    old = {"schema": 1, "method": "uniform", "ingredients": [{"ref": "a", "since": 2031}], "recipe": {"x": 1}}
    read = SoupDocument.of(old)
    assert read is not None and read.ingredients == (IngredientRecord("a"),)
    assert (read.base, read.output.fingerprint, read.parameters) == (None, "", {})


@pytest.mark.parametrize("text", ["", "[]", '{"ingredients": "all"}', '{"output": []}', "null", "{"])
def test_what_is_no_soup_json_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "soup.json").write_text(text)
    assert SoupDocument.read(tmp_path) is None
    assert SoupDocument.read(tmp_path / "nowhere") is None


def test_a_soup_is_the_same_wherever_its_ingredients_lie() -> None:
    moved = tuple(replace(i, ref=f"elsewhere/{i.ref}", sha256=None) for i in WHOLE.ingredients)
    assert WHOLE.is_same_soup(replace(WHOLE, ingredients=moved, soupkit="9.9"))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "uniform"},
        {"parameters": {"weight": [1.0, 2.0]}},
        {"dtype": "float32"},
        {"model": "ViT-L-14"},
        {"base": None},
        {"base": SourceRecord("base", "xxh3:9")},
        {"ingredients": WHOLE.ingredients[::-1]},
        {"schema": 2},
    ],
)
def test_a_soup_of_other_weights_or_made_in_another_way_is_another(change: dict[str, object]) -> None:
    assert not WHOLE.is_same_soup(replace(WHOLE, **change))


def test_a_document_is_made_of_plain_values() -> None:
    assert json.loads(json.dumps(asdict(WHOLE))) == json.loads(json.dumps(asdict(WHOLE), allow_nan=False))
