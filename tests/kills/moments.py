"""Kills at random moments, one after the other: what a killed run left is what the next one finds, and is killed in."""

import random
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kills.forks import Fork, fork, import_all
from tests.kills.points import Place, contents, differences, restore, run_again, start, wait

# Kills in a row before the command may end: one to this many.
_IN_A_ROW = 8


def _lay_out(lay_out: Callable[[Path], list[object]], root: Path, words: Path) -> None:
    """Lay out what a command reads; in a process of its own, because torch computes here."""
    words.write_text("\n".join(map(str, lay_out(root))))


@dataclass
class Victim:
    """A command that is killed again and again."""

    name: str
    place: Place
    words: list[object]
    wanted: dict[str, object]
    lengths: deque[float]  # seconds of its last undisturbed runs
    kills: int = 0
    failures: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls, name: str, lay_out: Callable[[Path], list[object]], directory: Path, ranks: int) -> "Victim":
        """Lay out in `directory` what a command reads, run it undisturbed, and see how long that takes once all is
        imported."""
        place = Place(directory / "root", ranks, process=Fork)
        place.root.mkdir(parents=True)
        words = directory / "words"
        process = fork(_lay_out, lay_out, place.root, words)
        process.join()
        assert process.exitcode == 0, f"{name} cannot be laid out"
        arguments: list[object] = list(words.read_text().splitlines())
        place.keep_untouched()
        import_all(arguments, place)
        victim = cls(name, place, arguments, contents(place.root), deque(maxlen=9))
        for _ in range(3):
            victim.run()
        return victim

    @property
    def length(self) -> float:
        """Seconds of an undisturbed run, the median of the last ones."""
        return statistics.median(self.lengths)

    def run(self) -> None:
        """Run undisturbed from the start, and remember for how long."""
        restore(self.place, self.place.untouched)
        begun = time.monotonic()
        run_again(self.words, self.place)
        self.lengths.append(time.monotonic() - begun)

    def kill_in_a_row(self, moments: random.Random) -> None:
        """Kill the command at some random moments in a row, let it end, and compare."""
        restore(self.place, self.place.untouched)
        killed: list[str] = []
        try:
            for _ in range(moments.randint(1, _IN_A_ROW)):
                moment = moments.uniform(0, self.length)
                if not kill_after(moment, self.words, self.place):
                    break
                killed.append(f"{moment:.3f} s")
            else:
                run_again(self.words, self.place)
            wrong = differences(contents(self.place.root), self.wanted)
        except AssertionError as error:
            wrong = str(error)
        self.kills += len(killed)
        if wrong:
            self.failures.append(f"killed after {', '.join(killed)} of {self.length:.3f} s: {wrong}")


def kill_after(seconds: float, arguments: Sequence[object], place: Place) -> bool:
    """Run a command and kill it after so many seconds; False where it had ended before. AssertionError where it ended
    with an error."""
    running = start(arguments, place)
    running[0].process.join(seconds)
    running[0].signal(signal.SIGKILL)
    done = wait(running)
    assert done.returncode in (0, -signal.SIGKILL), f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done.returncode != 0
