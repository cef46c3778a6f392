"""The command line of a room: a word for each subject, with arguments of its own. Tables are printed as Markdown.

The first line of what a subject prints is the command that makes it again, with DIR for directories of one's own.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools.rounds import Record

_OWN_DIRECTORIES = ("--work", "--data", "--before")
_LEFT_OUT = ("--output", "--python")  # where the table is saved, and what was at hand on one's own machine
_OWN_VARIABLES = ("OMP_NUM_THREADS",)  # settings of the environment that decide what is measured


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that is measured: its word, what it measures, its arguments, and the work, which returns a table.

    A subject that `keeps` rounds has them in its `--work` directory until `--output` has the table; one that
    `needs_work` has no use without that directory. The first paragraph of `text` is the summary.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    work: Callable[[argparse.Namespace], list[str]]
    keeps: bool = False
    needs_work: bool = False

    @property
    def summary(self) -> str:
        """The first paragraph of the text, in one line."""
        return self.text.strip().split("\n\n", 1)[0].replace("\n", " ")


@dataclass(frozen=True, slots=True)
class Room:
    """Subjects that belong together: `python -m benchmarks.NAME SUBJECT`."""

    name: str
    text: str
    subjects: tuple[Subject, ...]

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the room's command line."""
        raw = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(
            f"python -m benchmarks.{self.name}", description=self.text, formatter_class=raw
        )
        words = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
        for subject in self.subjects:
            own = words.add_parser(subject.name, help=subject.summary, description=subject.text, formatter_class=raw)
            subject.add_arguments(own)
            own.add_argument("--output", type=Path, help="a file that the table is saved in, too")
            if subject.keeps or subject.needs_work:
                own.add_argument(
                    "--work", type=Path, required=subject.needs_work, help="directory for what is made and measured"
                )
            own.set_defaults(run=subject.work, keeps=subject.keeps)
        return parser

    def parse(self, given: Sequence[str]) -> argparse.Namespace:
        """Return the arguments of a command line, with the `record` of the subject's rounds."""
        arguments = self.parser().parse_args(given)
        kept = arguments.work if arguments.keeps else None
        arguments.record = Record(kept and kept / f"rounds-{self.name}-{arguments.subject}.jsonl")
        return arguments

    def run(self, given: Sequence[str] | None = None) -> None:
        """Measure what the command line asks for, print the table, and save it where `--output` says."""
        given = sys.argv[1:] if given is None else given
        arguments = self.parse(given)
        try:
            lines = arguments.run(arguments)
        except KeyboardInterrupt:
            sys.exit(130)
        text = "\n".join([f"`{command_of(self.name, given)}`", "", *lines]).rstrip() + "\n"
        print(text, end="")
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(text)
            arguments.record.remove()


def command_of(room: str, given: Sequence[str]) -> str:
    """Return the command line that makes the same table anywhere: DIR for directories, nothing of one's own."""
    words = [f"{name}={os.environ[name]}" for name in _OWN_VARIABLES if name in os.environ]
    words += ["python", "-m", f"benchmarks.{room}"]
    rest = iter(given)
    for word in rest:
        option, assigned, _ = word.partition("=")
        if option in _LEFT_OUT:
            if not assigned:
                next(rest)
        elif option in _OWN_DIRECTORIES:
            if not assigned:
                next(rest)
            words += [option, "DIR"]
        else:
            words.append(shlex.quote(word))
    return " ".join(words)
