"""`soupkit evaluate`: zero-shot scores of any number of checkpoints, in one pass."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from soupkit.cli.options import AsJson, DocumentFile, complete_tasks
from soupkit.cli.scoring import Scoring, scores

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
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="What to score on.", autocompletion=complete_tasks),
    ] = None,
    *,
    scoring: Scoring,
    no_score_cache: Annotated[bool, typer.Option("--no-score-cache", help="Score anew, keep no scores.")] = False,
    compile_tower: Annotated[
        bool, typer.Option("--compile", help="torch.compile the image tower: for large models and many images.")
    ] = False,
    builder: Annotated[
        str | None, typer.Option("--builder", metavar="MODULE:FUNCTION", help="Makes a classifier of bare weights.")
    ] = None,
    label_map: Annotated[
        Path | None,
        typer.Option("--label-map", metavar="FILE", help="Outputs of a head, a line per class."),
    ] = None,
    probe: Annotated[
        str | None, typer.Option("--probe", metavar="all|K", help="Score linear probes fitted to the split train.")
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also say whether the probabilities can be used: ECE, NLL, Brier, T.")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also count by class, for the gains and losses of a report.")
    ] = False,
    pictures: Annotated[
        int,
        typer.Option("--pictures", metavar="N", help="Keep up to N small pictures of each kind that models differ on."),
    ] = 0,
    results: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write the scores in open_clip's columns to FILE.")
    ] = None,
    output: DocumentFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.manner import manner
    from soupkit.cli.output import check_file, finished, first_rank, plain_console, print_json, say, write_json
    from soupkit.cli.progress import terminal_progress
    from soupkit.cli.score_table import show_scores
    from soupkit.evaluation import evaluate as run_evaluate
    from soupkit.evaluation.probe import parse_probe
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
        builder=builder,
        label_map=label_map,
        options=options,
        calibration=calibration,
        per_class=per_class,
        pictures=pictures,
        probe=None if probe is None else parse_probe(probe),
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
        show_scores(result, plain_console(), every_pair=manner().verbose)
        if output is not None:
            finished("scores", output, "soupkit", "report", output, "-o", output.with_suffix(".html"))
