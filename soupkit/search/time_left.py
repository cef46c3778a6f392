"""How far a search is, and the time that is left of it, judged by what its trials took."""

import time


class TimeLeft:
    """Counts trials, and times those that scored images."""

    def __init__(self, images: int, after: int) -> None:
        """`images` are those of one whole trial; `after` as many are scored when the trials are over."""
        self._images, self._after = images, after
        self._expected = self._done = 0
        self.fresh = False  # whether the last trial scored images in this run: it is no repetition of an earlier one
        self._seconds, self._scored = 0.0, 0
        self._trials, self._in_trials = 0, 0  # those that were timed, and their images
        self._started, self._before = 0.0, 0

    def expect(self, n: int) -> None:
        """So many more trials are to come."""
        self._expected = self._done + n

    def begin(self, images: int) -> None:
        """A trial begins, or the scoring of an ingredient, when this run has scored so many `images`."""
        self._started, self._before = time.monotonic(), images

    def end(self, images: int, *, trial: bool = True) -> None:
        """What began is over, when this run has scored so many `images`."""
        self._done += trial
        scored = images - self._before
        self.fresh = scored > 0
        if scored:
            self._seconds += time.monotonic() - self._started
            self._scored += scored
            self._trials += trial
            self._in_trials += scored if trial else 0

    @property
    def trial(self) -> str:
        """Which trial is at hand, of how many as far as is known: the first is number 1."""
        return f"trial {self._done + 1} of {max(self._expected, self._done + 1)}"

    def left(self) -> str:
        """Say what is left of the whole search; empty before anything was timed."""
        if not self._scored:
            return ""
        each = self._in_trials / self._trials if self._trials else self._images
        images = max(self._expected - self._done, 1) * each + self._after
        return f", about {duration(images * self._seconds / self._scored)} left in all"


def duration(seconds: float) -> str:
    """Write a time as people say it: 40 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
