"""Statistics of several models behind their merge, collected together: Grams for RegMean++ (`merged_grams`)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

from soupkit.checkpoint.compatibility import agree
from soupkit.checkpoint.towers import is_image
from soupkit.checkpoint.writer import lay_out
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.candidates import open_candidate
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import HeadOptions, is_head
from soupkit.evaluation.merged_grams import SUMS, Member, MergedGrams
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.statistics import (
    Collected,
    StatisticsOptions,
    evaluation_for,
    existing,
    groups_within,
    opened_task,
    said_of,
)
from soupkit.evaluation.statistics_sums import Subject
from soupkit.evaluation.task import Task
from soupkit.files import write_all
from soupkit.merging.statistics import BEHIND, OF, TRANSPOSED
from soupkit.progress import SILENT, Progress


def merged_statistics(
    refs: Sequence[str | Path],
    tasks: Sequence[str | Task],
    outputs: Sequence[Path],
    options: StatisticsOptions,
    *,
    model: str | None = None,
    preprocess: Path | None = None,
    builder: str | None = None,
    data_root: Path | None = None,
    evaluation: EvaluationOptions | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> list[Collected]:
    """Collect the Grams of all `refs` behind their merge, each on its own of `tasks`, and write those of each to its
    own of `outputs`, for a merge by `regmean_plusplus`. A file appears whole or not at all, once all are collected.

    Raises as `collect_statistics` does, UsageError where there are not as many of each, and ArchitectureError for
    models that cannot be averaged.
    """
    options.check()
    check_counts(refs, tasks, outputs)
    evaluation = evaluation_for(options, evaluation)
    opened = [opened_task(task, data_root) for task in tasks]
    with ExitStack() as stack:
        candidates = []
        for ref in refs:
            candidates.append(open_candidate(ref, HeadOptions(model, builder, preprocess), evaluation, progress))
            stack.enter_context(candidates[-1].checkpoint)
        agree([c.checkpoint for c in candidates], model=model, preprocess=preprocess)
        behind = {
            "alpha": options.alpha, "ridge": options.ridge, "weights": [c.fingerprint.value for c in candidates],
            "tasks": [[t.name, t.split] for t in opened],
        }  # fmt: skip
        said = [
            {**said_of(candidate, task, options), BEHIND: json.dumps(behind)}
            for candidate, task in zip(candidates, opened, strict=True)
        ]
        if not fresh:
            found = [existing(output, one) for output, one in zip(outputs, said, strict=True)]
            if all(one is not None for one in found):
                progress.note(f"{', '.join(map(str, outputs))} are there already, of the same weights and tasks")
                return [one for one in found if one is not None]
        first = candidates[0]
        evaluator = stack.enter_context(
            Evaluator(
                first.config, opened, evaluation,
                tokenizer_files=first.checkpoint.tokenizer_files, where=first.ref, progress=progress,
            )
        )  # fmt: skip
        evaluator.load(first.checkpoint)
        members = []
        for i, candidate in enumerate(candidates):
            shown = Subject(evaluator, first.checkpoint, candidate, options.labels, options.seed, progress, task=i)
            members.append(Member(shown, candidate.checkpoint.read))
        live = {
            name: tensor
            for name, tensor in evaluator.tensors(first.checkpoint).items()
            if tensor.is_floating_point() and (is_head(first.config) or is_image(name))
        }
        grams = MergedGrams(members, live, options.alpha, options.ridge)
        if not grams.shapes:
            raise ArchitectureError("has no linear layer in its image tower", first.ref, "use another merge method")
        metadata = [{**one, TRANSPOSED: json.dumps(sorted(grams.transposed))} for one in said]
        write_all(outputs, partial(_write_merged, grams, metadata, options.memory, progress))
    elements = sum(prod(first.checkpoint.tensors[name].shape) for name in grams.shapes)
    return [
        Collected("written", output, options.kind, len(grams.shapes), elements, int(one["examples"]), one[OF])
        for output, one in zip(outputs, said, strict=True)
    ]


def check_counts(refs: Sequence[object], tasks: Sequence[object], outputs: Sequence[Path]) -> None:
    """Raise UsageError where there are not as many tasks and outputs as checkpoints, or two outputs are one."""
    for option, given in (("--task", tasks), ("-o", outputs)):
        if len(given) != len(refs):
            raise UsageError(f"is given {len(given)} times for {len(refs)} checkpoints", option, "give one for each")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UsageError("names one file twice", "-o", "give a file for each checkpoint")


def _write_merged(
    grams: MergedGrams, metadata: Sequence[Mapping[str, str]], memory: int, progress: Progress, files: list[BinaryIO]
) -> None:
    """Write the Grams of all members into their safetensors files."""
    specs: dict[str, tuple[str, tuple[int, ...]]] = {name: ("F32", shape) for name, shape in grams.shapes.items()}
    layouts = [lay_out(specs, said, None).files[0] for said in metadata]
    for file, layout in zip(files, layouts, strict=True):
        file.write(layout.header)

    def groups(names: Sequence[str]) -> Iterator[list[str]]:
        return groups_within({name: grams.shapes[name] for name in names}, memory, SUMS)

    passes = sum(len(list(groups(names))) for names in grams.steps)
    progress.start("statistics", passes * sum(len(member.shown.rows) for member in grams.members), "images")
    for found in grams.collect(groups):
        files[found.member].seek(layouts[found.member].offsets[found.name])
        files[found.member].write(found.gram.cpu().contiguous().numpy().tobytes())
    progress.finish()
