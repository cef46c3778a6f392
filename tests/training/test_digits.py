"""Training the demo's ingredients: what it leaves on disk, and how it starts again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soupkit.checkpoint.partial import PartialDirectory
from soupkit.errors import CheckpointError, StorageError
from soupkit.progress import Silent
from soupkit.training.digits import FINE_TUNES, STAGE_1, train_digits

SHORT = tuple(replace(run, steps=2, groups=2) for run in (STAGE_1, FINE_TUNES[0]))
WEIGHTS = "open_clip_model.safetensors"


class Interrupting(Silent):
    """Ctrl-C after `steps` steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, n: int) -> None:
        self.steps -= 1
        if not self.steps:
            raise KeyboardInterrupt


@pytest.fixture
def trained(tmp_path: Path) -> list[Path]:
    return train_digits(tmp_path / "runs", SHORT)


def test_open_clip_opens_a_trained_run_and_its_tokenizer(trained: list[Path]) -> None:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{trained[1]}")
    tokens = open_clip.get_tokenizer(f"local-dir:{trained[1]}")(["the digit seven"])
    assert tokens.shape == (1, 16)
    with torch.inference_mode():
        features = model.eval().encode_image(torch.zeros(1, 3, 16, 16)), model.encode_text(tokens)
    assert [f.shape for f in features] == [(1, 64), (1, 64)]
    assert transform is not None and type(model.visual.patch_dropout) is torch.nn.Identity


def test_a_run_is_as_readable_as_any_other_file(trained: list[Path]) -> None:
    modes = {file.stat().st_mode for file in trained[0].iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_interrupted_training_goes_on_to_the_same_weights(trained: list[Path], tmp_path: Path, steps: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_digits(tmp_path / "again", SHORT, progress=Interrupting(steps))
    finished = {p.name for p in (tmp_path / "again").iterdir() if p.suffix != ".partial"}
    assert finished == ({"stage1"} if steps == 3 else set())
    again = train_digits(tmp_path / "again", SHORT)
    assert [(p / WEIGHTS).read_bytes() for p in again] == [(p / WEIGHTS).read_bytes() for p in trained]
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["a", "stage1"]


def test_a_run_is_trained_again_when_the_one_it_starts_from_was(trained: list[Path]) -> None:
    before = (trained[1] / WEIGHTS).read_bytes()
    train_digits(trained[0].parent, (replace(SHORT[0], seed=7), SHORT[1]))
    assert (trained[1] / WEIGHTS).read_bytes() != before


def test_something_in_the_way_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("keep")
    with pytest.raises(StorageError, match="not a run of the demo"):
        train_digits(tmp_path, SHORT)
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["a", "a/mine.txt"]


def test_two_trainings_do_not_write_one_directory(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "stage1"), pytest.raises(StorageError, match="another run"):
        train_digits(tmp_path, SHORT)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        train_digits(tmp_path / "file", SHORT)
    assert str(tmp_path / "file") in caught.value.where


def test_damaged_weights_to_start_from_are_named(trained: list[Path]) -> None:
    weights = trained[0] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    (trained[1] / "training.json").write_text("changed")
    with pytest.raises(CheckpointError) as caught:
        train_digits(trained[0].parent, SHORT)
    assert str(weights) in caught.value.where
