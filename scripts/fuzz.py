"""Attacks every reader of soupkit with damaged and hostile inputs, and says which were not answered as they should be.

    python scripts/fuzz.py --inputs 100000 --keep crashes

An input is a good one with a few edits, drawn from the seed, the reader and the input's number alone. An answer is
right when it is a result or a SoupkitError, within ten seconds of the processor and two gigabytes. Anything else
(another exception, a signal, a process that hangs) is counted, and one input of each kind is kept under --keep; where
its mechanism is mended, it belongs to tests/attacks/corpus. The readers take their parts in turn, so that the script
may be stopped at any time: Ctrl-C ends it with its table.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import IO

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked, and threads do not survive that

from soupkit.errors import SoupkitError
from tests.attacks.reader import Reader
from tests.attacks.readers import READERS

TOGETHER = 200  # inputs that one process reads, at most
SECONDS, SILENCE = 10, 120  # of the processor, for one input; until a process that says nothing is killed
ROOM = 2 << 30  # bytes beyond what the process has when it begins


class TooLong(BaseException):
    """An input took longer than it may."""


def make_good(readers: Sequence[Reader], work: Path) -> None:
    """Write the good input of every reader, in a process of its own: this one computes nothing before it is forked."""
    child = os.fork()
    if child == 0:
        try:
            for reader in readers:
                (work / reader.name).mkdir()
                reader.make(work / reader.name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the good inputs cannot be made")


def attacked(reader: Reader, seed: int, number: int, work: Path, directory: Path) -> list[str]:
    """Write input `number` of `reader` to `directory`, and return which files of the good one were edited."""
    draw = random.Random(f"{seed} {reader.name} {number}")
    shutil.copytree(work / reader.name, directory, symlinks=True)
    attacks = reader.targets(work / reader.name)
    targets = draw.sample(sorted(attacks), k=min(len(attacks), draw.choice((1, 1, 1, 2))))
    for target in targets:
        data = (directory / target).read_bytes()
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            data = attacks[target](draw, data)
        (directory / target).write_bytes(data)
    return targets


def answer(reader: Reader, directory: Path) -> tuple[str, str]:
    """Read an input: "accepted", "refused", or what went wrong, with the traceback's end."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(directory)
    except SoupkitError:
        return "refused", ""
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/soupkit/" in f.filename]
        at = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
        return f"{type(error).__name__} in {at}", "".join(traceback.format_exception(error))[-4000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "accepted", ""


def read_some(reader: Reader, seed: int, first: int, count: int, work: Path, pipe: IO[str]) -> None:
    """Read `count` inputs in this process, saying of each what became of it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.setpgid(0, 0)  # Ctrl-C is for the one that counts
    for number in range(first, first + count):
        directory = work / f"input-{os.getpid()}"
        shutil.rmtree(directory, ignore_errors=True)
        targets = attacked(reader, seed, number, work, directory)
        print(json.dumps([number, "begun", "", targets]), file=pipe, flush=True)
        kind, trace = answer(reader, directory)
        print(json.dumps([number, kind, trace, targets]), file=pipe, flush=True)
        shutil.rmtree(directory, ignore_errors=True)


def batch(reader: Reader, seed: int, first: int, count: int, work: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the number, the kind and the trace of `count` inputs, read by processes of their own."""
    last = first + count
    while first < last:
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiving)
            with os.fdopen(sending, "w") as pipe, Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 2)
                faulthandler.disable()
                try:
                    read_some(reader, seed, first, last - first, work, pipe)
                except Exception:  # an edit that cannot be made is a defect of this script
                    print(json.dumps([-1, "edit", traceback.format_exc(), []]), file=pipe)
                finally:
                    pipe.flush()
                    os._exit(0)
        os.close(sending)
        begun, ended = first - 1, first - 1
        with os.fdopen(receiving) as pipe:
            while True:
                ready, _, _ = select.select([pipe], [], [], SILENCE)
                line = pipe.readline() if ready else ""
                if not line:
                    os.kill(child, signal.SIGKILL)
                    break
                number, kind, trace, _ = json.loads(line)
                if kind == "edit":
                    sys.exit(trace)
                if kind == "begun":
                    begun = number
                else:
                    ended = number
                    yield number, kind, trace
        _, status = os.waitpid(child, 0)
        if ended < last - 1:
            if begun == ended:
                sys.exit(f"{reader.name}: a process ended between two inputs, status {status}")
            yield begun, f"signal {status & 127}" if ready else "hangs", ""
        first = max(begun, ended) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all; slow readers get fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one; may be repeated")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-crashes"), help="where inputs go that went wrong")
    arguments = parser.parse_args()
    readers = [READERS[name] for name in arguments.reader or READERS]
    whole = sum(reader.examples for reader in readers)
    shares = {reader.name: -(-arguments.inputs * reader.examples // whole) for reader in readers}
    rounds = -(-max(shares.values()) // TOGETHER)
    work = Path(mkdtemp(prefix="soupkit-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    kinds = {reader.name: Counter[str]() for reader in readers}
    began = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell that starts it in the background ignores
    make_good(readers, work)
    try:
        for turn in range(rounds):
            for reader in readers:
                first, last = (shares[reader.name] * n // rounds for n in (turn, turn + 1))
                done = sum(counted.total() for counted in kinds.values())
                print(f"\r{done:,} inputs", end="", file=sys.stderr, flush=True)
                for number, kind, trace in batch(reader, arguments.seed, first, last - first, work):
                    kinds[reader.name][kind] += 1
                    if kind not in ("accepted", "refused") and kinds[reader.name][kind] == 1:
                        place = arguments.keep / f"{reader.name}-{number}".replace(" ", "-")
                        shutil.rmtree(place, ignore_errors=True)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        targets = attacked(reader, arguments.seed, number, work, place)
                        (place / "what.txt").write_text(f"{kind}\n{', '.join(targets)}\n\n{trace}")
                        print(f"{reader.name}, input {number}: {kind}", flush=True)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    wrong = 0
    print("\n| reader | inputs | accepted | refused | wrong |\n|---|---|---|---|---|")
    for name, counted in kinds.items():
        bad = sum(n for kind, n in counted.items() if kind not in ("accepted", "refused"))
        wrong += bad
        print(f"| {name} | {counted.total():,} | {counted['accepted']:,} | {counted['refused']:,} | {bad} |")
    total = sum(counted.total() for counted in kinds.values())
    print(f"\n{total:,} inputs, seed {arguments.seed}, {wrong} answered wrongly; {time.monotonic() - began:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
