"""`soupkit classify`: which of some labels an image shows, by one model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, Device, Model, Precision, Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soupkit.evaluation.classify import Labelled

HELP = """\
Say which label fits an image, with probabilities: what open_clip's own example computes.

[bold]Example[/bold]:

    soupkit classify soups/uniform cat.jpg dog.jpg --label "a photo of a dog" --label "a photo of a cat"

For CLIP models the probabilities of an image are a softmax over the labels and sum to one; for SigLIP models each label
has its own.
"""


def classify(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The checkpoint.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    label: Annotated[list[str] | None, typer.Option("--label", metavar="TEXT", help="Two labels or more.")] = None,
    model: Model = None,
    preprocess: Preprocess = None,
    device: Device = "auto",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.cli.output import print_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.evaluation.classify import label_images

    started = time.perf_counter()
    result = label_images(
        ref, images, label or [], model=model, preprocess=preprocess, device=device, precision=precision,
        progress=terminal_progress(),
    )  # fmt: skip
    if as_json:
        found = [
            {"image": str(path), "probabilities": dict(zip(result.labels, row, strict=True))}
            for path, row in zip(images, result.probabilities, strict=True)
        ]
        document = {"ref": ref, "fingerprint": result.fingerprint, "images": found, "kind": result.kind}
        print_json("classify", {**document, "seconds": time.perf_counter() - started})
        return
    show_labelled(result, images)


def show_labelled(result: "Labelled", images: "Sequence[Path]") -> None:
    """Print a table of images down and labels across, or where that is too wide a list for each image."""
    from rich.text import Text

    from soupkit.cli.output import plain_console
    from soupkit.cli.tables import fits, table_of

    console = plain_console()
    cells = [
        [Text(f"{100 * p:.2f} %", style="bold" if p == max(row) else "") for p in row] for row in result.probabilities
    ]
    names = [str(path) for path in images]
    across = table_of(["image", *result.labels], [[name, *row] for name, row in zip(names, cells, strict=True)])
    if fits(console, across):
        console.print(across)
        return
    for i, (name, row) in enumerate(zip(names, cells, strict=True)):
        if i:
            console.print()
        console.print(name, soft_wrap=True)
        likeliest_first = sorted(range(len(row)), key=lambda k, i=i: -result.probabilities[i][k])  # type: ignore[misc]
        table = table_of(["", ""], [[result.labels[k], row[k]] for k in likeliest_first])
        table.show_header = False
        console.print(table)
