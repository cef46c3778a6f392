"""`soupkit train`: make the ingredients, from a recipe."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soupkit.cli.options import AsJson, Device, NoCache, Rate, Threads, Workers, WorldSize
from soupkit.cli.scoring import cache_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soupkit.progress import Progress
    from soupkit.training import Run, TrainOptions, TrainResult

HELP = """\
Train the runs of a recipe: contrastive training of any open_clip model, and fine-tuning, also as a classifier.

[bold]Example[/bold]: the two stages of ViT-bigG/14 in miniature, all of it or one run with a setting changed:

    soupkit train recipes/digits.yaml -o runs
    soupkit train recipes/digits.yaml --run a --set a.lr=1e-3 -o runs
    torchrun --nproc-per-node 4 -m soupkit train recipes/mine.yaml --only a -o runs
    soupkit train recipes/vit-bigg-14-laion2b.yaml -o runs --dry-run --world-size 500 --rate 150

A recipe holds named runs under [bold]train:[/bold], which are trained into DIR/NAME, or one entry alone, which is
trained into DIR. A run with `init: ${train.x}` starts from what x ends with, and takes from it the settings that it
does not name itself; x is trained first.

A run: model, init, data, batch_size, micro_batch_size, samples, lr, warmup, schedule (cosine, constant, continued),
weight_decay, betas, eps, grad_clip, layer_decay, patch_dropout, grad_checkpointing, lock_image, lock_text, loss (clip,
siglip, cross_entropy), head (zero_shot, probe), label_smoothing, keep_text, precision (fp32, tf32, bf16), ema,
snapshots, nonfinite (stop, skip), seed; evaluate (tasks to score it on as it goes on), report_to (tensorboard,
trackio). With sweep, one entry is several runs: variants, or settings drawn at random. docs/training.md says what each
means.

On a task (`data: {shards: digits:train}`, or a folder with a folder for each class) `loss: clip` trains with class
prompts for captions (FLYP), and `loss: cross_entropy` trains the image tower with a classification head, which begins
as the zero-shot classifier or a linear probe.

Stopped by Ctrl-C, SIGTERM or worse, the same command goes on from the last checkpoint, with the same result.
"""


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the runs go.")],
    run: Annotated[
        str | None,
        typer.Option("--run", "--only", metavar="NAME", help="Train this run or sweep alone. torchrun takes --only."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; RUN.KEY=VALUE of one run or sweep."),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    threads: Threads = None,
    no_cache: NoCache = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and say what it costs.")] = False,
    world_size: WorldSize = None,
    rate: Rate = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; replace runs that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import finished, first_rank, print_json, say
    from soupkit.cli.progress import terminal_progress
    from soupkit.cli.train_cost import cost_lines, recipe_costs
    from soupkit.errors import UsageError
    from soupkit.training import TrainOptions, read_runs, select_runs

    if not dry_run and (world_size is not None or rate is not None):
        raise UsageError("belong to --dry-run", "--world-size and --rate", "torchrun says how many take part")
    options = TrainOptions(
        device=device, workers=workers, threads=threads, cache=cache_directory(None, no_cache), fresh=fresh,
        dry_run=dry_run,
    )  # fmt: skip
    selected = select_runs(read_runs(recipe, settings or []), run)
    results = train_each(selected, output, run, options, terminal_progress())
    if not first_rank():
        return
    costs = recipe_costs(recipe, run, settings or [], world=world_size or 1, rate=rate) if dry_run else {}
    if as_json:
        runs = [{"run": name or None, **_fields(result)} for name, result in results.items()]
        planned = {"costs": {name: asdict(cost) for name, cost in costs.items()}} if dry_run else {}
        print_json("train", {"runs": runs, **planned, "seconds": sum(r.seconds for r in results.values())})
        return
    for name, result in results.items():
        loss = f", loss {result.loss:.4f}" if result.loss is not None else ""
        where = f"{name}: {result.output}" if name else str(result.output)
        say(f"{where}: {result.status}, {result.samples:,} samples{loss} {result.fingerprint or ''}".rstrip())
        if result.damaged or result.skipped:
            say(f"  {result.damaged:,} damaged samples were replaced, {result.skipped:,} steps skipped")
    begun_from = {one.parent for one in selected}  # no ingredients beside their fine-tunes
    ends = [result.output for name, result in results.items() if name not in begun_from or name == run]
    if ends and not dry_run:
        following = ["merge", *ends, "-o", output / "soup"] if len(ends) > 1 else ["inspect", *ends]
        finished("trained", output, "soupkit", *following)
    for name, cost in costs.items():
        for line in cost_lines(name, cost):
            say(line)


def _fields(result: "TrainResult") -> dict[str, Any]:
    return {**asdict(result), "output": str(result.output)}


def train_runs(
    recipe: Path, output: Path, name: str | None, settings: list[str], options: "TrainOptions", progress: "Progress"
) -> "dict[str, TrainResult]":
    """Train the runs of `recipe` into `output`, or the one (or the sweep) called `name` after those it starts from.

    With `fresh` and a name, only what has that name is started anew. Raises UsageError as reading the recipe does.
    """
    from soupkit.training import read_runs, select_runs

    return train_each(select_runs(read_runs(recipe, settings), name), output, name, options, progress)


def train_each(
    runs: "Sequence[Run]", output: Path, name: str | None, options: "TrainOptions", progress: "Progress"
) -> "dict[str, TrainResult]":
    """Train `runs`, those that `name` selected, as `train_runs` does."""
    from dataclasses import replace

    from soupkit.ranks import joined_ranks
    from soupkit.training import parent_reference
    from soupkit.training import train as train_one

    results = {}
    with joined_ranks():  # one group for all runs: under `torchrun` a second one would meet what the first has left
        for run in runs:
            one, entry = run.name, run.entry
            if run.parent is not None:
                entry = entry.model_copy(update={"init": parent_reference(run, output)})
                if options.dry_run and not (output / run.parent).exists():
                    progress.note(f"{one}: would start from {output / run.parent}, which is not there yet")
                    continue
            progress.note(f"run {one}") if one else None
            own = replace(options, fresh=options.fresh and name in (None, one, run.sweep))
            results[one] = train_one(entry, output / one if one else output, options=own, progress=progress)
    return results
