"""What a person is told while a search goes on: where it is, what is tried, what was accepted, what time is left."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.measured import Scorer
from soupkit.search.time_left import TimeLeft


class Narration:
    """Tells `progress` of trials of `images` images each; `after` images are scored when the trials are over."""

    def __init__(self, progress: Progress, ranks: Ranks, images: int, after: int) -> None:
        self.ranks = ranks
        self.time_left = TimeLeft(images, after)
        self._progress, self._images = progress, images

    @contextmanager
    def of_images(self, label: str, passes: int = 1) -> Iterator[None]:
        """Show how far `passes` passes over the images are."""
        self._progress.start(label, passes * self._images, "images")
        yield
        self._progress.finish()

    def of_ingredients(self, n: int) -> AbstractContextManager[None]:
        """Show the scoring of the `n` ingredients."""
        return self.of_images(f"scoring {n} ingredients", n)

    def of_trial(self, members: int, value: float, what: str) -> AbstractContextManager[None]:
        """Show a trial that does `what` to the soup of so many `members`, which scores `value`."""
        soup = f"soup of {members} at {percent(value)}"
        return self.of_images(f"{self.time_left.trial}, {soup}: {what}{self.time_left.left()}")

    @contextmanager
    def timed(self, scorer: Scorer, *, trial: bool = True) -> Iterator[None]:
        """Time what is scored within, as a trial or as an ingredient."""
        self.time_left.begin(scorer.scored)
        yield
        self.time_left.end(scorer.scored, trial=trial)

    def accepted(self, value: float, what: str) -> None:
        """Say that a trial was accepted, unless it only repeats what an earlier run did."""
        if self.time_left.fresh:
            self.say(f"accepted, {percent(value)}: {what}")

    def say(self, text: str) -> None:
        """Say something once, whatever the number of ranks."""
        if self.ranks.leads:
            self._progress.note(text)

    def interrupted(self) -> None:
        """End what is shown of a job that was interrupted."""
        if self.ranks.leads:
            self._progress.finish()


def percent(value: float) -> str:
    """Write a fraction as a person reads it."""
    return f"{100 * value:.2f} %"
