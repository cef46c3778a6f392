"""Kills soupkit's commands before every call that changes which files there are, and at random moments.

    python scripts/kill_points.py                     # every point of every command, once
    python scripts/kill_points.py --random 1000       # and a thousand random moments, spread over the commands
    python scripts/kill_points.py merge --copies      # one command, from copies of its directory: twice as fast

After each kill the same command runs again; it must end with exit code 0, with the bytes of an undisturbed run, with
nothing of the user's lost and nothing left over. The exit code is 1 where one did not. docs/reliability.md has counts.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kills.commands import COMMANDS, RANKS
from tests.kills.points import Place, check, check_random


@contextmanager
def laid_out(name: str) -> Iterator[tuple[list[object], Place]]:
    """Yield the words of a command, and where what it reads is laid out."""
    with TemporaryDirectory(prefix="kill-points-") as directory:
        place = Place(Path(directory) / "root", RANKS.get(name, 1))
        place.root.mkdir()
        yield COMMANDS[name](place.root), place


def main() -> int:
    """Run the commands that are named, all without a name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", help=f"some of: {', '.join(COMMANDS)}")
    parser.add_argument("--copies", action="store_true", help="take the states of one run instead of killing each time")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="kill at N random moments as well")
    parser.add_argument("--points", type=int, default=None, metavar="N", help="at most N points of each command")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = [n for n in COMMANDS if not options.commands or any(n.startswith(c) for c in options.commands)]
    moments, failed, total = random.Random(options.seed), 0, 0
    each = -(-options.random // len(names))
    for name in names:
        begun = time.monotonic()
        with laid_out(name) as (words, place):
            tried, failures = check(words, place, options.points, kill=not options.copies)
        if options.random:
            with laid_out(name) as (words, place):
                more = check_random(words, place, each, moments)
            tried, failures = tried + more[0], failures + more[1]
        total, failed = total + tried, failed + len(failures)
        print(f"{name}: {tried} kills, {len(failures)} failures, {time.monotonic() - begun:.0f} s", flush=True)
        for failure in failures:
            print(f"  {failure}", flush=True)
    print(f"in all {total} kills, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
