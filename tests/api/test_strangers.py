"""Situations of other people's: numbers of numpy's, a home written as ~, results that go on as inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soupkit
from soupkit.errors import SoupkitError, UsageError


def test_numbers_of_numpy_and_torch_are_numbers(here: Path) -> None:
    two = ["runs/a", "runs/b"]
    weights = {str(i): w for i, w in enumerate((np.array([2, 1]), torch.tensor([2.0, 1.0]), [np.float32(2), 1]))}
    merged = [soupkit.merge(two, f"soups/{name}", weights=w).fingerprint for name, w in weights.items()]
    assert len(set(merged)) == 1 and merged[0] == soupkit.merge(two, "soups/plain", weights=[2, 1]).fingerprint
    spheres = soupkit.merge(two, "soups/t", method="slerp", parameters={"t": np.float32(0.5)}, dtype=torch.bfloat16)
    assert spheres.dtype == "bfloat16"
    limit: Any
    for limit in (np.int64(20), 20.0, torch.tensor(20)):
        assert soupkit.evaluate("runs/a", "digits", limit=limit, device=torch.device("cpu")).scores[0].n == 20  # type: ignore[arg-type]
    curve = soupkit.interpolate("runs/base", "runs/a", tasks="digits", points=np.int64(2), limit=20)  # type: ignore[arg-type]
    assert len(curve.document.points) == 2
    plan = soupkit.search(two, "x", tasks="digits", strategy="greedy", orders=np.int32(2), limit=20, dry_run=True).plan  # type: ignore[arg-type]
    assert plan is not None


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda: soupkit.evaluate("runs/a", "digits", limit=True), "limit"),
        (lambda: soupkit.evaluate("runs/a", "digits", limit="20"), "limit"),
        (lambda: soupkit.evaluate("runs/a", "digits", limit=2.5), "limit"),
        (lambda: soupkit.merge(["runs/a", "runs/b"], "out", fresh="no"), "fresh"),
        (lambda: soupkit.merge(["runs/a", "runs/b"], "out", threads=[2]), "threads"),
        (lambda: soupkit.train("recipe.yaml", "out", workers="two"), "workers"),
        (lambda: soupkit.interpolate("runs/base", "runs/a", tasks="digits", points=2.5), "points"),
        (lambda: soupkit.publish("runs/a", "me/a", license=3), "license"),
    ],
)
def test_an_option_of_another_kind_is_named_before_the_work(call: Any, where: str, here: Path) -> None:
    with pytest.raises(UsageError, match="input should be a valid") as caught:
        call()
    assert caught.value.where == where and not (here / "out").exists()


def test_a_home_that_only_a_shell_knows_is_written_out_in_the_hint_and_never_made(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    with pytest.raises(SoupkitError, match=f"~/runs/a: does not exist\nhint: write {here}/runs/a"):
        soupkit.compare(["~/runs/a", "runs/b"])
    for call in (
        lambda: soupkit.merge(["runs/a", "runs/b"], "~/out"),
        lambda: soupkit.train("recipe.yaml", "~/out/x", run="stage1"),
        lambda: soupkit.report("scores.json", "~/out.html"),
    ):
        with pytest.raises(SoupkitError, match=f"stands for a home to a shell alone: write {here}"):
            call()
    assert not (here / "~").exists()
    (here / "~").mkdir()
    assert soupkit.merge(["runs/a", "runs/b"], "~/out").status == "written", "a directory may have that name"


def test_results_are_taken_where_paths_are(here: Path) -> None:
    soup = soupkit.merge(["runs/a", "runs/b"], "soups/mean")
    found = soupkit.search([soup, "runs/base"], "soups/best", score=lambda directory: 1.0)
    scores = soupkit.evaluate([soup, found, "runs/a"], "digits", limit=20)
    assert [score.ref for score in scores.scores] == ["soups/mean", "soups/best", "runs/a"]
    page = soupkit.report([found, scores.write("written.json")], "page.html")
    assert {"soups/mean", "runs/a"} <= set(page.models)
    pushed = soupkit.publish(soup, "me/x", license="mit", scores=scores.write("written.json"), folder="hub")
    assert pushed.status == "written" and "scores.json" in [file.path for file in pushed.files]
