"""The card says what the facts are, and leaves alone what a person wrote."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from soupkit.errors import UsageError
from soupkit.evaluation.task import Score
from soupkit.merging.entry import read_soup
from soupkit.merging.registry import METHODS
from soupkit.merging.soup_directory import IngredientRecord, OutputRecord, SoupDocument, SourceRecord
from soupkit.publishing.hub.card import (
    CardFacts,
    dataset_id,
    eval_results_file,
    metadata,
    render,
    sections,
)
from soupkit.publishing.hub.licenses import LICENSES, Parent, choose_license
from soupkit.publishing.hub.readme import read_readme, split_front_matter
from soupkit.publishing.hub.scores import Scores
from soupkit.publishing.hub.verify import VerifiedSoup
from tests.publishing.conftest import score

RECORD = SoupDocument(
    method="linear",
    dtype="bfloat16",
    model="ViT-B-32",
    ingredients=(IngredientRecord("a", "xxh3:a", None, 0.25), IngredientRecord("hf-hub:org/b", "xxh3:b", "beef", 0.75)),
    output=OutputRecord("xxh3:soup", sha256="cafe"),
)
PARENT = Parent("org/b", "v1", "mit")


def facts(record: SoupDocument = RECORD, scores: Scores | None = None, license_: str = "mit") -> CardFacts:
    soup = VerifiedSoup(Path("soup"), record, "ViT-B-32", 151_277_313, ())
    return CardFacts("org/soup", soup, scores or Scores(), (PARENT,), license_, {})


@pytest.mark.parametrize("name", METHODS)
def test_a_card_cites_the_paper_of_its_method_and_no_other(name: str) -> None:
    text = render(facts(replace(RECORD, method=name)), None)
    cited = {method.paper.url for method in METHODS.values() if method.paper.url in text}
    assert cited == {METHODS[name].paper.url} and METHODS[name].citation in text


def test_a_method_of_a_package_that_is_not_installed_is_named_and_not_cited() -> None:
    text = render(facts(replace(RECORD, method="of_a_stranger")), None)
    assert "method `of_a_stranger`" in text and "bibtex" not in text


def test_weights_and_fingerprints_of_ingredients_and_base_stand_in_a_table() -> None:
    making = sections(facts(replace(RECORD, base=SourceRecord("hf-hub:org/base", "xxh3:base"))))["making"]
    assert "| `a` | 0.25 | `xxh3:a` | – |" in making
    assert "| [`hf-hub:org/b`](https://huggingface.co/org/b) | 0.75 | `xxh3:b` | `beef` |" in making
    assert "| [`hf-hub:org/base`](https://huggingface.co/org/base) | base | `xxh3:base` | – |" in making


def test_the_recipe_of_a_card_is_one_that_merge_reads(tmp_path: Path) -> None:
    base = SourceRecord("hf-hub:org/base", "xxh3:base")
    for record in (RECORD, replace(RECORD, method="ties", base=base, parameters={"density": 0.4})):
        (block,) = re.findall(r"```yaml\n(.*?)```", sections(facts(record))["making"], re.DOTALL)
        (tmp_path / "recipe.yaml").write_text(block)
        entry = read_soup(tmp_path / "recipe.yaml")
        assert (entry.method, entry.ingredients, entry.dtype) == (record.method, ["a", "hf-hub:org/b"], "bfloat16")
        assert entry.weights == ([0.25, 0.75] if record is RECORD else None)
        assert (entry.base, entry.parameters) == (base.ref if record.base else None, record.parameters)


def test_pictures_are_shown_also_where_nothing_was_scored() -> None:
    shown = sections(replace(facts(), figures={"search.png": "The search, trial by trial"}))["scores"]
    assert "None were recorded" in shown and "![The search, trial by trial](search.png)" in shown


def test_a_weight_that_no_number_says_is_by_tensor() -> None:
    record = replace(RECORD, ingredients=(IngredientRecord("a", "xxh3:a"),))
    assert "| `a` | by tensor |" in sections(facts(record))["making"]


def test_the_hub_reads_the_metadata_as_they_are_meant() -> None:
    scores = Scores(soup=(Score(**score("soup", 0.5, "wds/vtab/cifar10", "test")),))
    data = ModelCard(render(facts(scores=scores), None)).data
    assert data.license == "mit" and data.base_model == ["org/b"] and data.library_name == "open_clip"
    assert data.eval_results is not None
    assert [(r.dataset_type, r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("clip-benchmark/wds_vtab-cifar10", "acc1", 0.5)
    ]


def test_only_scores_on_data_sets_of_the_hub_go_into_its_own_results() -> None:
    assert eval_results_file(Scores(soup=(Score(**score("soup", 0.5, "digits")),))) is None
    (entry,) = yaml.safe_load(eval_results_file(Scores(soup=(Score(**score("soup", 0.5, "wds/imagenet1k")),))) or b"")
    assert entry["value"] == 0.5 and entry["dataset"]["id"] == dataset_id("wds/imagenet1k")


def test_scores_on_images_that_chose_the_soup_are_marked() -> None:
    chosen = Scores(soup=(Score(**score("soup", 0.5)),), selected=frozenset({("digits", "val")}))
    assert "digits:val * |" in sections(facts(scores=chosen))["scores"]
    assert "too good" in sections(facts(scores=chosen))["scores"]


@pytest.mark.parametrize(
    ("given", "parents", "existing", "chosen"),
    [
        ("mit", (), None, "mit"),
        (None, (PARENT,), None, "mit"),
        (None, (PARENT,), "apache-2.0", "apache-2.0"),
        (None, (PARENT, Parent("org/c", None, "mit")), None, "mit"),
    ],
)
def test_a_licence_is_given_or_kept_or_shared_by_all_parents(
    given: str | None, parents: tuple[Parent, ...], existing: str | None, chosen: str
) -> None:
    assert choose_license(given, parents, existing) == chosen


@pytest.mark.parametrize(("given", "existing"), [("apache2", None), (None, "My Own"), (None, ["mit"]), (None, 3)])
def test_a_licence_that_the_hub_would_refuse_is_refused_with_the_nearest(given: str | None, existing: object) -> None:
    with pytest.raises(UsageError, match="is no licence that the Hub knows") as caught:
        choose_license(given, (), existing)
    assert given is None or "apache-2.0" in caught.value.hint
    assert caught.value.where == ("--license" if given else "README.md")


def test_the_licences_of_the_hub_include_those_of_usual_clip_models() -> None:
    assert {"mit", "apache-2.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "other", "apple-amlr"} <= LICENSES


@pytest.mark.parametrize("parents", [(), (Parent("org/b", None, None),), (PARENT, Parent("org/c", None, "cc0-1.0"))])
def test_where_nothing_says_the_licence_it_must_be_given(parents: tuple[Parent, ...]) -> None:
    with pytest.raises(UsageError, match="nothing says the soup's licence"):
        choose_license(None, parents, None)


def test_a_card_made_again_is_the_same() -> None:
    text = render(facts(), None)
    assert render(facts(), text) == text


def test_what_a_person_wrote_stays_and_a_part_that_was_removed_stays_away() -> None:
    text = render(facts(), None)
    start, end = text.index("<!-- soupkit: limits -->"), text.index("<!-- soupkit: licence -->")
    edited = text[:start] + "By hand.\n\n" + text[end:].replace("The method", "Something else")
    renewed = render(
        facts(replace(RECORD, dtype="float16")), edited.replace("license: mit", "license: mit\nlanguage: en")
    )
    assert "By hand." in renewed and "soupkit: limits" not in renewed
    assert "float16" in renewed and "bfloat16" not in renewed and "language: en" in renewed


def test_a_readme_without_markers_gets_all_parts_at_its_end() -> None:
    renewed = render(facts(), "# Mine\n\nMy words.\n")
    assert renewed.index("My words.") < renewed.index("<!-- soupkit: summary -->")
    assert [name for name in sections(facts()) if f"<!-- soupkit: {name} -->" not in renewed] == []


@pytest.mark.parametrize(
    ("readme", "what"),
    [
        ("<!-- soupkit: usage -->\nno end", "do not pair"),
        ("<!-- soupkit: usage -->\n<!-- /soupkit: usage -->\n" * 2, "do not pair"),
        ("---\nlicense: [\n---\n", "not valid YAML"),
        ("---\na: &a [x, x]\nb: [*a, *a]\n---\n", "aliases"),
        ("---\na: " + "[" * 5000 + "\n---\n", "not valid YAML"),
        ("---\na: !!python/object/apply:os.getcwd []\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "not a map"),
        ("---\ntags: foo\n---\n", "whose tags are no list of words"),
        ("---\ntags: [[a], b]\n---\n", "whose tags are no list of words"),
        ("---\nlanguage: {en: 1}\n---\n", "whose language is no word and no list of words"),
        ("---\nlanguage: [no]\n---\n", "whose language is no word and no list of words"),
        ("---\ndatasets: [imagenet 1k]\n---\n", "whose datasets name 'imagenet 1k', no repository"),
        ("---\nthumbnail: [a.png]\n---\n", "whose thumbnail is no word"),
    ],
)
def test_a_readme_that_cannot_be_renewed_is_refused_by_name(readme: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        render(facts(), readme)
    assert caught.value.where == "README.md"


def test_front_matter_is_found_after_a_byte_order_mark_and_with_windows_line_ends() -> None:
    assert split_front_matter("\ufeff---\r\nlicense: mit\r\n---\r\ntext") == ({"license": "mit"}, "text")
    assert split_front_matter("text\n---\nno: data\n---\n") == ({}, "text\n---\nno: data\n---\n")


def test_metadata_of_a_soup_without_parents_on_the_hub_name_no_base_model() -> None:
    alone = replace(facts(), parents=())
    assert "base_model" not in metadata(alone) and "base_model_relation" not in metadata(alone)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    for data in (b"\xff\xfe\x00", b"x" * (5 << 20)):
        path.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            read_readme(path)
        assert caught.value.where == str(path)


EVIL = "<!-- /soupkit: making --> | `x` <script>alert(1)</script> <!-- soupkit: usage -->"


def test_markers_and_markup_within_names_are_words_and_the_next_push_renews_the_card() -> None:
    evil = replace(
        RECORD,
        method=EVIL,
        parameters={EVIL: EVIL},
        model=EVIL,
        ingredients=(IngredientRecord(EVIL, EVIL, EVIL, 0.5),),
    )
    scores = Scores((Score(**score(EVIL, 0.5, EVIL)),), (), frozenset(), EVIL, EVIL)
    shown = {"a b.png": EVIL}
    text = render(replace(facts(evil, scores), figures=shown, parents=(Parent("org/b", EVIL, EVIL),)), None)
    assert render(replace(facts(evil, scores), figures=shown, parents=(Parent("org/b", EVIL, EVIL),)), text) == text
    body = split_front_matter(text)[1]
    markers = re.findall(r"<!-- /?soupkit: \w+ -->", body)
    assert markers == [
        m for name in sections(facts()) for m in (f"<!-- soupkit: {name} -->", f"<!-- /soupkit: {name} -->")
    ]
    outside_of_code = re.sub(r"`[^`]*`", "", body)
    assert "<script>" not in outside_of_code
    assert "a%20b.png" in body
