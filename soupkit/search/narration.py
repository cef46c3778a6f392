"""What a person is told while a search goes on: where it is, what is tried, what was accepted, what time is left."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.measured import Scorer, Unit
from soupkit.search.time_left import TimeLeft


class Narration:
    """Tells `progress` of the trials that `scorer` scores; `after` images are scored when they are over."""

    def __init__(self, progress: Progress, ranks: Ranks, scorer: Scorer, after: int) -> None:
        self.ranks = ranks
        self.time_left = TimeLeft(scorer.n, after)
        self._progress, self._scorer = progress, scorer

    @contextmanager
    def of_passes(self, label: str, passes: int = 1) -> Iterator[None]:
        """Show how far `passes` passes over the images, or so many answers, are."""
        self._progress.start(label, passes * self._scorer.n, self._scorer.counts)
        yield
        self._progress.finish()

    def of_ingredients(self, n: int) -> AbstractContextManager[None]:
        """Show the scoring of the `n` ingredients."""
        return self.of_passes(f"scoring {n} ingredients", n)

    def of_trial(self, members: int, value: float, what: str) -> AbstractContextManager[None]:
        """Show a trial that does `what` to the soup of so many `members`, which scores `value`."""
        soup = f"soup of {members} at {self.shown(value)}"
        return self.of_passes(f"{self.time_left.trial}, {soup}: {what}{self.time_left.left()}")

    @contextmanager
    def timed(self, *, trial: bool = True) -> Iterator[None]:
        """Time what is scored within, as a trial or as an ingredient."""
        self.time_left.begin(self._scorer.scored)
        yield
        self.time_left.end(self._scorer.scored, trial=trial)

    def accepted(self, value: float, what: str) -> None:
        """Say that a trial was accepted, unless it only repeats what an earlier run did."""
        if self.time_left.fresh:
            self.say(f"accepted, {self.shown(value)}: {what}")

    def shown(self, value: float) -> str:
        """Write a value as a person reads it."""
        return in_words(value, self._scorer.unit)

    def say(self, text: str) -> None:
        """Say something once, whatever the number of ranks."""
        if self.ranks.leads:
            self._progress.note(text)

    def interrupted(self) -> None:
        """End what is shown of a job that was interrupted."""
        if self.ranks.leads:
            self._progress.finish()


def in_words(value: float, unit: Unit) -> str:
    """Write a fraction in percent, and any other number as it is."""
    return f"{100 * value:.2f} %" if unit == "fraction" else f"{value:.6g}"
