"""Seconds and memory of a uniform merge: soupkit, its peers and the floor, in turns.

Makes synthetic checkpoints (kept for the next time) and an environment for the peers, then runs all of them in turns,
warm (the inputs are read again before every run) and cold (the inputs are dropped from the page cache). The floor
reads the inputs, writes as many bytes as the soup has, and syncs; the direct floor writes past the page cache. Ratios
are taken round by round, so that they hold when the machine's speed drifts; their median, least and largest are
printed. Stopped at any moment, the same command goes on with the next run.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import ROOT
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import Run, measure
from benchmarks.tools.peers import environment, versions
from benchmarks.tools.rounds import Record
from benchmarks.tools.synthetic import make_checkpoints

PEERS = ["mergekit", "sd-mecha", "torch-loop"]
PACKAGES = ["mergekit", "sd-mecha"]
WEIGHTS = "open_clip_model.safetensors"
_PEER_SCRIPT = Path(__file__).with_name("peer_merges.py")
_FAILURES = (RuntimeError, ValueError, KeyError, IndexError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="any open_clip architecture")
    parser.add_argument("--dtype", default="bfloat16", help="of the ingredients, torch's name")
    parser.add_argument("--count", type=int, default=3, help="ingredients")
    parser.add_argument("--rounds", type=int, default=3, help="with the inputs in the page cache")
    parser.add_argument("--cold-rounds", type=int, default=3, help="with the inputs on the disk")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; empty for none")
    parser.add_argument("--no-check", action="store_true", help="do not compare the results once")


def commands_of(peers: list[str], python: Path | None, inputs: list[Path], out: Path) -> dict[str, list[str]]:
    """Return the command line of everything that is compared; each writes into `out`."""
    files = [str(p / WEIGHTS) for p in inputs]
    floor = [sys.executable, "-m", "benchmarks.merge.floor"]
    merge = [sys.executable, "-m", "soupkit", "merge", *map(str, inputs), "-o", str(out), "--device", "cpu", "--json"]
    commands = {
        "floor": [*floor, str(out), *files],
        "direct floor": [*floor, "--direct", str(out), *files],
        "soupkit": merge,
    }
    for peer in peers:
        interpreter = sys.executable if peer == "torch-loop" else str(python)
        commands[peer] = [interpreter, str(_PEER_SCRIPT), peer, str(out), *map(str, inputs)]
    return commands


def warm(inputs: list[Path]) -> None:
    """Read every input, so that it lies in the page cache as far as memory allows."""
    buffer = bytearray(8 << 20)
    for path in inputs:
        with (path / WEIGHTS).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cold(inputs: list[Path]) -> None:
    """Drop every input from the page cache."""
    for path in inputs:
        descriptor = os.open(path / WEIGHTS, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def remove(out: Path) -> None:
    """Remove a run's output."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)


def rounds(
    commands: dict[str, list[str]], out: Path, prepare: Callable[[], None], count: int, record: Record, title: str
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run every command `count` times, in turns; `record` keeps what was done under `title` and the command's name.

    A command that fails is left out, and its error returned.
    """
    runs = {name: [Run(**figures) for figures in record.read(f"{title}, {name}")] for name in commands}
    failures: dict[str, str] = {}
    for i in range(count):
        for name, command in commands.items():
            if name in failures or len(runs[name]) > i:
                continue
            remove(out)
            os.sync()
            prepare()
            try:
                run = measure(command, cwd=ROOT)
            except _FAILURES as error:
                failures[name] = str(error)
                continue
            runs[name].append(run)
            record.add(f"{title}, {name}", asdict(run))
            print(f"  round {i + 1}, {name}: merge {run.merge:.2f} s, process {run.process:.2f} s", file=sys.stderr)
    remove(out)
    return {name: mine for name, mine in runs.items() if mine and name not in failures}, failures


def table(title: str, runs: dict[str, list[Run]], failures: dict[str, str]) -> list[str]:
    """Return a Markdown table of one set of rounds."""
    lines = [
        f"### {title}",
        "",
        "| | merge, s | merge / floor | process / floor | peer's merge / soupkit's | resident, GB | anonymous, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, mine in runs.items():
        floors, ours = runs["floor"], runs.get("soupkit", [])
        against_floor = spread([a.merge / b.merge for a, b in zip(mine, floors, strict=False)])
        process = spread([a.process / b.merge for a, b in zip(mine, floors, strict=False)])
        against_us = spread([a.merge / b.merge for a, b in zip(mine, ours, strict=False)]) if ours else ""
        memory = [f"{max(getattr(r, k) for r in mine) / 1e9:.2f}" for k in ("resident", "anonymous")]
        own = name in ("soupkit", "floor", "direct floor")
        row = [name, spread([r.merge for r in mine]), against_floor, process, "" if own else against_us, *memory]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *(f"{name} failed: {error.splitlines()[-1]}" for name, error in failures.items()), ""]
    return lines


def differences(commands: dict[str, list[str]], out: Path) -> list[str]:
    """Run every command once and say how far its result is from soupkit's, at most."""
    from safetensors import safe_open

    reference = out.with_name("reference")
    lines = []
    for name, command in commands.items():
        if name.endswith("floor"):
            continue
        remove(out)
        try:
            measure(command, cwd=ROOT)
        except _FAILURES:
            continue
        if name == "soupkit":
            remove(reference)
            out.rename(reference)
            continue
        largest = 0.0
        with safe_open(reference / WEIGHTS, framework="pt") as ours:
            for shard in out.glob("*.safetensors"):
                with safe_open(shard, framework="pt") as theirs:
                    for key in theirs.keys():  # noqa: SIM118 - not a mapping
                        difference = theirs.get_tensor(key).double() - ours.get_tensor(key).double()
                        largest = max(largest, float(difference.abs().max()))
        lines.append(f"- {name}: largest difference from soupkit's weights {largest:.1e}")
    remove(out)
    remove(reference)
    return lines


def speed(arguments: argparse.Namespace) -> list[str]:
    """Run everything in turns, warm and cold."""
    peers = [peer for peer in arguments.peers.split(",") if peer]
    needed = [package for package in PACKAGES if package in peers]
    python = environment(arguments.work / "peers", needed) if needed else None
    inputs = make_checkpoints(arguments.model, arguments.count, arguments.dtype, arguments.work)
    out = arguments.work / "out"
    commands = commands_of(peers, python, inputs, out)
    title = f"{arguments.model}, {arguments.dtype}, {arguments.count} ingredients"
    lines = [f"## Uniform merge: {title}", "", machine()]
    if python is not None:
        lines.append(", ".join(f"{p} {v}" for p, v in versions(python, [*needed, "torch"]).items()) + " (peers)")
    lines.append("")
    if not arguments.no_check:
        lines += [*differences(commands, out), ""]
    phases: Sequence[tuple[str, Callable[[list[Path]], None], int]] = (
        ("warm", warm, arguments.rounds),
        ("cold", cold, arguments.cold_rounds),
    )
    for phase, prepare, count in phases:
        if count:
            done = rounds(commands, out, partial(prepare, inputs), count, arguments.record, f"{title}, {phase}")
            lines += table(phase, *done)
    return lines


SUBJECT = Subject("speed", __doc__, add_arguments, speed, keeps=True, needs_work=True)
