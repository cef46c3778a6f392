"""Kills soupkit's commands before every call that changes which files there are, and at random moments.

    python scripts/kill_points.py                     # every point of every command, once
    python scripts/kill_points.py merge --copies      # one command, from copies of its directory: twice as fast
    python scripts/kill_points.py --random 1000       # a thousand random moments, and no points
    python scripts/kill_points.py --faults            # instead of kills: errors of the disk at every read and write

After each kill the same command runs again: after a point to its end, after a random moment until it has been killed up
to eight times in a row. It must end with exit code 0, with the bytes of an undisturbed run, with nothing of the user's
lost and nothing left over. The exit code is 1 where one did not. SIGTERM ends the script with what it has counted.

Of the random kills each command has a share that goes down with the square of its seconds, and half a percent at least.
docs/reliability.md has counts.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it: a process that forks has no threads
sys.path.insert(0, str(Path(__file__).parents[1]))

import open_clip  # noqa: F401

import soupkit.cli.main
import soupkit.merging.run_merge
import soupkit.training.step  # noqa: F401
from tests.faults.points import ERRORS
from tests.faults.points import check as check_faults
from tests.kills.commands import COMMANDS, RANKS
from tests.kills.forks import build_command_line
from tests.kills.moments import Victim
from tests.kills.points import check

_ROUNDS = 10  # in which the random kills are done, of all commands in turn
_LEAST = 0.005  # of all random kills, for each command
_stopped = False


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped
    _stopped = True


def kill_at_points(victims: list[Victim], most: int | None, *, copies: bool) -> tuple[int, int]:
    """Kill each command before its points, of `most` of them; return how many kills there were, and failures."""
    total = failed = 0
    for victim in victims:
        if _stopped:
            break
        begun = time.monotonic()
        tried, failures = check(victim.words, victim.place, most, kill=not copies)
        total, failed = total + tried, failed + len(failures)
        print(f"{victim.name}: {tried} kills, {len(failures)} failures, {time.monotonic() - begun:.0f} s", flush=True)
        for failure in failures:
            print(f"  {failure}", flush=True)
    return total, failed


def fail_at_calls(victims: list[Victim], most: int | None) -> tuple[int, int]:
    """Let reads and writes of each command fail, at most `most` of each kind; return how many did, and failures."""
    total = failed = 0
    for victim in victims:
        if _stopped:
            break
        tried, failures = check_faults(victim.words, victim.place, ERRORS, most)
        total, failed = total + tried, failed + len(failures)
        print(f"{victim.name}: {tried} errors of the disk, {len(failures)} failures", flush=True)
        for failure in failures:
            print(f"  {failure}", flush=True)
    return total, failed


def kill_at_moments(victims: list[Victim], kills: int, seed: int) -> None:
    """Kill the commands at `kills` random moments in all, in rounds; print how many each has had, and what failed."""
    moments = random.Random(seed)
    worth = {victim.name: victim.length**-2 for victim in victims}
    shares = {name: kills * max(part / sum(worth.values()), _LEAST) for name, part in worth.items()}
    for number in range(1, _ROUNDS + 1):
        for victim in victims:
            victim.run()  # the machine may be faster or slower now
            known = len(victim.failures)
            while victim.kills < shares[victim.name] * number / _ROUNDS and not _stopped:
                victim.kill_in_a_row(moments)
            so_far = sum(v.kills for v in victims)
            print(f"round {number}, {victim.name}: {victim.kills} kills; {so_far} of all", flush=True)
            for failure in victim.failures[known:]:
                print(f"  {victim.name}: {failure}", flush=True)
            if _stopped:
                return


def main() -> int:
    """Run the commands that are named, all without a name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", help=f"some of: {', '.join(COMMANDS)}")
    parser.add_argument("--copies", action="store_true", help="take the states of one run instead of killing each time")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="kill at N random moments, and at no points")
    parser.add_argument("--points", type=int, default=None, metavar="N", help="at most N points of each command")
    parser.add_argument("--faults", action="store_true", help="errors of the disk, at all calls or at --points of them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    build_command_line()
    names = [n for n in COMMANDS if not options.commands or any(n.startswith(c) for c in options.commands)]
    with TemporaryDirectory(prefix="kill-points-") as directory:
        victims = []
        for i, name in enumerate(names):
            if not _stopped:
                victims.append(Victim.prepare(name, COMMANDS[name], Path(directory) / str(i), RANKS.get(name, 1)))
                print(f"{name}: {victims[-1].length:.2f} s undisturbed", flush=True)
        if options.random:
            kill_at_moments(victims, options.random, options.seed)
            total, failed = sum(v.kills for v in victims), sum(len(v.failures) for v in victims)
            for victim in victims:
                print(f"{victim.name}: {victim.kills} kills, {len(victim.failures)} failures")
        elif options.faults:
            total, failed = fail_at_calls(victims, options.points)
        else:
            total, failed = kill_at_points(victims, options.points, copies=options.copies)
    print(f"in all {total} {'errors' if options.faults else 'kills'}, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
