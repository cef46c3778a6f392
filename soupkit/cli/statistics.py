"""`soupkit statistics`: what a model's weights do on data, for the merge methods that weigh by it."""

from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson, BatchSize, DataRoot, Device, Model, Precision, Preprocess

HELP = """\
Collect statistics of a model on a task, by which the merge methods fisher and regmean weigh its weights.

[bold]Example[/bold]: fine-tunes of two tasks merged by their Fisher information.

    soupkit statistics runs/a --task digits --kind fisher -o a.fisher.safetensors
    soupkit statistics runs/b --task data/cars --kind fisher -o b.fisher.safetensors
    soupkit merge runs/a runs/b --method fisher --statistics a.fisher.safetensors --statistics b.fisher.safetensors \
-o soups/fisher

Kind fisher is the diagonal of the Fisher information, gram the products of what goes into each linear layer, for
regmean. Both are of the image tower, or of a classifier with its head; all other tensors are averaged. A task's images
are those of its split train unless it is written TASK:SPLIT.
"""


def statistics(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The checkpoint.")],
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="What it was fine-tuned on.")],
    kind: Annotated[str, typer.Option("--kind", metavar="fisher|gram", help="What is collected.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The safetensors file to write.")],
    examples: Annotated[int, typer.Option("--examples", metavar="N", help="Images, evenly spread.")] = 256,
    labels: Annotated[
        str, typer.Option("--labels", metavar="sampled|true", help="Of fisher: drawn from predictions, or the images'.")
    ] = "sampled",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the drawn labels.")] = 0,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Of what is summed in one pass over the images.")
    ] = "1GiB",
    data_root: DataRoot = None,
    model: Model = None,
    preprocess: Preprocess = None,
    builder: Annotated[
        str | None,
        typer.Option("--builder", metavar="MODULE:FUNCTION", help="What builds bare weights' classifier."),
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    batch_size: BatchSize = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.cli.merge import parse_size
    from soupkit.cli.output import finished, print_json, say
    from soupkit.cli.progress import terminal_progress
    from soupkit.evaluation.options import EvaluationOptions
    from soupkit.evaluation.statistics import StatisticsOptions, collect_statistics

    started = time.perf_counter()
    options = StatisticsOptions(
        kind=kind, examples=examples, labels=labels, seed=seed, memory=parse_size(memory, "--memory")
    )
    how = EvaluationOptions(device=device, precision=precision, batch_size=batch_size)
    result = collect_statistics(
        ref, task, output, options, model=model, preprocess=preprocess, builder=builder, data_root=data_root,
        evaluation=how, fresh=fresh, progress=terminal_progress(),
    )  # fmt: skip
    if as_json:
        words = "status kind tensors parameters examples fingerprint"
        document = {"ref": ref, "output": str(output), **{word: getattr(result, word) for word in words.split()}}
        print_json("statistics", {**document, "seconds": time.perf_counter() - started})
        return
    say(f"{output}: {kind} of {result.tensors} tensors on {result.examples} images, {result.fingerprint}")
    method = {"fisher": "fisher", "gram": "regmean"}[kind]
    merging = ["merge", ref, "REF", "--method", method, "--statistics", output, "--statistics", "FILE", "-o", "soup"]
    finished("statistics", output, "soupkit", *merging)
