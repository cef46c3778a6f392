"""A model in memory scores as the same model from its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

import soupkit
from soupkit.errors import DataError, UsageError
from soupkit.evaluation.tasks import open_tasks
from tests.api.conftest import Brightness, Pictures, to_tensor


def digits(limit: int) -> tuple[list[tuple[Image.Image, int]], list[str], list[str]]:
    """The first of the digits' test images as pictures, their classes and templates."""
    import io

    (task,) = open_tasks(["digits"])
    samples = [task.dataset.read(i) for i in task.dataset.some(limit)]
    pictures = [(Image.open(io.BytesIO(s.data)).convert("RGB"), s.label) for s in samples]
    return pictures, list(task.classnames), list(task.templates)


class Stream(torch.utils.data.IterableDataset[Any]):
    """Pictures that have no numbers."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Items:
    """A list as a Dataset."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_a_live_clip_scores_as_its_checkpoint_does(here: Path) -> None:
    pictures, classnames, templates = digits(100)
    (expected,) = soupkit.evaluate("runs/a", "digits", limit=100).scores
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:runs/a")
    how: dict[str, Any] = {"classnames": classnames, "templates": templates, "name": "digits"}
    (live,) = soupkit.evaluate(model, Items(pictures), preprocess=preprocess, **how).scores
    (opened,) = soupkit.evaluate("runs/a", Items(pictures), **how).scores
    assert live.value == opened.value == expected.value and live.metrics["acc5"] == expected.metrics["acc5"]
    assert (live.low, live.high, live.n) == (expected.low, expected.high, 100)
    assert opened.fingerprint == expected.fingerprint and live.fingerprint is None


def test_two_models_on_pairs_are_compared_image_by_image(here: Path) -> None:
    pictures, classnames, templates = digits(100)
    by_name = soupkit.evaluate(["runs/a", "runs/b"], "digits", limit=100)
    in_memory = soupkit.evaluate(
        ["runs/a", "runs/b"], pictures, classnames=classnames, templates=templates, name="digits"
    )
    (want,), (pair,) = by_name.pairs, in_memory.pairs
    assert (pair.first, pair.second, pair.p) == (want.first, want.second, want.p)
    assert (pair.only_first, pair.only_second) == (want.only_first, want.only_second)


def test_a_classifier_is_scored_by_its_logits_and_left_in_its_mode(here: Path) -> None:
    model = Brightness()
    model.train()
    (score,) = soupkit.evaluate(model, Pictures(), preprocess=to_tensor, classnames=["dark", "light"]).scores
    right = sum((40 * i / 255 > 0.5) == (i > 2) for i in range(6))
    assert score.value == pytest.approx(right / 6) and score.metrics["acc5"] is None
    assert model.training and score.ref == "Brightness"


@pytest.mark.parametrize(
    ("items", "how", "what"),
    [
        ([(torch.zeros(3, 8, 8), 2)], {}, "has the label 2"),
        ([(torch.zeros(3, 8, 8), "dark")], {}, "has the label 'dark'"),
        ([torch.zeros(3, 8, 8)], {}, "is Tensor, and not"),
        ([], {}, "holds no pictures"),
        ([(Image.new("RGB", (8, 8)), 0)], {}, "preprocess: is missing for pictures"),
        ([(torch.zeros(3, 8, 8), 0)], {"classnames": None}, "has no class names"),
        ([(torch.zeros(3, 8, 8), 0)], {"classnames": "ab"}, "classnames: is one text"),
        ([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 9), 1)], {}, "differ in shape"),
        ([(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)], {}, "is a picture in torch.uint8"),
        ([(Image.new("RGB", (8, 8)), 0)], {"preprocess": lambda picture: picture}, "is a picture in Image"),
        ([(torch.full((3, 8, 8), torch.nan), 0)], {}, "gives NaN or infinity"),
        ([(torch.zeros(3, 8, 8), 0.0)], {}, "has the label 0.0"),
        ([(torch.zeros(3, 8, 8), 0)], {"device": "cpu"}, "device: is that of the module"),
        ([(torch.zeros(3, 8, 8), 0)], {"limit": 3}, "limit: belongs to tasks by name"),
        ([(torch.zeros(3, 8, 8), 0)], {"classnames": ["a", "b", "c"]}, r"gives \[1, 2\] for 3 classes"),
    ],
)
def test_what_does_not_fit_is_named(items: list[Any], how: dict[str, Any], what: str, here: Path) -> None:
    with pytest.raises((DataError, UsageError), match=what):
        soupkit.evaluate(Brightness(), Items(items), **{"classnames": ["dark", "light"], **how})


def test_a_module_that_is_no_clip_needs_a_dataset_and_words_of_a_dataset_need_one_too(here: Path) -> None:
    with pytest.raises(soupkit.SoupkitError, match=r"memory:models\[0\]: is no model that open_clip builds"):
        soupkit.evaluate(Brightness(), "digits")
    with pytest.raises(UsageError, match="classnames: belongs to a Dataset"):
        soupkit.evaluate("runs/a", "digits", classnames=["a"])
    with pytest.raises(DataError, match="without a class name"):
        soupkit.evaluate("runs/a", digits(1)[0], classnames=["a"], templates="a photo")
    with pytest.raises(UsageError, match="tasks: Stream: has no length"):
        soupkit.evaluate("runs/a", Stream(), classnames=["a"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tasks: is NoneType"):
        soupkit.evaluate("runs/a", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="recipe: is a mapping"):
        soupkit.run_recipe({"train": {}})  # type: ignore[arg-type]
