"""Peak memory of whole runs of `soupkit evaluate`, with more images, more classes and more candidates.

One dimension is larger at a time; all classes stand in ImageNet's 80 templates.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.evaluate.data import add_model_arguments, config_of, make_images, make_models
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from benchmarks.tools.measure import measure

SIZES = ((200, 50, 2), (2000, 50, 2), (200, 1000, 2), (200, 50, 10))  # images, classes, candidates


def memory(arguments: argparse.Namespace) -> list[str]:
    """Run each size once."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    work: Path = arguments.work
    config = config_of(arguments.width, arguments.layers)
    templates = [t("{c}") for t in OPENAI_IMAGENET_TEMPLATES]
    lines = ["## Peak memory of `soupkit evaluate`", "", machine(), ""]
    lines += ["| images | classes | candidates | anonymous, GB | resident, GB |", "|---|---|---|---|---|"]
    for images, classes, count in SIZES:
        folder = make_images(work / f"memory-{images}-{classes}", images, classes, templates)
        models = make_models(work / f"models-{arguments.width}-{arguments.layers}", count, config)
        command = [sys.executable, "-m", "soupkit", "evaluate", *map(str, models), "--task", str(folder), "--json"]
        run = measure([*command, "--no-cache", "--device", "cpu"], ROOT, key="images")
        lines.append(f"| {images:,} | {classes:,} | {count} | {run.anonymous / 1e9:.2f} | {run.resident / 1e9:.2f} |")
        print(lines[-1], file=sys.stderr)
    return lines


SUBJECT = Subject("memory", __doc__, add_model_arguments, memory, needs_work=True)
