"""Soups in the evaluator's live model, one after the other, filled when they are to be scored; and their names."""

import json
from typing import Any

import xxhash
from torch import Tensor

from soupkit.checkpoint.architecture import Config
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.task import Task
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.candidate import Soup
from soupkit.search.ingredients import Ingredients
from soupkit.search.running_sum import RunningSum


class LiveSoups:
    """The live model of `evaluator`, which holds one soup of `ingredients` at a time.

    The evaluator's first `selecting` tasks select, the others report.
    """

    def __init__(
        self, ingredients: Ingredients, config: Config, evaluator: Evaluator, selecting: int, ranks: Ranks,
        progress: Progress,
    ) -> None:  # fmt: skip
        """Raises ArchitectureError for tensors that are not the model's, StorageError without memory for the sum."""
        self.ingredients, self.config, self.evaluator = ingredients, config, evaluator
        self.ranks, self.progress = ranks, progress
        self.selecting: tuple[Task, ...] = evaluator.tasks[:selecting]
        self.reporting: tuple[Task, ...] = evaluator.tasks[selecting:]
        self.running_sum = RunningSum(
            evaluator.tensors(ingredients.checkpoints[0]), ingredients.checkpoints, ingredients.base
        )
        self._soup: Soup | None = None
        self._text_sides: dict[int, Tensor] = {}

    def fill(self, soup: Soup) -> None:
        """Write `soup` into the live model, if it is not there, on every rank."""
        if self._soup != soup:
            self.ranks.together(self.running_sum.fill, soup)  # no rank waits for one that cannot read
            self._soup, self._text_sides = soup, {}

    def text_side(self, task: int) -> Tensor:
        """Return what the text tower of the soup that is in the model makes of task number `task`, made once."""
        if task not in self._text_sides:
            self._text_sides[task] = self.evaluator.text_side(task)
        return self._text_sides[task]

    def key(self, soup: Soup) -> str:
        """Return the name of a soup's weights: the ingredients' fingerprints in their order, and their shares."""
        return soup_key(self.ingredients, soup)

    def named(self, soup: Soup) -> tuple[str, str | None]:
        """Return what a soup is called among scores, and its fingerprint where that is known before it is written."""
        return soup_name(self.ingredients, soup)


def soup_key(ingredients: Ingredients, soup: Soup) -> str:
    """Return the name of a soup's weights: the ingredients' fingerprints in their order, and their shares; or the
    method, its parameters and the base's fingerprint."""
    fingerprints = [ingredients.fingerprints[m].value for m in soup.members]
    described: Any = fingerprints if soup.shares is None else [fingerprints, soup.shares]
    if soup.use is not None:
        base = ingredients.base_fingerprint if soup.has_base else None
        described = [fingerprints, soup.use.method, soup.use.parameters, base.value if base is not None else None]
    return xxhash.xxh3_128_hexdigest(json.dumps(described).encode())


def soup_name(ingredients: Ingredients, soup: Soup) -> tuple[str, str | None]:
    """Return what a soup is called among scores: the ingredient with its fingerprint, or the sum of its members."""
    if len(soup.members) == 1 and soup.is_uniform:
        (m,) = soup.members
        return ingredients.refs[m], ingredients.fingerprints[m].value
    names = " + ".join(ingredients.refs[m] for m in soup.members)
    return names if soup.use is None else f"{soup.method} of {names}", None
