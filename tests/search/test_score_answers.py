"""What scores of one's own print in other people's scripts, and the shell that runs them."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soupkit
from soupkit.errors import UsageError
from soupkit.progress import SILENT
from soupkit.search import SearchEntry
from soupkit.search.custom_score import CustomScore
from soupkit.search.score_answer import Answer, ScoreError, answer_of, check_same, read_answer
from soupkit.search.score_command import CommandAsker
from soupkit.search.shell_words import with_model
from tests.search.conftest import Told
from tests.search.test_scores import command, search

# What the programs print whose names stand there, cut short.
TIMM_VALIDATE = '--result\n{\n    "model": "resnet18",\n    "top1": 76.1,\n    "top5": 93.0\n}\n'
TRAINER = '{"eval_loss": 0.31, "eval_accuracy": 0.9, "eval_runtime": 12.3}\n'
HARNESS = (
    '{"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.3, "acc_stderr,none": 0.15}}, "config": {"n": 10}}'
)


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("\r 10%|#   | 1/10\r100%|####| 10/10\r0.813\n", 0.813),  # a progress bar that ends its line by itself
        ("\x1b[32m0.813\x1b[0m\n", 0.813),
        ("\ufeff0.813\r\n", 0.813),
        ("{'accuracy': 0.813}\n", 0.813),  # print(metric.compute()) of evaluate
        ('  {\n    "value": 0.813\n  }\n', 0.813),
        ('{\n  "metrics": {"runs": [\n    {"a": 1}\n  ]} }\n{"value": 0.813,\n "metrics": {}}\n', 0.813),
        (".5\n", 0.5),
        ("-1.5E-3\n", -0.0015),
    ],
)
def test_a_number_is_found_in_what_scripts_print(printed: str, value: float) -> None:
    assert read_answer(printed, "x").value == value


@pytest.mark.parametrize(
    ("printed", "says", "hint"),
    [
        ("81.3%\n", "answered '81.3%'", "without the percent sign"),
        ("np.float64(0.813)\n", "is no number", r"print\(float\(x\)\)"),
        ("tensor(0.8130, device='cuda:0')\n", "is no number", r"print\(float\(x\)\)"),
        ("{'accuracy': np.float64(0.813)}\n", "is no number", r"print\(float\(x\)\)"),
        ("0,813\n", "is no number", "with a point"),
        ("0.813\n100%|####| 10/10 [00:01<00:00]\n", "answered '100%", "the last line"),
        ("0.813\n/lib/x.py:12: UserWarning: slow\n", "UserWarning", "the last line"),
        ("{'accuracy': nan}\n", "is no number", "the last line"),
        ("2024_11\n", "answered '2024_11'", "the last line"),  # Python reads this as 202411
        ("accuracy: 0.813\n", "is no number", "the last line"),
        (HARNESS, "as results, which is no finite number", "--score-key"),
        (TIMM_VALIDATE, "answered 'resnet18' as model", "--score-key"),
    ],
)
def test_what_is_no_number_is_said_with_what_to_print(printed: str, says: str, hint: str) -> None:
    with pytest.raises(ScoreError, match=says) as caught:
        read_answer(printed, "x")
    assert caught.value.hint and re.search(hint, caught.value.hint)


@pytest.mark.parametrize(
    ("printed", "key", "want"),
    [
        (TIMM_VALIDATE, "top1", Answer(76.1, None, {"top1": 76.1, "top5": 93.0})),
        (TRAINER, "eval_accuracy", Answer(0.9, None, {"eval_loss": 0.31, "eval_accuracy": 0.9, "eval_runtime": 12.3})),
        (
            HARNESS, "results/arc_easy/acc,none",
            Answer(0.3, None, {f"results/arc_easy/acc{n}": v for n, v in ((",none", 0.3), ("_stderr,none", 0.15))}
                   | {"config/n": 10.0}),
        ),
        ('{"eval/acc": 0.4, "eval": {"acc": 0.6}}', "eval/acc", Answer(0.4, None, {"eval/acc": 0.6})),
        ('{"value": 1, "metrics": {"top5": 0.9}}', "metrics/top5", Answer(0.9, None, {"top5": 0.9})),
        ('{"accuracy": 0.4, "loss": NaN}', "accuracy", Answer(0.4, None, {"accuracy": 0.4})),
    ],
)  # fmt: skip
def test_a_key_chooses_the_number_that_counts(printed: str, key: str, want: Answer) -> None:
    assert read_answer(printed, "x", key) == want


def test_a_key_leaves_the_hits_to_tell_images_apart() -> None:
    answer = answer_of({"acc": torch.tensor(0.5), "hits": np.array([1, 0])}, "x", "acc")
    assert answer.is_share_of_hits and answer.metrics == {"acc": 0.5}


@pytest.mark.parametrize(
    ("printed", "key", "says"),
    [
        (TRAINER, "accuracy", r"answered no 'accuracy'.*\n.*eval_loss, eval_accuracy, eval_runtime"),
        (TIMM_VALIDATE, "model", "answered 'resnet18' as model, which is no finite number"),
        ('{"accuracy": NaN}', "accuracy", "answered nan as accuracy"),
        ("0.5\n", "accuracy", "answered 0.5, and no 'accuracy'"),
        ('{"a": {}}', "a/b", r"answered no 'a/b'.*\n.*none"),
    ],
)
def test_a_key_that_names_no_number_is_refused_with_those_there_are(printed: str, key: str, says: str) -> None:
    with pytest.raises(ScoreError, match=says):
        read_answer(printed, "x", key)


def test_a_mean_of_several_is_said_and_one_of_them_can_be_chosen(points: list[Path], tmp_path: Path) -> None:
    def by_name(place: Path) -> dict[str, float]:
        return {"loss": 3.0, "accuracy": 0.5}

    told = Told()
    mean = search(points, tmp_path / "mean", score=by_name, progress=told).document
    assert any("the mean of loss, accuracy counts; --score-key" in note for note in told.notes)
    told = Told()
    chosen = search(points, tmp_path / "chosen", score=by_name, score_key="accuracy", progress=told).document
    assert mean.score.value == 1.75 and chosen.score.value == 0.5
    assert chosen.score.metrics == mean.score.metrics and not any("the mean" in note for note in told.notes)
    with pytest.raises(soupkit.SoupkitError, match="another soup"):
        search(points, tmp_path / "chosen", score=by_name, score_key="loss")
    with pytest.raises(UsageError, match="--score-key: is no name"):
        search(points, tmp_path / "none", score=by_name, score_key="")
    entry = SearchEntry(ingredients=["a", "b"], score="python e.py {model}", score_key="top1").custom_score()
    assert entry is not None and entry.key == "top1"


def test_numbers_that_differ_between_two_answers_are_named() -> None:
    first, again = (answer_of({"acc": 0.5, "seconds": s}, "x") for s in (3.0, 4.0))
    with pytest.raises(ScoreError, match="the mean of 2 numbers, of which seconds differ") as caught:
        check_same(first, again, "x")
    assert "--score-key" in caught.value.hint
    by_key = [answer_of({"acc": 0.5, "seconds": s}, "x", "acc") for s in (3.0, 4.0)]
    check_same(by_key[0], by_key[1], "x")


@pytest.mark.parametrize("path", ["/a/b", "/a b/c", '/it\'s/$HOME/`x`/"q"\\n', "/ü/*"])
@pytest.mark.parametrize(
    "words",
    [
        "{model}",
        '"{model}"',
        "'{model}'",
        "'a'{model}'b'",
        '"a\'{model}"',
        "\\'{model}",
        '"\\"{model}"\'{model}\'',
        '"$(printf "<%s>" {model} "{model}") {model}"',
        '"a (" "{model})"',
        "'$(' {model} ')'",
    ],
)
def test_the_model_is_one_word_within_any_quotes(path: str, words: str) -> None:
    made = subprocess.run(with_model(f"printf '<%s>' {words}", path), shell=True, capture_output=True, check=True)
    plain = subprocess.run(with_model(f"printf '<%s>' {words}", "X"), shell=True, capture_output=True, check=True)
    assert os.fsdecode(made.stdout) == os.fsdecode(plain.stdout).replace("X", path)


def asker(tmp_path: Path, words: str, **said: Any) -> CommandAsker:
    return CommandAsker(CustomScore(words, retries=0, **said), tmp_path, tmp_path / "printed", 0, SILENT)


def test_a_command_is_no_rank_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.distributed.init_process_group would wait for the other ranks in it for ever."""
    told = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")
    for name in told:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RANKING", "mine")
    asker(tmp_path, f"env > {tmp_path}/env; echo 1 # {{model}}").ask("x")
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert not names & set(told) and {"RANKING", "SOUPKIT_MODEL", "SOUPKIT_SEED", "PATH"} <= names


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        ("{ echo no GPU >&2; exit 1; } | cat # {model}", "answered nothing: no GPU", "x.out"),
        ("echo done; echo no GPU >&2 # {model}", "answered 'done', which is no number: no GPU", "x.out"),
        ("no-such-program {model}", "exit code 127", "is not found"),
        ("{model}", "exit code 126", "cannot be run"),
    ],
)
def test_what_went_wrong_before_an_answer_that_is_none_is_shown(
    tmp_path: Path, words: str, says: str, hint: str
) -> None:
    with pytest.raises(ScoreError, match=says) as caught:
        asker(tmp_path, words).ask("x")
    assert hint in caught.value.hint


def test_a_search_in_a_folder_with_spaces_asks_about_the_model(points: list[Path], tmp_path: Path) -> None:
    quoted = command(tmp_path).replace("{model}", '"{model}"')
    document = search(points, tmp_path / "my soups" / "it's", score=quoted, minimize=True).document
    want = search(points, tmp_path / "soup", score=command(tmp_path), minimize=True).document
    assert document.selected == want.selected and document.score.value == want.score.value
