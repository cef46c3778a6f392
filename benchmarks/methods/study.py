"""Pools of several seeds, every method on each of them, and the tables of what came out."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.contest import TRIALS, contest
from benchmarks.methods.images import TASKS, read_task
from benchmarks.methods.pools import Pool, kept, many_tasks, one_task
from benchmarks.methods.tables import table
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine

OF_EACH = 250  # images, at most, that each of many tasks chooses on, and is scored on
ONE = """Fine-tunes of one task, {name}, that differ in seed, rate, decay and smoothing: the setting of model soups."""
MANY = """Fine-tunes of eight tasks each under heads that stay as they are: the setting of task arithmetic."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of pools, and where images come from."""
    parser.add_argument("--seeds", type=int, default=5, help="how many pools")
    parser.add_argument("--first", type=int, default=1, help="number of the first pool")
    parser.add_argument("--data", type=Path, help="folder with the packages' files, see benchmarks/methods/images.py")


def run(name: str, arguments: argparse.Namespace) -> list[str]:
    """Train the pools and merge them, or go on with that, and return the table."""
    torch.set_num_threads(1)
    seeds: list[dict[str, Any]] = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        title = f"{name} {seed}"
        if not (done := arguments.record.read(title)):
            started = time.process_time()
            pool = _pool(name, seed, arguments)
            trained = time.process_time() - started
            done = [contest(pool)]
            arguments.record.add(title, done[0])
            took = time.process_time() - started - trained
            print(f"seed {seed}: trained in {trained:.0f} s of the processor, merged in {took:.0f}", file=sys.stderr)
        seeds.append(done[0])
    parameters = f"Parameters are chosen on val among {TRIALS}, those of `soupkit search --strategy methods`."
    return [*table(name, seeds), "", f"{parameters} {machine()}."]


def _pool(name: str, seed: int, arguments: argparse.Namespace) -> Pool:
    """Return a pool; its models are kept, so that another contest of them need not train."""
    path = arguments.work / "pools" / f"{name}-{seed}.pt"
    if name == "tasks":
        tasks = [read_task(task, arguments.data, arguments.work).first(OF_EACH) for task in TASKS]
        return kept(path, tasks, lambda: many_tasks(tasks, seed))
    task = read_task(name, arguments.data, arguments.work)
    return kept(path, [task], lambda: one_task(task, seed))


SUBJECTS = tuple(
    Subject(name, text.format(name=name), add_arguments, partial(run, name), keeps=True, needs_work=True)
    for name, text in (("digits", ONE), ("fashion", ONE), ("tasks", MANY))
)
