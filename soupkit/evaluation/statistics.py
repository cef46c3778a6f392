"""What a model's weights do on data, tensor by tensor, for merge methods that weigh by it (`merging.statistics`).

"fisher": the diagonal of the Fisher information (Matena and Raffel 2022, section 3), the mean over images of the
squared gradient of log p(y | image), with labels y drawn from the model's own predictions, or the images' own. "gram":
the mean of x x' over the inputs x of a linear layer (Jin et al. 2023, section 3): of nn.Linear, of attention's joined
in-projection and its out-projection, of matrices that features are multiplied with. "merged_gram": the same of inputs
that come through a merge of all models: `merged_statistics`.

Both are of the image tower, or of a classifier with its head; prompts stay as they are. What does not fit into `memory`
together takes further passes over the images.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.writer import lay_out
from soupkit.errors import ArchitectureError, CheckpointError, DataError, UsageError
from soupkit.evaluation.candidates import Candidate, open_candidate
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import HeadOptions
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.statistics_sums import FisherSums, GramSums, Subject
from soupkit.evaluation.task import Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.files import write_whole
from soupkit.merging.statistics import KIND, KINDS, OF, TRANSPOSED
from soupkit.progress import SILENT, Progress

LABELS = ("sampled", "true")
_MEMORY = 1 << 30  # bytes of statistics that are summed together


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsOptions:
    """What is collected: `kind` "fisher", "gram" or "merged_gram", on `examples` images of the split, evenly spread.

    `labels`, of "fisher", are "sampled" from the model's predictions with `seed`, or "true", the images' own (the
    empirical Fisher information). `alpha` and `ridge`, of "merged_gram", are those that the blocks are merged with:
    what Grams' entries off the diagonal are multiplied by, and the part of the mean diagonal that is added to each.
    `memory` bounds the bytes of what is summed together.
    """

    kind: str
    examples: int = 256
    labels: str = "sampled"
    seed: int = 0
    memory: int = _MEMORY
    alpha: float = 0.95
    ridge: float = 1e-6

    def check(self) -> None:
        """Raise UsageError for what cannot be collected."""
        if self.kind not in KINDS:
            raise UsageError("is no kind of statistics", f"--kind {self.kind}", f"choose one of {', '.join(KINDS)}")
        if self.labels not in LABELS:
            raise UsageError("is no kind of labels", f"--labels {self.labels}", f"choose one of {', '.join(LABELS)}")
        if self.examples < 1:
            raise UsageError("asks for no image", f"--examples {self.examples}", "256 is usual")
        for option, value in (("--alpha", self.alpha), ("--ridge", self.ridge)):
            if not 0 <= value <= 1:
                raise UsageError("is not between 0 and 1", f"{option} {value:g}", "0.95 and 1e-6 are usual")


@dataclass(frozen=True, slots=True)
class Collected:
    """A file of statistics: `tensors` of them, of `parameters` weights, on `examples` images; `status` is "written" or
    "unchanged" (it was there already)."""

    status: str
    path: Path
    kind: str
    tensors: int
    parameters: int
    examples: int
    fingerprint: str


def collect_statistics(
    ref: str | Path,
    task: str | Task,
    output: Path,
    options: StatisticsOptions,
    *,
    model: str | None = None,
    preprocess: Path | None = None,
    builder: str | None = None,
    data_root: Path | None = None,
    evaluation: EvaluationOptions | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> Collected:
    """Collect statistics of the checkpoint `ref` on a classification task (its split `train` unless one is named), and
    write them to the safetensors file `output`, which appears whole or not at all.

    A likelihood is the softmax of scaled cosines, or of a head's outputs. Raises UsageError for what cannot be
    collected, and for a file that holds something else, DataError for a task without classes or images, and as
    evaluating does.
    """
    options.check()
    if options.kind == "merged_gram":
        raise UsageError("is of all ingredients together", "--kind merged_gram", "name them all: merged_statistics")
    evaluation = evaluation_for(options, evaluation)
    opened = opened_task(task, data_root)
    candidate = open_candidate(ref, HeadOptions(model, builder, preprocess), evaluation, progress)
    with candidate.checkpoint as checkpoint:
        said = said_of(candidate, opened, options)
        if not fresh and (found := existing(output, said)) is not None:
            progress.note(f"{output} is there already, of the same weights and task")
            return found
        with Evaluator(
            candidate.config, [opened], evaluation,
            tokenizer_files=checkpoint.tokenizer_files, where=candidate.ref, progress=progress,
        ) as evaluator:  # fmt: skip
            evaluator.load(checkpoint)
            subject = Subject(evaluator, checkpoint, candidate, options.labels, options.seed, progress)
            sums = (FisherSums if options.kind == "fisher" else GramSums)(subject)
            shapes = sums.shapes()
            if not shapes:
                raise ArchitectureError("has no linear layer in its image tower", ref, "use --kind fisher")
            metadata = {**said, TRANSPOSED: json.dumps(sorted(sums.transposed))}
            write_whole(output, partial(_write, sums, shapes, metadata, options.memory, subject))
    elements = sum(checkpoint.tensors[name].numel for name in shapes)
    return Collected("written", output, options.kind, len(shapes), elements, len(subject.rows), said[OF])


def evaluation_for(options: StatisticsOptions, given: EvaluationOptions | None) -> EvaluationOptions:
    """Return how images are read and go through the model."""
    given = given or EvaluationOptions()
    return replace(given, limit=options.examples, precision=given.precision or "fp32", compile=False)


def opened_task(task: str | Task, data_root: Path | None) -> Task:
    """Return a task of classification, the split `train` unless one is named. Raises DataError for another kind."""
    opened = open_tasks([task], data_root=data_root, split="train")[0] if isinstance(task, str) else task
    if opened.kind != "classification":
        raise DataError(f"is a task of {opened.kind}", opened.name, "name a task of classification")
    return opened


def said_of(candidate: Candidate, task: Task, options: StatisticsOptions) -> dict[str, str]:
    """Return what names the statistics: the weights, the images, and how they are collected."""
    labels = {"labels": options.labels, "seed": str(options.seed)} if options.kind == "fisher" else {}
    return {
        KIND: options.kind, OF: candidate.fingerprint.value, "task": task.name, "split": task.split,
        "examples": str(options.examples), **labels,
    }  # fmt: skip


def existing(output: Path, said: Mapping[str, str]) -> Collected | None:
    """Return the file that is at `output`; None where nothing is. Raises UsageError for something else."""
    if not output.exists():
        return None
    other = UsageError("holds something else", output, "choose another -o, or replace it with --fresh")
    if not output.is_file():
        raise other
    try:
        with open_checkpoint(output) as file:
            kept = {k: v for k, v in file.metadata.items() if k not in (TRANSPOSED, "format")}
            if kept != said:
                raise other
            elements = sum(spec.numel for spec in file.tensors.values())
            return Collected(
                "unchanged", output, said[KIND], len(file.tensors), elements, int(said["examples"]), said[OF]
            )
    except CheckpointError as error:
        raise other from error


def _write(
    sums: "FisherSums | GramSums", shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], memory: int,
    subject: Subject, file: BinaryIO,
) -> None:  # fmt: skip
    """Write all statistics into a safetensors file, as many at a time as fit into `memory`."""
    layout = lay_out({name: ("F32", shape) for name, shape in shapes.items()}, metadata, None).files[0]
    file.write(layout.header)
    groups = list(groups_within(shapes, memory))
    subject.progress.start("statistics", len(groups) * len(subject.rows), "images")
    for names in groups:
        for name, values in sums.of(names).items():
            file.seek(layout.offsets[name])
            file.write(values.float().cpu().contiguous().numpy().tobytes())
    subject.progress.finish()


def groups_within(shapes: Mapping[str, tuple[int, ...]], memory: int, each: int = 1) -> Iterator[list[str]]:
    """Yield names whose sums, `each` in float64, fit into `memory`; one at least."""
    group: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        nbytes = 8 * prod(shape) * each
        if group and filled + nbytes > memory:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += nbytes
    if group:
        yield group
