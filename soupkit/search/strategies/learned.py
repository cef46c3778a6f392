"""Mixing weights by gradient: the learned soup of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482).

The shares are a softmax, so they stay on the simplex, and the loss is the cross-entropy of the logits times a factor
that is learned with them: without it the soup's loss would depend on how sure its members happen to be. Adam (Kingma
and Ba 2015, https://arxiv.org/abs/1412.6980) moves both.
"""

from collections.abc import Sequence

import numpy as np

from soupkit.checkpoint.towers import block_patterns
from soupkit.search.candidate import ScoredSoup, Trials, mixture, uniform
from soupkit.search.strategies.table import STRATEGIES, MostTrials, Strategy, StrategyOption

_MEANS = (0.9, 0.999)  # Adam's, of gradients and of their squares
_EPSILON = 1e-8
EPOCHS = StrategyOption("epochs", int, 3, "passes of the gradient over the images that select", low=1, metavar="N")
RATE = StrategyOption("learning_rate", float, 0.1, "Adam's, of the softmax's logits", low=0, high=10, metavar="LR")
BATCH = StrategyOption("learned_batch", int, 256, "images of one step of the gradient", low=1, metavar="N")
PER = StrategyOption(
    "learned_per", str, "model", "one weight per ingredient, or per ingredient and layer", choices=("model", "layer")
)  # fmt: skip


class Adam:
    """Adam without weight decay, over numbers in float64."""

    def __init__(self, rate: float, size: int) -> None:
        self._rate, self._step = rate, 0
        self._mean, self._square = np.zeros(size), np.zeros(size)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """Return what is to be added, float64 [size], after another `gradient` [size]."""
        self._step += 1
        one, other = _MEANS
        self._mean = one * self._mean + (1 - one) * gradient
        self._square = other * self._square + (1 - other) * gradient**2
        mean, square = self._mean / (1 - one**self._step), self._square / (1 - other**self._step)
        return -self._rate * mean / (np.sqrt(square) + _EPSILON)


def learn(
    trials: Trials, order: Sequence[int], *, learned_per: str = PER.default, epochs: int = EPOCHS.default,
    learning_rate: float = RATE.default, learned_batch: int = BATCH.default,
) -> ScoredSoup:  # fmt: skip
    """Learn the shares of all ingredients on the tasks that select, from equal ones, and score the mixture after each
    epoch. Returns the first best among the best ingredient, the uniform soup and these."""
    gradient = trials.gradient
    assert gradient is not None  # or the search was refused
    blocks = block_patterns(trials.inputs.tensors) if learned_per == "layer" else ("*",)
    best = trials.start(uniform(order[:1]))
    trials.expect(1 + epochs)
    logits, log_factor = np.zeros((len(blocks), len(order))), 0.0
    shares = _softmax(logits)
    best = _better(trials, best, order, blocks, shares)
    adam = Adam(learning_rate, logits.size + 1)
    losses: list[float] = []
    for epoch in range(epochs):
        total = 0.0
        for images in gradient.batches(learned_batch, (trials.seed, epoch)):
            found = gradient.of(order, blocks, shares, float(np.exp(log_factor)), images)
            by_logits = shares * (found.by_shares - (shares * found.by_shares).sum(axis=1, keepdims=True))
            moved = adam.step(np.append(by_logits, found.by_factor * np.exp(log_factor)))
            logits, log_factor = logits + moved[:-1].reshape(logits.shape), log_factor + float(moved[-1])
            shares = _softmax(logits)
            total += found.loss * len(images)
        losses.append(total / gradient.images)
        best = _better(trials, best, order, blocks, shares)
    trials.state(
        learned={
            "per": learned_per, "images": gradient.images, "images_differentiated": epochs * gradient.images,
            "loss": losses, "factor": float(np.exp(log_factor)),
        }
    )  # fmt: skip
    return best


def _better(
    trials: Trials, best: ScoredSoup, order: Sequence[int], blocks: Sequence[str], shares: np.ndarray
) -> ScoredSoup:
    mixed = trials.measure(best, mixture(order, dict(zip(blocks, shares.tolist(), strict=True))), "learn")
    return mixed if mixed.worth > best.worth else best


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def most_trials(n: int, *, epochs: int, learned_per: str = "", learning_rate: float = 0, learned_batch: int = 0) -> (
    MostTrials
):  # fmt: skip
    """Return the mixtures that are scored: the uniform soup, and one after each epoch."""
    return MostTrials(1 + epochs, mixtures=1 + epochs)


STRATEGIES.add(
    Strategy(
        "learned",
        learn,
        "mixing weights by gradient on the images that select: one per ingredient, or per ingredient and layer",
        options=(PER, EPOCHS, RATE, BATCH),
        most_trials=most_trials,
        labels={"learn": "a learned mixture of {n}"},
        needs_gradient=True,
    ),
    module=__name__,
)
