"""Three language models in shards become one: soupkit beside mergekit, on the peer's own ground.

Makes synthetic checkpoints of a Llama-like model in bfloat16 (kept for the next time), then runs `soupkit merge` and
`mergekit-yaml --lazy-unpickle --low-cpu-memory`, without and with `--async-write`, in turns. Before every run torch
and transformers are imported once by the Python that it runs in, and the inputs are read, so that libraries and inputs
lie in the page cache as far as memory allows. Seconds and memory are those of whole processes,
imports and forks included, pages that forks share counted once; ratios are taken round by round. `python -m
benchmarks.merge logits` compares what the soup computes. Stopped at any moment, the same command goes on with the next
run.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import ROOT
from benchmarks.tools.commands import Subject
from benchmarks.tools.language_models import SIZES, make_language_models
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import Run, measure
from benchmarks.tools.peers import environment, versions
from benchmarks.tools.rounds import Record

_PEER_SCRIPT = Path(__file__).with_name("peer_merges.py")
_PEERS = ("mergekit-yaml", "mergekit-yaml-async")
_COUNT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("size", choices=SIZES, help="parameters of the model")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")


def commands_of(python: Path, inputs: list[Path], out: Path) -> dict[str, list[str]]:
    """Return the command line of everything that is compared; each writes into `out`."""
    merge = [sys.executable, "-m", "soupkit", "merge", *map(str, inputs), "-o", str(out), "--device", "cpu", "--json"]
    return {"soupkit": merge} | {
        peer: [str(python), str(_PEER_SCRIPT), peer, str(out), *map(str, inputs)] for peer in _PEERS
    }


def warm(python: str, inputs: list[Path]) -> None:
    """Have what a merge reads in the page cache as far as memory allows: the libraries, and every input."""
    subprocess.run([python, "-c", "import torch, transformers"], check=True, capture_output=True)
    buffer = bytearray(8 << 20)
    for shard in (shard for path in inputs for shard in sorted(path.glob("*.safetensors"))):
        with shard.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def rounds(
    commands: dict[str, list[str]], inputs: list[Path], out: Path, count: int, record: Record
) -> dict[str, list[Run]]:
    """Run every command `count` times, in turns; `record` keeps what was done under the command's name."""
    runs = {name: [Run(**figures) for figures in record.read(name)] for name in commands}
    for i in range(count):
        for name, command in commands.items():
            if len(runs[name]) > i:
                continue
            shutil.rmtree(out, ignore_errors=True)
            warm(command[0], inputs)
            run = measure(command, cwd=ROOT)
            runs[name].append(run)
            record.add(name, asdict(run))
            print(f"  round {i + 1}, {name}: {run.process:.1f} s, {run.anonymous / 1e9:.2f} GB", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    return runs


def table(runs: dict[str, list[Run]]) -> list[str]:
    """Return a Markdown table: seconds, memory, and how many times soupkit's they are."""
    lines = [
        "| | whole process, s | time / soupkit's | anonymous memory, GB | memory / soupkit's |",
        "|---|---|---|---|---|",
    ]
    ours = runs["soupkit"]
    for name, mine in runs.items():
        pairs = list(zip(mine, ours, strict=True))
        cells = [
            spread([run.process for run in mine]),
            spread([a.process / b.process for a, b in pairs]),
            spread([run.anonymous / 1e9 for run in mine]),
            spread([a.anonymous / b.anonymous for a, b in pairs]),
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def llm(arguments: argparse.Namespace) -> list[str]:
    """Run everything in turns."""
    python = environment(arguments.work / "peers", ["mergekit"])
    inputs = make_language_models(arguments.size, _COUNT, arguments.work)
    out = arguments.work / "out"
    size = sum(shard.stat().st_size for shard in inputs[0].glob("*.safetensors")) / 1e9
    runs = rounds(commands_of(python, inputs, out), inputs, out, arguments.rounds, arguments.record)
    return [
        f"## Mean of {_COUNT} language models of {size:.2f} GB in shards, bfloat16",
        "",
        machine(),
        ", ".join(f"{p} {v}" for p, v in versions(python, ["mergekit", "torch"]).items()) + " (the peer's)",
        "",
        *table(runs),
    ]


SUBJECT = Subject("llm", __doc__, add_arguments, llm, keeps=True, needs_work=True)
