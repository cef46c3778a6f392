"""`interpolate`: each point is the model that `merge` writes, and scores what `evaluate` says of it."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

import soupkit
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_WEIGHTS
from soupkit.cli.commands import register
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.merging.entry import SoupEntry
from soupkit.merging.preparation import prepare
from soupkit.merging.tensor_runs import Reader
from soupkit.search import interpolate
from soupkit.search.interpolation import fill_between
from tests.conftest import random_state, save


def test_every_point_scores_what_the_merged_model_scores(fine_tunes: list[Path], tmp_path: Path) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache", limit=100, batch_size=16, device="cpu")
    base, far = fine_tunes[0], fine_tunes[5]
    curve = interpolate(
        base, [far], tasks=["digits"], report_tasks=["digits"], points=4, evaluation=options
    ).document.to_dict()
    assert [p["alpha"] for p in curve["points"]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for i, point in enumerate(curve["points"]):
        soup = tmp_path / f"soup{i}"
        soupkit.merge([far], soup, method="interpolate", base=base, parameters={"alpha": point["alpha"]})
        want = soupkit.evaluate([soup], ["digits:val", "digits:test"], options=options).scores
        assert [(s["split"], s["value"]) for s in point["scores"]] == [(s.split, s.value) for s in want]
    values = [p["scores"][0]["value"] for p in curve["points"]]
    assert curve["best_alpha"] == curve["points"][values.index(max(values))]["alpha"]
    assert curve["task"] == "digits:val"


@pytest.mark.parametrize("count", [1, 3])
def test_the_weights_that_are_scored_are_the_exact_ones_rounded_and_those_that_merge_writes(
    count: int, tmp_path: Path
) -> None:
    """base + alpha (mean - base), in float64: a float32 that is not its neighbour, bit for bit that of the merge."""
    refs = [save(tmp_path / f"in{i}", random_state(i)) for i in range(count)]
    base = save(tmp_path / "base", random_state(9))
    states = [load_file(ref / OPEN_CLIP_WEIGHTS) for ref in (*refs, base)]
    for alpha in (0.0, 1 / 3, 1.0):
        live = {name: torch.full_like(tensor, torch.nan) for name, tensor in states[-1].items()}
        with ExitStack() as stack:
            entry = SoupEntry(ingredients=[str(ref) for ref in refs], method="interpolate", base=str(base))
            prepared = prepare(entry, tmp_path / "none", stack)
            fill_between(live, prepared, alpha, Reader(torch.device("cpu")))
        soup = tmp_path / f"soup{alpha}"
        soupkit.merge(refs, soup, method="interpolate", base=base, parameters={"alpha": alpha})
        for name, merged in load_file(next(soup.glob("*.safetensors"))).items():
            *ingredients, origin = (state[name].double() for state in states)
            exact = origin + alpha * (sum(ingredients) / count - origin)
            assert torch.equal(live[name], merged), name
            assert torch.allclose(merged.double(), exact, rtol=2**-23, atol=2**-24 * float(exact.abs().max())), name


def test_the_same_call_takes_its_scores_from_the_cache(
    fine_tunes: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EvaluationOptions(cache=cache, limit=50, batch_size=16, device="cpu")
    first = interpolate(fine_tunes[0], fine_tunes[1:3], tasks=["digits"], points=3, evaluation=options)
    monkeypatch.setattr(Evaluator, "run", None)
    again = interpolate(fine_tunes[0], fine_tunes[1:3], tasks=["digits"], points=3, evaluation=options)
    assert again.document.to_dict() == first.document.to_dict()


def test_what_is_no_curve_is_refused(fine_tunes: list[Path]) -> None:
    with pytest.raises(UsageError, match="two points"):
        interpolate(fine_tunes[0], fine_tunes[1:2], tasks=["digits"], points=1)
    with pytest.raises(UsageError, match="no task"):
        interpolate(fine_tunes[0], fine_tunes[1:2], tasks=[])
    with pytest.raises(UsageError, match="no fine-tune"):
        interpolate(fine_tunes[0], [], tasks=["digits"])


@pytest.mark.parametrize(
    ("words", "what", "where"),
    [
        (("--plot", "."), "is a directory", "--plot ."),
        (("--plot", "nowhere/curve.svg"), "lies in no directory", "--plot nowhere/curve.svg"),
        (("--plot", "curve.gif"), "has no suffix of .png", "curve.gif"),
        (("-o", "."), "is a directory", "-o ."),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(words: tuple[str, str], what: str, where: str) -> None:
    commands = Typer()
    register(commands)
    done = CliRunner().invoke(commands, ["interpolate", "no-base", "no-fine-tune", "--task", "digits", *words])
    assert done.exit_code == 2 and f"error: {where}: {what}" in done.output
