"""Runs a command and says what it took: seconds, and the peak resident and anonymous memory of its processes.

Of anonymous memory, pages that a process shares with its forks count once, as they take room once.
"""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.02  # seconds
_REST = 10  # times as long as a look took: asking what forks share takes some 10 ms for each, with their locks held


@dataclass(frozen=True, slots=True)
class Run:
    """One run: wall seconds of the whole process, of the merge alone (as the command itself reports), bytes, and the
    seconds that its processes took of the processors."""

    process: float
    merge: float
    resident: int
    anonymous: int
    processor: float = 0.0


def measure(
    command: list[str], cwd: Path | None = None, extra: dict[str, str] | None = None, key: str = "merge"
) -> Run:
    """Run `command`, whose last line of output is JSON with seconds under `key` (or "timings" that hold it).

    Raises RuntimeError, with the end of its output, when it fails.
    """
    peaks = {"VmRSS": 0, "RssAnon": 0}
    started, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **(extra or {})}
    )
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    out, err = process.communicate()
    seconds, after = time.perf_counter() - started, os.times()
    watcher.join()
    if process.returncode:
        raise RuntimeError((err or out)[-1500:])
    document = json.loads(out[out.index("{") :] if out.startswith("{") else out.strip().splitlines()[-1])
    merge = document.get("timings", document)[key]
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, merge, peaks["VmRSS"], peaks["RssAnon"], processor)


def _watch(process: "subprocess.Popen[str]", peaks: dict[str, int]) -> None:
    while process.poll() is None:
        begun = time.perf_counter()
        family = _family(process.pid)
        states = [_fields(pid, "status", ("VmRSS", "RssAnon")) for pid in family]
        sums = {key: sum(state.get(key, 0) for state in states) for key in peaks}
        if len(family) > 1:  # the system walks through all pages to say what is shared: not asked of a process alone
            sums["RssAnon"] = sum(_fields(pid, "smaps_rollup", ("Pss_Anon",)).get("Pss_Anon", 0) for pid in family)
        for key, value in sums.items():
            peaks[key] = max(peaks[key], value)
        time.sleep(max(_POLL, _REST * (time.perf_counter() - begun)))


def _family(pid: int) -> list[int]:
    """Return `pid` and its descendants."""
    family, todo = [], [pid]
    while todo:
        member = todo.pop()
        family.append(member)
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                todo += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return family


def _fields(pid: int, file: str, keys: tuple[str, ...]) -> dict[str, int]:
    """Return bytes that /proc/PID/`file` gives in kB; none of a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, _, value in fields if key in keys}
