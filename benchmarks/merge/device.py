"""Merges through a GPU beside merges on the CPU: whole processes of soupkit, in turns, inputs in the page cache.

Makes synthetic checkpoints, their numbers drawn on the device (kept for the next time): the ingredients and, last, the
base that they are near. The soups of both must have the same fingerprint, but for methods that rest on factorisations.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.merge.speed import remove, warm
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import Run, measure
from benchmarks.tools.synthetic import make_checkpoints

_METHODS = ["uniform", "task_arithmetic", "ties", "tsv_m"]
_WITHOUT_BASE = ("uniform",)
_OF_ONE_MACHINE = ("tsv_m", "iso_c", "iso_cts", "wudi")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="any open_clip architecture")
    parser.add_argument("--dtype", default="bfloat16", help="of the ingredients, torch's name")
    parser.add_argument("--count", type=int, default=3, help="ingredients besides the base")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=_METHODS)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])


def device(arguments: argparse.Namespace) -> list[str]:
    """Merge by every method on every device, in turns."""
    drawn_on = next((d for d in arguments.devices if d != "cpu"), "cpu")
    inputs = make_checkpoints(arguments.model, arguments.count + 1, arguments.dtype, arguments.work, drawn_on)
    out = arguments.work / "out"
    lines = [f"## Merges of {arguments.count} {arguments.model}, {arguments.dtype}", "", machine(), ""]
    lines += ["| method | device | whole process, s | merge, s | anonymous, GB |", "|---|---|---|---|---|"]
    for method in arguments.methods:
        runs: dict[str, list[Run]] = {name: [] for name in arguments.devices}
        prints: set[str] = set()
        for _ in range(arguments.rounds):
            for name in arguments.devices:
                remove(out)
                warm(inputs)
                runs[name].append(measure(_command(method, inputs, out, name), cwd=ROOT))
                prints.add(json.loads((out / "soup.json").read_text())["output"]["fingerprint"])
        if len(prints) > 1 and method not in _OF_ONE_MACHINE:
            raise SystemExit(f"{method}: devices gave other bytes than each other: {sorted(prints)}")
        for name, mine in runs.items():
            cells = [spread([r.process for r in mine]), spread([r.merge for r in mine])]
            anonymous = max(r.anonymous for r in mine) / 1e9
            lines.append(f"| {method} | {name} | {' | '.join(cells)} | {anonymous:.2f} |")
            print(lines[-1], flush=True)
    remove(out)
    return lines


def _command(method: str, inputs: list[Path], out: Path, name: str) -> list[str]:
    *refs, base = map(str, inputs)
    of_base = [] if method in _WITHOUT_BASE else ["--base", base]
    options = ["--method", method, *of_base, "-o", str(out), "--device", name, "--json"]
    return [sys.executable, "-m", "soupkit", "merge", *refs, *options]


SUBJECT = Subject("device", __doc__, add_arguments, device, needs_work=True)
