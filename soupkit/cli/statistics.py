"""`soupkit statistics`: what models' weights do on data, for the merge methods that weigh by it."""

from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson, BatchSize, DataRoot, Device, Model, Precision, Preprocess

HELP = """\
Collect statistics of models on tasks, by which the merge methods fisher, regmean and regmean_plusplus weigh weights.

[bold]Example[/bold]: fine-tunes of two tasks merged by what their layers do to the tasks' images.

    soupkit statistics runs/a runs/b --task digits --task data/cars --kind merged_gram -o a.safetensors -o b.safetensors
    soupkit merge runs/a runs/b --method regmean_plusplus --statistics a.safetensors --statistics b.safetensors \
-o soups/regmean

Kind fisher is the diagonal of the Fisher information, gram the products of what goes into each linear layer, for
regmean. Kind merged_gram, for regmean_plusplus, is of all ingredients together: the products of what the merged blocks
before it give to each layer. All are of the image tower, or of a classifier with its head; other tensors are averaged.
A task's images are those of its split train unless it is written TASK:SPLIT.
"""


def statistics(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="The checkpoints.")],
    task: Annotated[
        list[str], typer.Option("--task", metavar="TASK", help="What it was fine-tuned on; one for each REF.")
    ],
    kind: Annotated[str, typer.Option("--kind", metavar="fisher|gram|merged_gram", help="What is collected.")],
    output: Annotated[
        list[Path], typer.Option("-o", "--output", metavar="FILE", help="The safetensors file; one for each REF.")
    ],
    examples: Annotated[int, typer.Option("--examples", metavar="N", help="Images, evenly spread.")] = 256,
    labels: Annotated[
        str, typer.Option("--labels", metavar="sampled|true", help="Of fisher: drawn from predictions, or the images'.")
    ] = "sampled",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the drawn labels.")] = 0,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Of what is summed in one pass over the images.")
    ] = "1GiB",
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="X", help="Of merged_gram: the factor of entries off the diagonal.")
    ] = 0.95,
    ridge: Annotated[
        float, typer.Option("--ridge", metavar="X", help="Of merged_gram: x the mean diagonal, added to each diagonal.")
    ] = 1e-6,
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
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    import time

    from soupkit.cli.merge import parse_size
    from soupkit.cli.output import finished, print_json, say
    from soupkit.cli.progress import terminal_progress
    from soupkit.evaluation.merged_statistics import check_counts, merged_statistics
    from soupkit.evaluation.options import EvaluationOptions
    from soupkit.evaluation.statistics import StatisticsOptions, collect_statistics

    started = time.perf_counter()
    options = StatisticsOptions(
        kind=kind, examples=examples, labels=labels, seed=seed, memory=parse_size(memory, "--memory"),
        alpha=alpha, ridge=ridge,
    )  # fmt: skip
    check_counts(refs, task, output)
    how = {
        "model": model, "preprocess": preprocess, "builder": builder, "data_root": data_root, "fresh": fresh,
        "evaluation": EvaluationOptions(device=device, precision=precision, batch_size=batch_size),
        "progress": terminal_progress(),
    }  # fmt: skip
    if kind == "merged_gram":
        results = merged_statistics(refs, task, output, options, **how)  # type: ignore[arg-type]
    else:
        results = [
            collect_statistics(*of_one, options, **how)  # type: ignore[arg-type]
            for of_one in zip(refs, task, output, strict=True)
        ]
    if as_json:
        words = "status kind tensors parameters examples fingerprint"
        files = [
            {"ref": ref, "output": str(file.path), **{word: getattr(file, word) for word in words.split()}}
            for ref, file in zip(refs, results, strict=True)
        ]
        print_json("statistics", {"files": files, "seconds": time.perf_counter() - started})
        return
    for file in results:
        say(f"{file.path}: {kind} of {file.tensors} tensors on {file.examples} images, {file.fingerprint}")
    methods = {"fisher": "fisher", "gram": "regmean", "merged_gram": "regmean_plusplus"}
    others = [] if len(refs) > 1 else ["REF"]
    of_each = [word for path in [*map(str, output), *["FILE" for _ in others]] for word in ("--statistics", path)]
    merging = ["merge", *refs, *others, "--method", methods[kind], *of_each, "-o", "soup"]
    finished("statistics", output[0], "soupkit", *merging)
