"""Pools of fine-tunes of one base, and what is right about a model: the setting of model soups, and that of many tasks.

One task: stage 1 and five fine-tunes of it on the same images, whose rates, weight decays and smoothings are drawn at
random, heads and all (Wortsman et al. 2022). Many tasks: a base that saw all of them a little, and one fine-tune for
each under heads that stay the base's, as zero-shot heads do (Ilharco et al. 2022); what is merged is the tower.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.methods.images import Labelled, Task
from benchmarks.methods.tower import Recipe, State, Tower, probabilities, train

INGREDIENTS = 5  # of a pool of one task
STAGE1, FINE_TUNING = 20_000, 10_000  # images that a base and a fine-tune of one task are trained on
JOINTLY, ALONE = 40_000, 8_000  # images that the base of many tasks sees of all, and a fine-tune of its own


@dataclass(frozen=True, slots=True)
class Pool:
    """A base and its fine-tunes, as state dicts of what is merged, the tasks they are scored on, and a tower that they
    are loaded into, with its heads."""

    tasks: tuple[Task, ...]
    base: State
    ingredients: tuple[State, ...]
    tower: Tower

    def load(self, state: State) -> None:
        """Put a model into the tower."""
        self.tower.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)

    def predicted(self, state: State, split: str) -> list[Tensor]:
        """Return a model's probabilities on each task."""
        self.load(state)
        return [probabilities(self.tower, _of(task, split)[0], head) for head, task in enumerate(self.tasks)]

    def accuracy(self, predicted: Sequence[Tensor], split: str) -> float:
        """Return the mean over the tasks of the share of images that are classified right."""
        hits = [
            (p.argmax(1) == _of(task, split)[1]).double().mean() for p, task in zip(predicted, self.tasks, strict=True)
        ]
        return float(torch.stack(hits).mean())

    def score(self, state: State, split: str) -> float:
        """Return a model's accuracy, the mean over the tasks."""
        return self.accuracy(self.predicted(state, split), split)


def _of(task: Task, split: str) -> Labelled:
    return {"val": task.val, "test": task.test}[split]


def one_task(task: Task, seed: int) -> Pool:
    """Train a pool of one task."""
    tower = Tower([task.classes], seed)
    train(tower, {0: task.train}, Recipe(STAGE1, 2e-3), seed)
    base = _state(tower)
    generator = np.random.default_rng(seed)
    made = []
    for i in range(INGREDIENTS):
        rate, decay = 10 ** generator.uniform(-4, -2.7), 10 ** generator.uniform(-4, -1)
        recipe = Recipe(FINE_TUNING, rate, decay, generator.choice([0.0, 0.1]))
        one = copy.deepcopy(tower)
        train(one, {0: task.train}, recipe, 1000 * seed + i)
        made.append(_state(one))
    return Pool((task,), base, tuple(made), tower)


def many_tasks(tasks: Sequence[Task], seed: int) -> Pool:
    """Train a pool with a fine-tune for each of `tasks`."""
    tower = Tower([task.classes for task in tasks], seed)
    train(tower, {i: task.train for i, task in enumerate(tasks)}, Recipe(JOINTLY, 2e-3), seed)
    made = []
    for i, task in enumerate(tasks):
        one = copy.deepcopy(tower)
        train(one, {i: task.train}, Recipe(ALONE, 1e-3), 1000 * seed + i, heads=False)
        made.append(_state(one, heads=False))
    return Pool(tuple(tasks), _state(tower, heads=False), tuple(made), tower)


def kept(path: Path, tasks: Sequence[Task], make: Callable[[], Pool]) -> Pool:
    """Return the pool of these tasks that `path` holds; one that is not there yet is made and kept."""
    if not path.is_file():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"base": made.base, "ingredients": list(made.ingredients), "tower": made.tower.state_dict()}
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    state = torch.load(path, weights_only=True)
    tower = Tower([task.classes for task in tasks], 0).eval()
    tower.load_state_dict(state["tower"])
    return Pool(tuple(tasks), state["base"], tuple(state["ingredients"]), tower)


def _state(tower: Tower, *, heads: bool = True) -> State:
    state = tower.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if heads or name.startswith("visual.")}
