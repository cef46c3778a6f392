"""What is taken for granted of a task is said: on the terminal, in documents, in `--json`, on the card and the page."""

import json
from pathlib import Path

import pytest
from PIL import Image

import soupkit
from tests.processes import environment
from tests.processes import soupkit as command

NO_TEMPLATES = "pets: no zeroshot_classification_templates.txt in"
NO_NAMES = "pets: class names are those of the data, with spaces for underscores"


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of pictures that says nothing but its classes, in the user's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUPKIT_CACHE", str(tmp_path / "cache"))
    for split in ("val", "test"):
        for i, name in enumerate(("black_cat", "white_dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for j in range(4):
                grey = Image.new("RGB", (16, 16), (60 * i + 20 * j,) * 3)
                grey.save(tmp_path / "pets" / split / name / f"{split}-{i}{j}.png")
    return "pets"


def test_what_a_search_takes_for_granted_is_on_the_terminal_in_json_and_on_the_card(
    pets: str, tiny_clips: list[Path], tmp_path: Path
) -> None:
    done = command("search", *tiny_clips[1:], "--task", pets, "-o", "soup", "--json", env=environment())
    assert done.returncode == 0, done.stderr
    for said in (NO_TEMPLATES, NO_NAMES):
        assert said in done.stderr
        for document in (json.loads(done.stdout), json.loads((tmp_path / "soup" / "search.json").read_text())):
            assert sum(note.startswith(said) for note in document["notes"]) == 1
    soupkit.publish("soup", "me/soup", license="mit", folder="hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.count(f"- Of its scores: {NO_NAMES}") == 1 and card.count("- Of its scores: pets: no zeroshot") == 1
    assert "- The search that chose it says: 8 images select" in card and str(tmp_path) not in card
    soupkit.report("soup", "report.html")
    assert (tmp_path / "report.html").read_text().count(NO_NAMES) == 1


def test_what_a_curve_takes_for_granted_is_on_the_terminal_and_in_json(
    pets: str, tiny_clips: list[Path], tmp_path: Path
) -> None:
    arguments = ("interpolate", *tiny_clips[:2], "--task", pets, "--points", "2", "-o", "curve.json", "--json")
    done = command(*arguments, env=environment())
    assert done.returncode == 0 and NO_NAMES in done.stderr, done.stderr
    for document in (json.loads(done.stdout), json.loads((tmp_path / "curve.json").read_text())):
        assert sum(note == NO_NAMES for note in document["notes"]) == 1


def test_what_is_said_of_the_soup_where_it_is_scored_is_on_its_card(tiny_clips: list[Path], tmp_path: Path) -> None:
    soup = soupkit.merge(tiny_clips[1:], tmp_path / "soup")
    scores = soupkit.evaluate(soup.output, "digits", limit=20, cache=tmp_path / "cache").to_dict()
    ref = scores["scores"][0]["ref"]
    scores["notes"] = [f"{ref} on digits: outputs are classes by name", f"{ref}: names converted", "other: not its"]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    soupkit.publish(soup.output, "me/x", license="mit", scores=tmp_path / "scores.json", folder=tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "- Of its scores: soup on digits: outputs are classes by name" in card and "names converted" in card
    assert "not its" not in card
