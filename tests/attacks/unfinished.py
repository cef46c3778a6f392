"""What commands left behind, unfinished or kept for the next one: journals, records, caches."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

import soupkit
from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.merging import RunOptions
from soupkit.merging.journal import Journal as MergeJournal
from soupkit.merging.mergekit_file import read_mergekit
from tests.attacks import edits
from tests.attacks.models import open_clip_directory
from tests.attacks.reader import Reader
from tests.conftest import TINY_MODEL
from tests.training.runs import IN_PROCESS, Interrupting, settings

_RESULT = "result.txt"
MERGEKIT = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: [{filter: mlp, value: 0.5}, {value: 0.7}]}
  - model: {model: b, revision: main}
    parameters: {weight: [0, 0.5, 1]}
parameters: {normalize: true}
dtype: float32
tokenizer_source: base
"""


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """Be in a directory, so that what is written names its files as it does where it was copied to."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _interrupted(owner: type, name: str, after: int) -> Iterator[None]:
    """Have a method be interrupted in the place of its call number `after`."""
    method, calls = getattr(owner, name), 0

    def called(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return method(*arguments, **options)

    setattr(owner, name, called)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        setattr(owner, name, method)


def _two(directory: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 1.01)):
        open_clip_directory(directory / name, scale, TINY_MODEL)


def _evaluation() -> EvaluationOptions:
    return EvaluationOptions(cache=Path("cache"), device="cpu", limit=20, batch_size=8)


def _search(directory: Path) -> object:
    with _inside(directory):
        soup = soupkit.search(["a", "b"], "soup", tasks="digits", evaluation=_evaluation())
    return [soup.document.score, _fingerprint(directory / "soup")]


def _make_search(directory: Path) -> None:
    _two(directory)
    _remember(directory, _search)
    with _interrupted(Evaluator, "hits", after=5):
        _search(directory)


def _evaluate(directory: Path) -> object:
    with _inside(directory):
        scores = soupkit.evaluate(["a", "b"], tasks="digits", options=_evaluation()).scores
    return [[score.value, score.low, score.high, score.n, score.metrics] for score in scores]


def _make_evaluated(directory: Path) -> None:
    _two(directory)
    _remember(directory, _evaluate, left="cache")


def _merge(directory: Path) -> object:
    """Merge what lies where the input was made: an unfinished merge goes on with the very files that it began with."""
    made = Path((directory / "inputs.txt").read_text())
    options = RunOptions(device="cpu", threads=1, slab_bytes=1)
    soupkit.merge([made / "a", made / "b"], directory / "soup", options=options)
    return _fingerprint(directory / "soup")


def _make_merge(directory: Path) -> None:
    _two(directory)
    (directory / "inputs.txt").write_text(str(directory))
    _remember(directory, _merge)
    with _interrupted(MergeJournal, "record", after=4):
        _merge(directory)


def _train(directory: Path) -> object:
    soupkit.train(settings(checkpoint_every=16), directory / "run", options=IN_PROCESS)
    return _fingerprint(directory / "run")


def _make_training(directory: Path) -> None:
    _remember(directory, _train)
    with suppress(KeyboardInterrupt):
        soupkit.train(settings(checkpoint_every=16), directory / "run", options=IN_PROCESS, progress=Interrupting(2))


def _fingerprint(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return fingerprint(checkpoint).value


def _remember(directory: Path, command: Callable[[Path], object], left: str = "") -> None:
    """Note what a command that nothing disturbs gives, and remove what it made but for `left`."""
    before = {path.name for path in directory.iterdir()} | {left}
    result = command(directory)
    for path in directory.iterdir():
        if path.name not in before:
            shutil.rmtree(path)
    (directory / _RESULT).write_text(repr(result))


def _as_undisturbed(command: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return the command that also asks for what it gives where nothing was damaged."""

    def read(directory: Path) -> None:
        assert repr(command(directory)) == (directory / _RESULT).read_text()

    return read


def _make_distributed(directory: Path) -> None:
    state = {"state_dict": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5)}, "epoch": 3}
    dcp.save(state, checkpoint_id=directory / "dcp")


def _make_mergekit(directory: Path) -> None:
    (directory / "merge.yaml").write_text(MERGEKIT)


def _read_all(name: str) -> Callable[[Path], None]:
    def read(directory: Path) -> None:
        with open_checkpoint(directory / name) as checkpoint:
            for tensor in checkpoint.tensors:
                checkpoint[tensor].sum()

    return read


UNFINISHED = (
    Reader(
        "search",
        _make_search,
        {"soup.partial/*.jsonl": edits.edit_json_lines, "soup.partial/hits/*": edits.edit_bytes},
        _as_undisturbed(_search),
        examples=10,
    ),
    Reader(
        "caches",
        _make_evaluated,
        {
            "cache/**/*.json": edits.edit_json,
            "cache/**/*.jsonl": edits.edit_json_lines,
            "cache/**/*.npy": edits.edit_bytes,
        },
        _as_undisturbed(_evaluate),
        examples=10,
    ),
    Reader("merge", _make_merge, {"soup.partial/*.jsonl": edits.edit_json_lines}, _as_undisturbed(_merge), examples=20),
    Reader(
        "training",
        _make_training,
        {"run.partial/*.json": edits.edit_json, "run.partial/*.jsonl": edits.edit_json_lines,
         "run.partial/checkpoints/*/.metadata": edits.edit_bytes},
        _as_undisturbed(_train),
        examples=5,
    ),
    Reader(
        "distributed",
        _make_distributed,
        {"dcp/.metadata": edits.edit_bytes, "dcp/__0_0.distcp": edits.edit_bytes},
        _read_all("dcp"),
    ),
    Reader(
        "mergekit",
        _make_mergekit,
        {"merge.yaml": edits.edit_yaml},
        lambda d: read_mergekit(d / "merge.yaml"),
    ),
)  # fmt: skip
