"""`soupkit evaluate`: zero-shot scores of any number of checkpoints, in one pass."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soupkit.cli.options import AsJson, DocumentFile
from soupkit.cli.scoring import Scoring, scores
from soupkit.publishing.short_names import short_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

    from soupkit.evaluation import Evaluation, Score

_MOST_COLUMNS = 4  # tasks; more of them are rows

HELP = """\
Score checkpoints zero-shot: images are decoded once, prompts share their beginnings, and towers that are equal byte
for byte run once.

[bold]Example[/bold]: three models on the shipped digits, and a soup beside its ingredient on ImageNet and its shifts:

    soupkit evaluate soupkit-demo/train/a soupkit-demo/train/b soupkit-demo/soup/uniform --task digits
    soupkit evaluate runs/a soups/uniform --task imagenet-shift --data-root /data/wds

[bold]Tasks[/bold], NAME[:SPLIT] or DIR[:SPLIT], the split is test unless named:

    digits                     shipped; splits train, val, test
    wds/vtab/cifar10, CIFAR-10 CLIP_benchmark's name or the one in open_clip's results table, below --data-root
    imagenet-shift             ImageNet, V2, A, R, Sketch and ObjectNet
    openclip-38, datacomp-38   the literature's 38: those whose data are there, and all or an error
    a folder                   CLIP_benchmark's WebDataset layout, an image folder, or a CSV of path and label

Decoded images and scores are kept in the cache (--cache); what is there is not done again. Several GPUs or machines:
torchrun --nproc-per-node 8 -m soupkit evaluate ...
"""


@scores
def evaluate(
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="REF...", help="Checkpoints to score.", show_default=False)
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", metavar="TASK", help="What to score on.")] = None,
    *,
    scoring: Scoring,
    no_score_cache: Annotated[bool, typer.Option("--no-score-cache", help="Score anew, keep no scores.")] = False,
    compile_tower: Annotated[
        bool, typer.Option("--compile", help="torch.compile the image tower: for large models and many images.")
    ] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also say whether the probabilities can be used: ECE, NLL, Brier, T.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write the scores in open_clip's columns to FILE.")
    ] = None,
    output: DocumentFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import check_file, first_rank, print_json, say, write_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.evaluation import evaluate as run_evaluate
    from soupkit.evaluation.results_table import write_results_table
    from soupkit.evaluation.scores_document import ScoresDocument

    check_file(output)
    check_file(results, "--csv")
    options = replace(scoring.evaluation, scores=not no_score_cache, compile=compile_tower)
    result = run_evaluate(
        refs or [],
        task or [],
        data_root=scoring.data_root,
        model=scoring.model,
        preprocess=scoring.preprocess,
        options=options,
        calibration=calibration,
        progress=terminal_progress(),
    )
    if not first_rank():
        return
    for note in result.notes:
        say(note)
    document = ScoresDocument.of(result, options.limit).fields()
    if results is not None:
        write_results_table(results, result.scores)
    if output is not None:
        write_json(output, "evaluate", document)
    if as_json:
        print_json("evaluate", document)
    else:
        show_scores(result)


def show_scores(result: "Evaluation") -> None:
    """Print a table of models and tasks; the best of each task in bold, and the paired tests against the first."""
    from soupkit.cli.output import plain_console

    console = plain_console()
    refs = list(dict.fromkeys(score.ref for score in result.scores))
    names = short_names(refs)
    few = len(result.scores) <= _MOST_COLUMNS * len(refs)
    console.print(_models_by_tasks(result, refs, names) if few else _tasks_by_models(result, refs, names))
    if few and result.pairs:
        console.print(
            f"against {names[refs[0]]}: images that only this model gets right, and only the first; p of McNemar's "
            "exact test."
        )
    console.print("Intervals are 95 %.")
    if result.reliability:
        console.print()
        console.print(_calibration(result, names))
        console.print(
            "ECE of 15 bins, NLL in nats, Brier from 0 to 2; T is what the logits are to be divided by, above 1 for a "
            "model that is too sure; at T: of each half of the images at the temperature of the other."
        )


def _models_by_tasks(result: "Evaluation", refs: list[str], names: dict[str, str]) -> "Table":
    from rich.table import Table

    tasks = list(dict.fromkeys((score.task, score.split) for score in result.scores))
    scores = {(score.ref, score.task, score.split): score for score in result.scores}
    pairs = {(pair.second, pair.task, pair.split): pair for pair in result.pairs}
    compared = {(task, split) for _, task, split in pairs}
    table = Table("model", box=None, pad_edge=False)
    for task, split in tasks:
        score = scores[refs[0], task, split]
        table.add_column(f"{task}:{split}\n{score.metric}, %, n = {score.n:,}")
        if (task, split) in compared:
            table.add_column("\nagainst the first")
    for ref in refs:
        cells: list[Text | str] = []
        for task, split in tasks:
            cells.append(_cell(scores[ref, task, split], [scores[r, task, split] for r in refs]))
            if (task, split) in compared:
                pair = pairs.get((ref, task, split))
                cells.append(f"+{pair.only_second} -{pair.only_first}, p = {pair.p:.2g}" if pair else "")
        table.add_row(names[ref], *cells)
    return table


def _tasks_by_models(result: "Evaluation", refs: list[str], names: dict[str, str]) -> "Table":
    from rich.table import Table

    from soupkit.evaluation.results_table import average_of_38, column_of

    table = Table("task", "metric", "n", *(f"{names[ref]}, %" for ref in refs), box=None, pad_edge=False)
    by_task: dict[tuple[str, str], list[Score]] = {}
    for score in result.scores:
        by_task.setdefault((score.task, score.split), []).append(score)
    for (task, split), of_task in by_task.items():
        shown = (column_of(task) if split == "test" else None) or f"{task}:{split}"
        table.add_row(shown, of_task[0].metric, f"{of_task[0].n:,}", *(_cell(score, of_task) for score in of_task))
    means = [average_of_38([score for score in result.scores if score.ref == ref]) for ref in refs]
    if None not in means:
        table.add_row("average of 38", "", "", *(f"{100 * mean:.2f}" for mean in means if mean is not None))
    return table


def _calibration(result: "Evaluation", names: dict[str, str]) -> "Table":
    from rich.table import Table

    columns = {"ECE": "ece", "NLL": "nll", "Brier": "brier", "T": "temperature",
               "ECE at T": "ece_at_temperature", "NLL at T": "nll_at_temperature"}  # fmt: skip
    table = Table("model", "task", *columns, box=None, pad_edge=False)
    of_probabilities = {(r.ref, r.task, r.split) for r in result.reliability}
    for score in result.scores:
        if (score.ref, score.task, score.split) in of_probabilities:
            values = [score.metrics.get(name) for name in columns.values()]
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            table.add_row(names[score.ref], f"{score.task}:{score.split}", *cells)
    return table


def _cell(score: "Score", of_all: "Sequence[Score]") -> "Text":
    from rich.text import Text

    best = len(of_all) > 1 and score.value == max(other.value for other in of_all)
    value = f"{100 * score.value:.2f} ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return Text(value, style="bold" if best else "")
