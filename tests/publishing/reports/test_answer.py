"""What a report says first: sentences whose numbers are those of its inputs, worked out here by hand."""

from typing import Any

from soupkit.evaluation.task import Bin, ClassHits, Pair, Reliability
from soupkit.publishing.reports.answer import answers, ingredient_rows
from soupkit.publishing.reports.by_class import class_figures
from soupkit.publishing.reports.reliability import calibration_figures
from soupkit.publishing.reports.report_inputs import Results
from soupkit.search.document import SearchDocument, SearchScore
from tests.publishing.conftest import score


def results(search: dict[str, Any], *scores: dict[str, Any]) -> Results:
    document = SearchDocument.model_validate(search)
    found = Results(searches=[("soups/greedy", document)], roles={"soups/greedy": "greedy"})
    found.add_scores([*document.scores, *map(SearchScore.model_validate, scores)], "scores.json")
    return found


def test_the_page_begins_with_the_soup_its_gain_its_doubt_and_its_cost(search: dict[str, Any]) -> None:
    search |= {"paired": {"only_soup": 20, "only_best_ingredient": 12, "p": 0.215}, "seconds": 61.0}
    found = results(search, score("runs/a", 0.915, split="test"))
    found.pairs.append(Pair("runs/a", "soups/greedy", "digits", "test", 3, 18, 0.0015))
    assert answers(found) == [
        "soups/greedy is the soup: 3 of 6 ingredients, chosen by the greedy search.",
        "It reaches 92.50 % on digits:val (which chose it, and flatters it), 1.5 points above runs/a, the best "
        "ingredient; this may be chance (McNemar’s exact test, p = 0.21).",
        "It reaches 93.00 % on digits:test, 1.5 points above runs/a, the best ingredient; this is significant "
        "(McNemar’s exact test, p = 0.0015).",
        "The search took 2,700 images, 90 % of a full one, in 61 s.",
    ]


def test_without_a_search_the_best_soup_is_compared_on_each_task() -> None:
    found = Results()
    rows = [score("runs/a", 0.9), score("runs/b", 0.91), score("soups/uniform", 0.905), score("soups/x", 0.80)]
    found.add_scores(map(SearchScore.model_validate, rows), "scores.json")
    (sentence,) = answers(found)
    assert sentence == (
        "soups/uniform reaches 90.50 % on digits:val, 0.5 points below runs/b, the best ingredient; the two were not "
        "compared image by image, and their intervals overlap."
    )
    assert answers(Results(scores=found.scores[:2])) == [], "no soup, no answer"


def test_a_soup_that_is_its_best_ingredient_and_a_score_of_one_s_own(search: dict[str, Any]) -> None:
    own = {"ref": "soup", "task": "score", "value": 0.5, "unit": "number"}
    search |= {"score": own, "best_ingredient": own, "report": [], "counts": "answers", "images_scored": 12,
               "images_full": 12, "ingredients": [own], "selected": ["soup"]}  # fmt: skip
    assert answers(results(search))[1:] == [
        "It reaches 0.5 on score (which chose it, and flatters it), and is the best ingredient itself.",
        "The search took 12 answers, 100 % of a full one.",
    ]


def test_what_an_ingredient_adds_is_what_the_trials_say(search: dict[str, Any]) -> None:
    # The soup is a, b and c: 92.5. The trial of a and b alone reached 92.0, so c adds 0.5; without a or b nobody tried.
    search["shapley"] = {"shares": [{"ref": "runs/a", "share": 0.32}], "subsets": 7, "scored": 3}
    head, rows = ingredient_rows(SearchDocument.model_validate(search))
    assert head == ("ingredient", "alone, %", "weight", "when it joined", "leave one out", "Shapley share")
    assert rows[0] == ("runs/a", "91.00", "0.3333", "", "", "+32")
    assert rows[1] == ("runs/b", "90.00", "0.3333", "+1", "", "")
    assert rows[2] == ("runs/c", "89.00", "0.3333", "+0.5", "+0.5", "")
    assert rows[3] == ("runs/d", "88.50", "left out", "", "", "")
    search |= {"weights": [0.5, 0.25, 0.25]}
    head, rows = ingredient_rows(SearchDocument.model_validate(search))
    assert "leave one out" not in head and rows[0][2] == "0.5", "weights that differ are no mean of the others"


def test_gains_and_losses_are_counted_class_by_class() -> None:
    classes = ("cat", "dog", "owl", "never")
    found = Results(
        classes=[
            ClassHits("runs/a", "pets", "test", classes, (10, 20, 5, 0), (5, 10, 5, 0)),
            ClassHits("runs/b", "pets", "test", classes, (10, 20, 5, 0), (1, 1, 1, 0)),
            ClassHits("soups/greedy", "pets", "test", classes, (10, 20, 5, 0), (9, 10, 4, 0)),
        ]
    )
    (figure,) = class_figures(found)
    assert figure.rows == (
        ("cat", "10", "50.0", "90.0", "+40.0"),
        ("dog", "20", "50.0", "50.0", "+0.0"),
        ("owl", "5", "100.0", "80.0", "-20.0"),
    )
    assert figure.caption == "soups/greedy is better than runs/a on 1 of 3 classes and worse on 1."
    assert class_figures(Results(classes=found.classes[:2])) == [], "no soup, no gains"


def test_of_many_classes_the_extremes_are_drawn_and_all_are_in_the_table() -> None:
    names = tuple(f"class {i}" for i in range(100))
    counts = tuple(range(100))
    found = Results(
        classes=[
            ClassHits("runs/a", "t", "", names, (100,) * 100, (50,) * 100),
            ClassHits("soups/x", "t", "", names, (100,) * 100, counts),
        ]
    )
    (figure,) = class_figures(found)
    assert len(figure.rows) == 100 and "the 12 largest gains and the 12 largest losses" in figure.caption


def test_calibration_is_a_diagram_and_its_numbers() -> None:
    bins = (Bin(10, 0.3, 0.2), Bin(30, 0.8, 0.9))
    row = SearchScore.model_validate({**score("runs/a", 0.7), "metrics": {"ece": 0.1, "nll": 0.5, "acc1": 0.7}})
    found = Results(scores=[row], reliability=[Reliability("runs/a", "digits", "val", bins)])
    (figure,) = calibration_figures(found)
    assert figure.head == ("model", "ECE", "NLL") and figure.rows == (("runs/a", "0.1", "0.5"),)
    assert "runs/a 10.0 points" in figure.alt  # (10 x 10 + 30 x 10) / 40
