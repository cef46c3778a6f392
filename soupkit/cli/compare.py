"""`soupkit compare`: can these checkpoints be averaged, and are they of one lineage?"""

from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, Model, Preprocess
from soupkit.text import visible

if TYPE_CHECKING:
    from rich.table import Table

    from soupkit.checkpoint.comparison import Comparison
    from soupkit.cli.console import PlainConsole

HELP = """\
Say whether checkpoints can be averaged, and what differs. Exit code 1 when they cannot.

[bold]Example[/bold]: headers only, and then the weights too, with the directions from the base:

    soupkit compare runs/a runs/b runs/c
    soupkit compare runs/a runs/b --weights --base runs/stage1

Where all of them are runs of `soupkit train`, the ancestor that their records share is named.
With --weights: relative distances ||a - b|| / sqrt(||a|| ||b||) over the weight matrices of each tower, their cosines,
and with --base the cosines of the task vectors. From a distance of 1 on, checkpoints look independently trained.
"""


def compare(
    refs: Annotated[list[str], typer.Argument(metavar="REF REF...", help="Checkpoints to compare.")],
    weights: Annotated[bool, typer.Option("--weights", help="Read the weights and measure distances.")] = False,
    base: Annotated[str | None, typer.Option("--base", metavar="REF", help="The model that was fine-tuned.")] = None,
    model: Model = None,
    preprocess: Preprocess = None,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.checkpoint.comparison import compare as run_compare
    from soupkit.cli.output import print_json
    from soupkit.cli.progress import terminal_progress

    started = time.perf_counter()
    found = run_compare(
        refs, weights=weights, base=base, model=model, preprocess=preprocess, progress=terminal_progress()
    )
    if as_json:
        print_json("compare", {**_document(found), "seconds": time.perf_counter() - started})
    else:
        _show(found)
    if not found.mergeable:
        raise typer.Exit(1)


def _document(found: "Comparison") -> dict[str, object]:
    return {
        "refs": [
            {
                "ref": ref,
                "model": architecture.model,
                "parameters": architecture.parameters,
                "missing": list(tensors.missing),
                "unexpected": list(tensors.unexpected),
                "reshaped": {n: [list(a), list(b)] for n, (a, b) in tensors.reshaped.items()},
                "dtypes": {n: list(pair) for n, pair in tensors.dtypes.items()},
                "config": {k: list(pair) for k, pair in config.items()},
            }
            for ref, architecture, tensors, config in zip(
                found.refs, found.architectures, found.tensors, found.configs, strict=True
            )
        ],
        "mergeable": found.mergeable,
        "problem": found.problem,
        "weights": [
            {
                "refs": [found.refs[p.first], found.refs[p.second]],
                "tower": p.tower,
                "distance": p.distance,
                "cosine": p.cosine,
                "task_cosine": p.task_cosine,
            }
            for p in found.pairs
        ],
        "related": found.related,
        "lineage": found.lineage,
    }


def _show(found: "Comparison") -> None:
    from rich.text import Text

    from soupkit.cli.output import plain_console

    console = plain_console()
    _show_checkpoints(console, found)
    _show_differences(console, found)
    if found.pairs:
        _show_pairs(console, found)
    if found.problem is not None:
        console.print(Text.assemble(("cannot be merged", "bold red"), f": {found.problem}"))
    else:
        lineage = f"; {found.lineage}" if found.lineage else ""
        console.print(Text.assemble(("can be merged", "bold green"), lineage))


def _show_checkpoints(console: "PlainConsole", found: "Comparison") -> None:
    """Say what each checkpoint is, once where all are the same, and in what it differs from the first."""
    from rich.table import Table
    from rich.text import Text

    from soupkit.cli.tables import show_legend
    from soupkit.publishing.short_names import fit_names

    alike = len({str(architecture) for architecture in found.architectures}) == 1
    if alike:
        console.print(f"model: {found.architectures[0]}", soft_wrap=True)
    named = fit_names(found.refs, max(14, console.width // (2 if alike else 3)))
    table = Table(box=None, pad_edge=False)
    table.add_column("checkpoint", no_wrap=True)
    for head in ("differs from the first in",) if alike else ("model", "differs from the first in"):
        table.add_column(head, overflow="fold")
    for ref, architecture, tensors, config in zip(
        found.refs, found.architectures, found.tensors, found.configs, strict=True
    ):
        lines = [str(tensors)] if tensors else []
        lines += [f"{key}: {there!r} there, {here!r} here" for key, (there, here) in config.items()]
        if tensors.dtypes:
            lines.append(f"dtype of {len(tensors.dtypes)} tensors (averaging takes the widest)")
        model = [] if alike else [str(architecture)]
        table.add_row(named.names[ref], *model, Text("\n".join(map(visible, lines)) or "nothing"))
    console.print(table)
    show_legend(console, named)


def _show_differences(console: "PlainConsole", found: "Comparison") -> None:
    """List every tensor that stands in the way."""
    from rich.table import Table

    from soupkit.publishing.short_names import fit_names

    names = fit_names(found.refs, max(14, console.width // 3)).names
    table = Table("tensor", "checkpoint", "difference", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for ref, tensors in zip(found.refs, found.tensors, strict=True):
        for name in tensors.missing:
            table.add_row(name, names[ref], "missing")
        for name in tensors.unexpected:
            table.add_row(name, names[ref], "unexpected")
        for name, (there, here) in tensors.reshaped.items():
            table.add_row(name, names[ref], f"{list(here)} instead of {list(there)}")
    if table.row_count:
        console.print(table)


def _show_pairs(console: "PlainConsole", found: "Comparison") -> None:
    from soupkit.cli.tables import show_named, table_of

    has_tasks = any(p.task_cosine is not None for p in found.pairs)
    heads = ["first", "second", "tower", "distance", "cosine", *(["task cosine"] if has_tasks else [])]

    def table(names: dict[str, str]) -> "Table":
        rows = []
        for p in found.pairs:
            task = "" if p.task_cosine is None else f"{p.task_cosine:.3f}"
            row = [names[found.refs[p.first]], names[found.refs[p.second]], p.tower, f"{p.distance:.3g}"]
            rows.append([*row, f"{p.cosine:.4f}", *([task] if has_tasks else [])])
        made = table_of(heads, rows)
        made.columns[1].justify = made.columns[2].justify = "left"
        return made

    show_named(console, found.refs, table)
