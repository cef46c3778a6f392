"""`soupkit inspect`: what a checkpoint is, from its headers alone."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, Model, Preprocess

if TYPE_CHECKING:
    from soupkit.checkpoint import Checkpoint
    from soupkit.checkpoint.architecture import Architecture

HELP = """\
Say what a checkpoint is. Only headers are read, whatever its size; of one on the Hub only headers are fetched.

[bold]Example[/bold]:

    soupkit inspect runs/a
    soupkit inspect model.safetensors --tensors
    soupkit inspect hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K
"""


def inspect(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The checkpoint.")],
    model: Model = None,
    preprocess: Preprocess = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.checkpoint import open_headers
    from soupkit.checkpoint.architecture import architecture_of
    from soupkit.cli.output import print_json

    started = time.perf_counter()
    with open_headers(ref, adapter_alone=True) as checkpoint:
        architecture = architecture_of(checkpoint, model=model, preprocess=preprocess)
        if not as_json:
            _show(checkpoint, architecture, tensors)
            return
        specs = checkpoint.tensors
        document: dict[str, object] = {
            "ref": ref,
            "kind": _kind(checkpoint),
            "family": checkpoint.family,
            "file_format": checkpoint.file_format,
            "model": architecture.model,
            "model_from": architecture.source,
            "candidates": list(architecture.candidates),
            "parameters": architecture.parameters,
            "image_parameters": architecture.image_parameters,
            "text_parameters": architecture.text_parameters,
            "tensors": len(specs),
            "dtypes": dict(Counter(s.dtype for s in specs.values())),
            "bytes": sum(s.nbytes for s in specs.values()),
            "metadata": checkpoint.metadata,
            "notes": list(checkpoint.notes),
            "seconds": time.perf_counter() - started,
        }
        if tensors:
            document["tensor_list"] = [
                {"name": n, "dtype": s.dtype, "shape": list(s.shape), "file": str(s.file), "offset": s.offset}
                for n, s in specs.items()
            ]
        print_json("inspect", document)


def _kind(checkpoint: "Checkpoint") -> str:
    """Return the family, or for weights with nothing beside them how they lie in their file."""
    return checkpoint.family if checkpoint.family != "plain" else checkpoint.file_format


def _show(checkpoint: "Checkpoint", architecture: "Architecture", list_tensors: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from soupkit.cli.output import count, plain_console

    console = plain_console()
    specs = checkpoint.tensors
    dtypes = ", ".join(f"{d} x {n}" for d, n in Counter(s.dtype for s in specs.values()).most_common())
    rows = [
        ("reference", checkpoint.ref),
        ("kind", _kind(checkpoint)),
        ("model", str(architecture)),
        ("known from", architecture.source or "nothing: no config, and no open_clip model has these shapes"),
        ("same shapes", ", ".join(architecture.candidates)),
        ("tensors", f"{len(specs)}: {dtypes}"),
        ("bytes", count(sum(s.nbytes for s in specs.values()), "B")),
        ("files", ", ".join(dict.fromkeys(e.file.name for s in specs.values() for e in s.extents))),
        ("metadata", ", ".join(f"{k}={v[:80]}" for k, v in checkpoint.metadata.items())),
        ("notes", "; ".join(checkpoint.notes)),
    ]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text:
            table.add_row(Text(name, style="bold"), text)
    console.print(table)
    if list_tensors:
        listing = Table("tensor", "dtype", "shape", box=None, pad_edge=False)
        listing.columns[0].overflow = "fold"
        listing.columns[1].no_wrap = listing.columns[2].no_wrap = True
        for name, spec in specs.items():
            listing.add_row(name, spec.dtype, "x".join(map(str, spec.shape)) or "scalar")
        console.print(listing)
