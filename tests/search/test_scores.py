"""Scores of one's own: commands and functions, of checkpoints that are no CLIPs, resumed, refused, and beside tasks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import soupkit
from soupkit.errors import ArchitectureError, SoupkitError, UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.search import SearchEntry, SearchResult
from soupkit.search.score_answer import Answer, ScoreError, answer_of, read_answer
from soupkit.search.score_function import what_it_takes
from tests.search.conftest import SIZES, Told


def loss(state: Mapping[str, Tensor], centre: Path) -> float:
    """The mean squared distance from the centre, in float64."""
    goal = load_file(centre)
    return float(np.mean([np.mean((state[n].double().numpy() - g.double().numpy()) ** 2) for n, g in goal.items()]))


SCRIPT = """
import json, os, sys, pathlib, numpy as np
from safetensors.numpy import load_file
model, centre, log = map(pathlib.Path, sys.argv[1:4])
(file,) = model.glob("*.safetensors")
state, goal = load_file(file), load_file(centre)
log.open("a").write(os.environ["SOUPKIT_SEED"] + "\\n")
print("looking at", model, file=sys.stderr)
print("not the answer: 99")
print(float(np.mean([np.mean((state[n].astype(float) - goal[n].astype(float)) ** 2) for n in goal])))
"""


def command(tmp_path: Path) -> str:
    (tmp_path / "loss.py").write_text(SCRIPT)
    return f"{sys.executable} {tmp_path}/loss.py {{model}} {tmp_path}/centre.safetensors {tmp_path}/log"


def search(points: list[Path], output: Path, **options: Any) -> SearchResult:
    evaluation = EvaluationOptions(cache=output.parent / "cache", device="cpu")
    return soupkit.search(points, output, evaluation=evaluation, **options)


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().split())


def mean_of(paths: list[str]) -> dict[str, Tensor]:
    states = [load_file(Path(path) / "model.safetensors") for path in paths]
    return {name: torch.stack([s[name].double() for s in states]).mean(0) for name in SIZES}


def test_a_command_selects_the_soup_of_models_that_are_no_clips(points: list[Path], tmp_path: Path) -> None:
    result = search(points, tmp_path / "soup", score=command(tmp_path), minimize=True, seed=7)
    document = result.document
    alone = [loss(load_file(p / "model.safetensors"), tmp_path / "centre.safetensors") for p in points]
    assert [s.value for s in document.ingredients] == pytest.approx(alone, rel=1e-6)
    assert document.best_ingredient.value == min(s.value for s in document.ingredients)
    want = loss(mean_of(list(document.selected)), tmp_path / "centre.safetensors")
    assert document.score.value == pytest.approx(want, rel=1e-5) and document.score.value < min(alone)
    assert len(document.selected) > 1 and str(points[3]) not in document.selected
    assert document.score.unit == "number" and document.stopping == "none" and document.score.low is None
    # Four ingredients, the first one twice, three trials, and the uniform soup of all where it was not one of them.
    assert asked(tmp_path) == asked_by(document.to_dict())
    assert set((tmp_path / "log").read_text().split()) == {"7"}
    printed = sorted((tmp_path / "soup/score-output").glob("*.err"))
    assert printed and all("looking at" in path.read_text() for path in printed)
    (weights,) = (tmp_path / "soup").glob("*.safetensors")
    for name, tensor in load_file(weights).items():
        torch.testing.assert_close(tensor.double(), mean_of(list(document.selected))[name], rtol=1e-6, atol=1e-6)
    assert search(points, tmp_path / "soup", score=command(tmp_path), minimize=True, seed=7).status == "unchanged"
    assert all((p / "notes.txt").read_text() == "mine" for p in points), "an ingredient is shown by links"


@pytest.mark.parametrize("takes", ["directory", "weights", "module"])
def test_a_function_is_given_what_its_annotation_asks_for(points: list[Path], tmp_path: Path, takes: str) -> None:
    centre = tmp_path / "centre.safetensors"

    def by_directory(place: Path) -> float:
        (file,) = place.glob("*.safetensors")
        return -loss(load_file(file), centre)

    def by_weights(state: Mapping[str, Tensor]) -> float:
        return -loss(state, centre)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

    def by_module(module: nn.Module) -> Tensor:
        return torch.tensor(-loss(module.state_dict(), centre), dtype=torch.float64)

    function = {"directory": by_directory, "weights": by_weights, "module": by_module}[takes]
    build = Net if takes == "module" else None
    document = search(points, tmp_path / takes, score=function, build=build).document
    want = search(points, tmp_path / "by-command", score=command(tmp_path), minimize=True).document
    assert document.selected == want.selected
    assert document.score.value == pytest.approx(-want.score.value, rel=1e-6)


def test_hits_make_ties_ties_and_give_intervals_and_a_paired_test(points: list[Path], tmp_path: Path) -> None:
    goal = load_file(tmp_path / "centre.safetensors")
    inputs = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    labels = (inputs @ goal["layer.weight"].T + goal["layer.bias"]).argmax(1)

    def accuracy(state: Mapping[str, Tensor]) -> Tensor:
        return (inputs @ state["layer.weight"].T + state["layer.bias"]).argmax(1) == labels

    document = search(points, tmp_path / "soup", score=accuracy).document
    score = document.score
    assert score.unit == "fraction" and score.n == 90 and score.low is not None and score.low < score.value
    hits = accuracy({n: t.float() for n, t in mean_of(list(document.selected)).items()})
    assert score.value == pytest.approx(float(hits.double().mean()), abs=0.012)
    if len(document.selected) > 1:
        best = accuracy(load_file(Path(document.best_ingredient.ref) / "model.safetensors"))
        assert document.paired is not None
        gained = document.paired.only_soup - document.paired.only_best_ingredient
        assert gained == round(90 * (score.value - float(best.double().mean())))


def test_a_search_by_a_command_that_was_killed_goes_on_and_asks_nothing_twice(
    points: list[Path], tmp_path: Path
) -> None:
    slow = f"sleep 0.2; {command(tmp_path)}"
    words = [sys.executable, "-m", "soupkit", "search", *map(str, points), "--score", slow, "--minimize", "--device",
             "cpu", "--no-cache", "--json", "-o", str(tmp_path / "soup")]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    answers = tmp_path / "soup.partial/answers"
    while process.poll() is None and len(list(answers.glob("*.json"))) < 4:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(answers.glob("*.json")))
    assert kept >= 4 and not (tmp_path / "soup").exists()
    while runs_with(str(tmp_path)):  # until a command that outlived the search has ended
        time.sleep(0.05)
    before = asked(tmp_path)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stderr
    document = json.loads(done.stdout)
    whole = search(points, tmp_path / "whole", score=command(tmp_path), minimize=True).document.to_dict()
    for field in ("decisions", "selected", "images_scored"):
        assert document[field] == whole[field]
    assert asked(tmp_path) - before - asked_by(whole) <= asked_by(whole) - kept


def runs_with(words: str) -> bool:
    """Whether there is a process on whose command line these words stand."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words.encode() in path.read_bytes():
                return True
    return False


def asked_by(document: dict[str, Any]) -> int:
    """How often the score was asked by a whole search: each soup once, the first one twice, the uniform soup."""
    every = {tuple(d["soup"]) for d in document["decisions"]} | {(s["ref"],) for s in document["ingredients"]}
    uniform = tuple(s["ref"] for s in document["ingredients"])
    return len(every | {uniform}) + 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exit 3", r"the command ended with exit code 3"),
        ("echo no luck >&2; exit 1", r"exit code 1: no luck"),
        ("kill -9 $$", r"was ended by SIGKILL"),
        ("true", r"answered nothing"),
        ("echo hello", r"answered 'hello', which is no number"),
        ("echo nan", r"no finite number"),
        ("echo '[1, 2]'", r"no number"),
        ("echo '{\"value\": \"high\"}'", r"no finite number"),
        ("echo '{\"value\": 0.5, \"hits\": [0, 2]}'", r"no list of 0 and 1"),
        ("date +%N", r"when asked again"),
        ("sleep 30", r"took longer than 0.3 s"),
    ],
)  # fmt: skip
def test_what_a_command_gets_wrong_is_said_and_nothing_is_lost(
    points: list[Path], tmp_path: Path, line: str, words: str
) -> None:
    started = time.monotonic()
    told = Told()
    with pytest.raises(ScoreError, match=words) as caught:
        search(points, tmp_path / "soup", score=f"{line} # {{model}}", score_timeout=0.3 if "sleep" in line else None,
               score_retries=1, progress=told)  # fmt: skip
    assert caught.value.where and caught.value.hint
    assert time.monotonic() - started < 25, "a command that hangs is ended"
    if "date" not in line:
        assert any(note.endswith("asked again") for note in told.notes)
    assert (tmp_path / "soup.partial/journal.jsonl").is_file() and not (tmp_path / "soup").exists()


def test_a_command_that_fails_once_is_asked_again(points: list[Path], tmp_path: Path) -> None:
    flaky = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 1; }}; {command(tmp_path)}"
    assert search(points, tmp_path / "soup", score=flaky, minimize=True).status == "written"


def test_another_score_is_another_search(points: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "loss.py"
    score = command(tmp_path)
    search(points, tmp_path / "soup", score=score, minimize=True, score_files=[script])
    for other in ({"minimize": False}, {"score": f"{score} "}, {"seed": 1}):
        with pytest.raises(SoupkitError, match="another soup"):
            search(points, tmp_path / "soup", **{"score": score, "minimize": True, "score_files": [script], **other})
    script.write_text(SCRIPT + "# edited\n")
    with pytest.raises(SoupkitError, match="another soup"):
        search(points, tmp_path / "soup", score=score, minimize=True, score_files=[script])


def test_what_cannot_be_asked_is_refused(points: list[Path], tmp_path: Path) -> None:
    def by_module(module: nn.Module) -> float:
        return 0.0

    def by_number(number: int) -> float:
        return 0.0

    cases: list[tuple[dict[str, Any], type[SoupkitError], str]] = [
        ({"score": "python evaluate.py"}, UsageError, "--score: does not say where the model goes"),
        ({"score": 3}, UsageError, "no function and no command"),
        ({"score": "x {model}", "score_files": [tmp_path / "nowhere"]}, UsageError, "is no file"),
        ({"score": "x {model}", "score_timeout": 0.0}, UsageError, "--score-timeout"),
        ({"score": "x {model}", "score_retries": -1}, UsageError, "--score-retries"),
        ({"score": "x {model}", "score_weight": 0.0}, UsageError, "--score-weight"),
        ({"score": by_module}, UsageError, "nothing builds it"),
        ({"score": by_module, "build": lambda: 3}, UsageError, "no nn.Module"),
        ({"score": by_module, "build": lambda: nn.Linear(2, 2)}, ArchitectureError, "build"),
        ({"score": by_number}, UsageError, "annotate its argument"),
        ({}, UsageError, "names no task to select on"),
    ]
    for arguments, kind, words in cases:
        with pytest.raises(kind, match=words):
            search(points, tmp_path / "soup", **arguments)


def test_what_a_function_raises_or_changes_is_said(points: list[Path], tmp_path: Path) -> None:
    def broken(place: Path) -> float:
        raise ZeroDivisionError("no batches")

    with pytest.raises(ScoreError, match=r"broken.*raised ZeroDivisionError: no batches"):
        search(points, tmp_path / "broken", score=broken)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

    def halves(module: nn.Module) -> float:
        module.half()
        return 0.5

    with pytest.raises(UsageError, match="other tensors into the module"):
        search(points, tmp_path / "halves", score=halves, build=Net)


def test_answers_are_numbers_named_numbers_or_hits() -> None:
    assert read_answer("training...\n 0.25 \n\n", "x") == Answer(0.25)
    full = read_answer('{"value": 0.5, "hits": [1, 0], "metrics": {"top5": 1}}', "x")
    assert full.is_share_of_hits and full.metrics == {"top5": 1.0}
    assert answer_of({"a": 1, "b": 2}, "x") == Answer(1.5, None, {"a": 1.0, "b": 2.0})
    assert answer_of(np.array([True, False, True]), "x").value == pytest.approx(2 / 3)
    assert answer_of(torch.tensor(3.0), "x") == Answer(3.0) == answer_of(np.float32(3), "x")
    assert not read_answer('{"value": 7, "hits": [1, 0]}', "x").is_share_of_hits
    spread = (
        'Test: {"not": "this"}\n--result\n{\n    "value": 76.1,\n    "metrics": {\n        "top5": 93.0\n    }\n}\n'
    )
    assert read_answer(spread, "x") == Answer(76.1, None, {"top5": 93.0})
    with pytest.raises(ScoreError, match="answered 'resnet18' as model, which is no finite number") as caught:
        read_answer('--result\n{\n    "model": "resnet18",\n    "top1": 76.1\n}\n', "x")
    assert '"value" is the one that counts' in caught.value.hint
    for bad in (True, None, "0.5", {}, {"a": True}, float("inf"), np.array([0, 3]), []):
        with pytest.raises(ScoreError):
            answer_of(bad, "x")


def test_the_annotation_says_what_a_function_takes() -> None:
    class Score:
        def __call__(self, weights: dict[str, Tensor]) -> float:
            return 0.0

    assert what_it_takes(Score()) == "weights"
    assert what_it_takes(lambda model: 0.0) == "directory"  # type: ignore[misc]
    with pytest.raises(UsageError, match="takes no argument"):
        what_it_takes(lambda: 0.0)


def test_a_score_beside_tasks_is_added_to_their_mean(fine_tunes: list[Path], cache: Path, tmp_path: Path) -> None:
    def norm(state: Mapping[str, Tensor]) -> float:
        return float(state["visual.proj"].double().norm())

    options = EvaluationOptions(cache=cache, limit=30, batch_size=16, device="cpu")
    document = soupkit.search(
        fine_tunes[:3], tmp_path / "soup", tasks="digits", score=norm, minimize=True, score_weight=0.01,
        evaluation=options,
    ).document  # fmt: skip
    assert document.score.task == "digits:val - 0.01 x score" and document.score.unit == "number"
    for score in document.ingredients:
        state = load_file(Path(score.ref) / "open_clip_model.safetensors")
        parts = score.metrics
        assert parts["score"] == pytest.approx(norm(state), rel=1e-6)
        assert score.value == pytest.approx(parts["digits:val"] - 0.01 * parts["score"])
    scored = soupkit.evaluate(fine_tunes[:3], ["digits:val"], options=options).scores
    assert [s.value for s in scored] == [s.metrics["digits:val"] for s in document.ingredients]


def test_a_recipe_names_a_score_in_the_commands_words() -> None:
    entry = SearchEntry(ingredients=["a", "b"], score="python e.py {model}", minimize=True, score_file="e.py")
    custom = entry.custom_score()
    assert custom is not None and custom.minimize and custom.files == (Path("e.py"),) and entry.task == []
    for given, words in (({}, "neither a task nor a score"), ({"score": "python e.py"}, "where {model} goes")):
        with pytest.raises(ValueError, match=words):
            SearchEntry(ingredients=["a", "b"], **given)


@pytest.mark.parametrize("stopping", ["exact", "none"])
def test_a_function_of_images_ends_trials_early_and_finds_the_soup_of_whole_answers(
    points: list[Path], tmp_path: Path, stopping: str
) -> None:
    goal = load_file(tmp_path / "centre.safetensors")
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    labels = (inputs @ goal["layer.weight"].T + goal["layer.bias"]).argmax(1)
    asked: list[int] = []

    def hits_of(state: Mapping[str, Tensor], images: np.ndarray | None) -> Tensor:
        some = torch.arange(400) if images is None else torch.from_numpy(images)
        asked.append(len(some))
        return (inputs[some] @ state["layer.weight"].T + state["layer.bias"]).argmax(1) == labels[some]

    def whole(state: Mapping[str, Tensor]) -> Tensor:
        return hits_of(state, None)

    document = search(points, tmp_path / "soup", score=hits_of, stopping=stopping).document
    by_images = sum(asked)
    asked.clear()
    want = search(points, tmp_path / "whole", score=whole).document
    assert document.selected == want.selected and document.score.value == want.score.value
    assert [d.decision for d in document.decisions] == [d.decision for d in want.decisions]
    assert (document.stopping, want.stopping) == (stopping, "none")
    rejected = [d for d in document.decisions if not d.accepted]
    assert rejected
    if stopping == "exact":
        assert by_images < sum(asked) and any(d.value is None and (d.images or 0) < 400 for d in rejected)
    else:
        assert all(d.value is not None for d in rejected)


def test_a_function_of_images_that_answers_of_others_ends_the_search_and_it_goes_on_from_there(
    points: list[Path], tmp_path: Path
) -> None:
    broken, asked = [True], []

    def hits_of(state: Mapping[str, Tensor], images: np.ndarray | None) -> np.ndarray:
        n = 40 if images is None else len(images)
        asked.append(n)
        numbers = np.arange(40) if images is None else images
        hits = np.sin(numbers * float(state["layer.weight"].sum())) > -0.3
        return hits[:-1] if images is not None and broken[0] else hits

    with pytest.raises(ScoreError, match="asked about"):
        search(points, tmp_path / "soup", score=hits_of)
    broken[0], before = False, len(asked)
    document = search(points, tmp_path / "soup", score=hits_of).document
    assert sum(n == 40 for n in asked[before:]) <= 1 and len(document.ingredients) == 4, (
        "ingredients are not asked again"
    )
