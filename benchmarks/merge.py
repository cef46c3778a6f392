"""How fast is a uniform merge, and in how much memory? soupkit, its peers and the floor, side by side in one run.

    python -m benchmarks.merge ViT-bigG-14 --dtype bfloat16 --count 3 --work /tmp/soupkit-benchmark

Makes synthetic checkpoints (kept for the next time) and an environment for the peers, then runs all of them in turns,
warm (the inputs are read again before every run) and cold (the inputs are dropped from the page cache). The floor
reads the inputs, writes as many bytes as the soup has, and syncs; the direct floor writes past the page cache. Ratios
are taken round by round, so that they hold when the machine's speed drifts; their median, least and largest are
printed. Prints Markdown; `--output` also saves it.
Stopped at any moment, the same command goes on with the next run (`rounds.jsonl` under `--work` holds those that are
done; it is removed at the end).
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import machine, spread
from benchmarks.measure import Run, measure
from benchmarks.peers import environment, versions
from benchmarks.synthetic import make_checkpoints

PEERS = ["mergekit", "sd-mecha", "torch-loop"]
PACKAGES = ["mergekit", "sd-mecha"]
WEIGHTS = "open_clip_model.safetensors"
ROOT = Path(__file__).parents[1]
_ON_CPU = ["--device", "cpu", "--json"]


def subjects(peers: list[str], python: Path | None, inputs: list[Path], out: Path) -> dict[str, list[str]]:
    """Return the command line of every subject; each writes into `out`."""
    files = [str(p / WEIGHTS) for p in inputs]
    commands = {
        "floor": [sys.executable, "-m", "benchmarks.floor", str(out), *files],
        "direct floor": [sys.executable, "-m", "benchmarks.floor", "--direct", str(out), *files],
        "soupkit": [
            sys.executable,
            "-m",
            "soupkit",
            "merge",
            *map(str, inputs),
            "-o",
            str(out),
            "--device",
            "cpu",
            "--json",
        ],
    }
    for peer in peers:
        interpreter = sys.executable if peer == "torch-loop" else str(python)
        commands[peer] = [interpreter, str(ROOT / "benchmarks" / "merge_peers.py"), peer, str(out), *map(str, inputs)]
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


class Record:
    """The runs that are done, on disk, one line each, so that a benchmark that was stopped goes on."""

    def __init__(self, path: Path, title: str) -> None:
        self._path = path
        self._title = title

    def read(self, phase: str) -> list[tuple[str, Run]]:
        """Return the runs of this benchmark's `phase` ("warm", "cold") with their subjects, oldest first."""
        if not self._path.exists():
            return []
        entries = map(json.loads, self._path.read_text().splitlines())
        return [(e["subject"], Run(**e["run"])) for e in entries if (e["title"], e["phase"]) == (self._title, phase)]

    def add(self, phase: str, subject: str, run: Run) -> None:
        """Append a run."""
        with self._path.open("a") as file:
            entry = {"title": self._title, "phase": phase, "subject": subject, "run": asdict(run)}
            file.write(json.dumps(entry) + "\n")

    def remove(self) -> None:
        """Remove the file: the benchmark is over."""
        self._path.unlink(missing_ok=True)


def rounds(
    commands: dict[str, list[str]], out: Path, prepare: Callable[[], None], count: int, record: Record, phase: str
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run every subject `count` times, in turns. A subject that fails is left out, and its error returned."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    failures: dict[str, str] = {}
    for name, run in record.read(phase):
        if name in runs:
            runs[name].append(run)
    for i in range(count):
        for name, command in commands.items():
            if name in failures or len(runs[name]) > i:
                continue
            remove(out)
            os.sync()
            prepare()
            try:
                run = measure(command, cwd=ROOT)
            except (RuntimeError, ValueError, KeyError, IndexError) as error:
                failures[name] = str(error)
                continue
            runs[name].append(run)
            record.add(phase, name, run)
            print(f"  round {i + 1}, {name}: merge {run.merge:.2f} s, process {run.process:.2f} s", file=sys.stderr)
    remove(out)
    return {n: r for n, r in runs.items() if r and n not in failures}, failures


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
    """Run every subject once and say how far its result is from soupkit's, at most."""
    from safetensors import safe_open

    reference = out.with_name("reference")
    lines = []
    for name, command in commands.items():
        if name.endswith("floor"):
            continue
        remove(out)
        try:
            measure(command, cwd=ROOT)
        except (RuntimeError, ValueError, KeyError, IndexError):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="any open_clip architecture")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--count", type=int, default=3, help="ingredients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; empty for none")
    parser.add_argument("--work", type=Path, required=True, help="directory for checkpoints, outputs and the peers")
    parser.add_argument("--no-check", action="store_true", help="do not compare the results once")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    peers = [p for p in options.peers.split(",") if p]
    needed = [p for p in PACKAGES if p in peers]
    python = environment(options.work / "peers", needed) if needed else None
    inputs = make_checkpoints(options.model, options.count, options.dtype, options.work)
    out = options.work / "out"
    record = Record(options.work / "rounds.jsonl", f"{options.model}, {options.dtype}, {options.count}")
    commands = subjects(peers, python, inputs, out)
    title = f"{options.model}, {options.dtype}, {options.count} ingredients"
    lines = [f"## Uniform merge: {title}", "", machine()]
    if python is not None:
        lines.append(", ".join(f"{p} {v}" for p, v in versions(python, [*needed, "torch"]).items()) + " (peers)")
    lines.append("")
    if not options.no_check:
        lines += [*differences(commands, out), ""]
    for name, prepare, count in (("warm", warm, options.rounds), ("cold", cold, options.cold_rounds)):
        if count:
            done = rounds(commands, out, lambda p=prepare: p(inputs), count, record, name)  # type: ignore[misc]
            lines += table(name, *done)
    record.remove()
    text = "\n".join(lines)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
