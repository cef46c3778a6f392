"""How sure a model is of each answer: margins beside hits, and what a file of hits keeps of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soupkit
from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.evaluator import Evaluator
from soupkit.search.hits_file import AMONG_FIVE, RIGHT, HitsFile, flags_of, levels_of


def test_margins_are_those_of_the_logits(fine_tunes: list[Path], cache: Path) -> None:
    options = EvaluationOptions(cache=cache, limit=90, batch_size=16, device="cpu", scores=False)
    with open_checkpoint(fine_tunes[0]) as checkpoint:
        config = architecture_of(checkpoint).config
        assert config is not None
        with Evaluator(
            config, open_tasks(["digits"]), options, tokenizer_files=checkpoint.tokenizer_files
        ) as evaluator:
            evaluator.load(checkpoint)
            hits = evaluator.hits(0, evaluator.pixels[0].rows, evaluator.text_side(0), keep_logits=True)
    logits = np.asarray(hits.logits, np.float64)
    own = logits[np.arange(90), hits.labels]
    others = np.where(np.eye(10, dtype=bool)[hits.labels], -np.inf, logits).max(axis=1)
    assert hits.margins is not None and 0 < hits.top1.mean() < 1
    np.testing.assert_allclose(hits.margins, np.abs(own - others), atol=1e-6)


def test_levels_grow_with_margins_and_hits_stay_what_they_are(tmp_path: Path) -> None:
    margins = np.array([0.0, 1e-5, 1e-3, 1.2e-3, 2e-3, 0.04, 0.05, 1.0, 40.0, 1e5, np.inf], np.float32)
    right, five = np.arange(11) % 2 == 0, np.arange(11) % 3 > 0
    flags = flags_of(right, five, margins)
    levels = levels_of(flags)
    assert (
        (np.diff(levels.astype(int)) >= 0).all() and levels[-1] == 63 and (np.diff(levels[2:9].astype(int)) > 0).all()
    )
    assert levels[4] - levels[2] == 4, "four levels double a margin"
    assert ((flags & RIGHT) > 0).tolist() == right.tolist() and ((flags & AMONG_FIVE) > 0).tolist() == five.tolist()
    assert not levels_of(flags_of(right, None, None)).any()
    file = HitsFile(tmp_path / "hits", 20, writes=True)
    file.add(np.arange(11), flags)
    file.sync()
    again = HitsFile(tmp_path / "hits", 20, writes=False)
    assert (again.flags[:11] == flags).all() and again.known.sum() == 11


@pytest.mark.parametrize("proxy", [0.0, 0.5])
def test_a_search_with_likely_stops_scores_for_real_what_it_keeps(
    fine_tunes: list[Path], cache: Path, tmp_path: Path, proxy: float
) -> None:
    options = EvaluationOptions(cache=cache, limit=240, batch_size=20, device="cpu", scores=False)
    given: dict[str, Any] = {"tasks": "digits", "proxy": proxy, "evaluation": options, "stopping": "likely"}
    document = soupkit.search(fine_tunes, tmp_path / "soup", **given).document
    (score,) = soupkit.evaluate([tmp_path / "soup"], ["digits:val"], options=options).scores
    assert document.stopping == "likely" and document.score.value == score.value >= document.best_ingredient.value
    assert all(d.images_scored is not None and d.images_scored <= 240 for d in document.decisions)
    again = soupkit.search(fine_tunes, tmp_path / "soup", **given)
    assert again.status == "unchanged"
