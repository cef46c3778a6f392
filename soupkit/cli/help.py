"""`--help`, laid out for the terminal that it is read on: paragraphs and examples wrapped, options by what they are
for, each with a plain type and its default.

A command's help is text in which paragraphs are separated by empty lines, what is indented keeps its lines, and the
words between `[bold]` and `[/bold]` are headings.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from inspect import cleandoc
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, get_args

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from soupkit.cli.console import PlainConsole

MOST_WIDE = 100  # columns; longer lines of prose are hard to read
_NARROWEST_HELP = 24  # columns; where less is left for an option's help, it goes below the option
_TYPES = {int: "INTEGER", float: "NUMBER", Path: "PATH", "integer": "INTEGER", "float": "NUMBER", "path": "PATH"}
_GROUPS = {
    "What is made": (
        "--output", "--method", "--weight", "--base", "--param", "--dtype", "--max-shard-size", "--to", "--rank",
    ),
    "Data and models": (
        "--task", "--report-task", "--score", "--minimize", "--score-file", "--score-timeout", "--score-retries",
        "--score-weight", "--score-key", "--data-root", "--model", "--preprocess", "--limit", "--skip-corrupt",
        "--recipe",
    ),
    "Computing": (
        "--device", "--precision", "--batch-size", "--workers", "--threads", "--slab-size", "--compile", "--world-size",
        "--rate",
    ),
    "Cache": ("--cache", "--no-cache", "--no-score-cache"),
    "Running": ("--dry-run", "--fresh", "--json", "--quiet", "--verbose", "--debug", "--version", "--help",
                "--install-completion", "--show-completion"),
}  # fmt: skip
_GROUP_OF = {option: group for group, options in _GROUPS.items() for option in options}
_OWN = "Options"
_PROGRAMS = ("soupkit", "torchrun", "cd", "pip", "python")  # what a line of an example begins with


class HelpCommand(TyperCommand):
    """A command whose help is laid out here. `late_help` gives the text where a table has to be loaded for it."""

    late_help: Callable[[], str] | None = None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        text = self.late_help() if self.late_help is not None else self.help or ""
        _write(formatter, [_usage(self, ctx), *_laid_out(text), *_parameters(self.get_params(ctx), ctx)])


class HelpGroup(TyperGroup):
    """The list of commands, by what they are for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        panels: dict[str, list[Row]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                panels.setdefault(panel, []).append((name, "", _first_sentence(command.help or "")))
        tables = [part for title, rows in panels.items() for part in (Heading(title), Rows(rows))]
        parameters = _parameters(self.get_params(ctx), ctx)
        _write(formatter, [_usage(self, ctx), *_laid_out(self.help or ""), *tables, *parameters])


Row = tuple[str, str, str]  # what is typed, its type, its help


class Heading(str):
    """A line that stands out."""


class Kept(str):
    """A line that is indented: of an example, or of a list whose second column begins after two blanks or more."""


class Rows(list[Row]):
    """Options or commands, in columns."""


def _first_sentence(text: str) -> str:
    words = " ".join(cleandoc(text).split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)])[.:] ", words)[0].rstrip(".")


def _laid_out(text: str) -> Iterator[str]:
    """Yield the parts of a help's text: paragraphs as one line each, headings, and lines that keep their form."""
    paragraph: list[str] = []
    for line in [*cleandoc(text).splitlines(), ""]:
        if line.strip() and not line.startswith("    "):
            paragraph.append(line.strip())
            continue
        if paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if line.strip():
            yield Kept(line.rstrip())


def _parameters(parameters: Iterable[Any], ctx: Any) -> Iterator[str | Rows]:
    """Yield headings and rows: arguments, the command's own options, and those of each group."""
    rows: dict[str, Rows] = {"Arguments": Rows(), _OWN: Rows(), **{group: Rows() for group in _GROUPS}}
    for parameter in parameters:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            group = "Arguments"
        else:
            declared = getattr(parameter, "rich_help_panel", None) or _OWN
            group = next((_GROUP_OF[name] for name in parameter.opts if name in _GROUP_OF), declared)
        rows.setdefault(group, Rows()).append(_row(parameter, ctx))
    for group, lines in rows.items():
        if lines:
            yield Heading(group)
            yield lines


def _row(parameter: Any, ctx: Any) -> Row:
    help_text = " ".join(re.sub(r"\\\[", "[", parameter.help or "").split())
    if parameter.param_type_name == "argument":
        return (parameter.metavar or parameter.name.upper()).split()[0], "", help_text
    short = [name for name in parameter.opts if not name.startswith("--")]
    names = ", ".join([*short, *(name for name in parameter.opts if name.startswith("--"))])
    if getattr(parameter, "is_flag", False):
        return names, "", help_text
    notes = [*_bounds(parameter), *_default(parameter, ctx, help_text)]
    if notes:
        help_text = f"{help_text} [{'; '.join(notes)}]".strip()
    return names, _type(parameter), help_text


def _type(parameter: Any) -> str:
    """Return what is given to an option, in a plain word. Versions of typer keep the type in different places."""
    if parameter.metavar:
        return str(parameter.metavar)
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if choices := get_args(annotation) or getattr(getattr(parameter, "type", None), "choices", None):
        return "|".join(map(str, choices))
    return _TYPES.get(annotation or getattr(getattr(parameter, "type", None), "name", ""), "TEXT")


def _bounds(parameter: Any) -> Iterator[str]:
    for name, words in (("min", "at least"), ("max", "at most")):
        bound = getattr(parameter, name, None)
        bound = getattr(getattr(parameter, "type", None), name, None) if bound is None else bound
        if bound is not None:
            yield f"{words} {bound:g}"


def _default(parameter: Any, ctx: Any, help_text: str) -> Iterator[str]:
    default = parameter.get_default(ctx, call=False)
    # Words about a default that no value says stand in the help itself.
    if default in (None, (), [], "") or "[default:" in help_text or "(default:" in help_text:
        return
    values = default if isinstance(default, list | tuple) else (default,)
    yield f"default: {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"


def _write(formatter: Any, parts: Iterable[str | Rows]) -> None:
    """Lay `parts` out for the terminal and give the text to `formatter`, with colours where they are shown."""
    from soupkit.cli.console import PlainConsole

    buffer = StringIO()
    console = PlainConsole(
        file=buffer, width=_width(), force_terminal=sys.stdout.isatty(), highlight=False, markup=False, emoji=False
    )
    previous: str | Rows | None = None
    for part in parts:
        together = (isinstance(part, Kept) and isinstance(previous, Kept)) or isinstance(previous, Heading)
        if previous is not None and not together:
            console.print()
        _print(console, part)
        previous = part
    formatter.write("".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines()).rstrip("\n"))


def _usage(command: Any, ctx: Any) -> str:
    """Return the line of how a command is called, each argument as its help names it."""
    return re.sub(r"\{([^}]+)\}", r"\1", command.get_usage(ctx)).replace("...]...", "...]")


def _width() -> int:
    from rich.console import Console

    return min(MOST_WIDE, Console().width)


def _print(console: "PlainConsole", part: str | Rows) -> None:
    from rich.text import Text

    if isinstance(part, Rows):
        _print_rows(console, part)
    elif isinstance(part, Heading):
        console.print(Text(part, style="bold"))
    elif isinstance(part, Kept):
        for line in _folded(part, console.width):
            console.print(Text(line), soft_wrap=True)
    else:
        console.print(_with_headings(part))


def _with_headings(text: str) -> Any:
    from rich.text import Text

    shown = Text()
    for i, words in enumerate(re.split(r"\[/?bold\]", text.replace("\\[", "["))):
        shown.append(words, style="bold" if i % 2 else "")
    return shown


def _folded(line: str, width: int) -> list[str]:
    """Return an indented line as lines of at most `width`: a command goes on after a backslash, with its remark above
    it; of a list the second column stays below itself."""
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    if line.split()[0] in _PROGRAMS:
        command, _, remark = line.strip().partition("   # ")
        above = wrap(remark, width, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        return [*above, *_folded_command(command, indent, width)]
    columns = re.match(r"(\s*\S.*?\s{2,})(\S.*)$", line)
    if columns is None:
        return wrap(line.strip(), width, initial_indent=indent, subsequent_indent=indent + "    ")
    head, rest = columns.groups()
    if len(head) + _NARROWEST_HELP > width:
        below = indent + "    "
        first = wrap(head.strip(), width, initial_indent=indent, subsequent_indent=below)
        return [*first, *wrap(rest, width, initial_indent=below, subsequent_indent=below)]
    return wrap(rest, width, initial_indent=head, subsequent_indent=" " * len(head))


def _folded_command(command: str, indent: str, width: int) -> list[str]:
    """Return a command as lines, none of which parts an option from its value."""
    lines = [""]
    for words in re.findall(r"-\S+ [^-\s]\S*|\S+", command):
        if lines[-1] and len(lines[-1]) + 1 + len(words) + 2 > width:
            lines[-1] += " \\"
            lines.append(f"{indent}    {words}")
        else:
            lines[-1] = f"{lines[-1]} {words}" if lines[-1] else indent + words
    return lines


def _print_rows(console: "PlainConsole", rows: Rows) -> None:
    from rich.text import Text

    heads = [f"{names} {kind}".rstrip() for names, kind, _ in rows]
    column = 2 + min(max(map(len, heads)), max(20, console.width // 2 - 4)) + 2
    beside = console.width - column >= _NARROWEST_HELP
    indent = column if beside else 8
    for (names, kind, text), head in zip(rows, heads, strict=True):
        line = Text.assemble("  ", (names, "bold cyan"), (f" {kind}" if kind else "", "green"))
        lines = wrap(text, console.width - indent)
        if beside and lines and len(head) + 4 <= column:
            line.pad_right(column - len(line))
            line.append(lines.pop(0))
        console.print(line)
        for words in lines:
            console.print(Text(" " * indent + words))
