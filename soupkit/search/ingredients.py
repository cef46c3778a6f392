"""The ingredients of a search: open, mergeable, finite, all different; checked before an image is scored."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.finite import all_finite
from soupkit.errors import ArchitectureError, CheckpointError, UsageError
from soupkit.evaluation.content_digest import remembered
from soupkit.evaluation.head_labels import map_labels
from soupkit.evaluation.heads import HeadOptions, head_config, is_head
from soupkit.evaluation.task import Task
from soupkit.merging.entry import SoupEntry
from soupkit.merging.preparation import Prepared, prepare
from soupkit.merging.tensor_runs import Reader, runs
from soupkit.progress import Progress
from soupkit.search.cosine_filter import median_cosines


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Ingredients that can be merged, in the order they were given; `config` is None where open_clip knows no model of
    theirs."""

    refs: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...]
    fingerprints: tuple[Fingerprint, ...]
    config: Config | None
    tokenizer_files: tuple[Path, ...]
    notes: tuple[str, ...]
    base_ref: str | None = None
    base: Checkpoint | None = None
    base_fingerprint: Fingerprint | None = None

    def __len__(self) -> int:
        return len(self.refs)


def open_ingredients(
    refs: Sequence[str],
    output: Path,
    opened: ExitStack,
    *,
    base: str | None = None,
    head: HeadOptions,
    keep_going: bool,
    least_cosine: float | None = None,
    memory: Path | None,
    progress: Progress,
) -> Ingredients:
    """Open and check the ingredients. `memory` remembers fingerprints of files that did not change.

    `base` is what they were fine-tuned from, where a merge method is to have it; `head` says what their files do not.

    Of weights that are given more than once one stays, which is noted. Raises UsageError for fewer than two; what
    `merge` raises for those that do not fit together; CheckpointError for one with NaN or infinity, unless `keep_going`
    leaves it out.
    """
    if len(refs) < 2:
        raise UsageError(f"needs at least 2 ingredients and got {len(refs)}", "soupkit search", "name more checkpoints")
    method = "uniform" if base is None else "task_arithmetic"  # which takes a base, and any number of ingredients
    soup = SoupEntry(ingredients=list(refs), method=method, base=base, model=head.model, preprocess=head.preprocess)
    prepared = prepare(soup, output, opened, allow_single=True)
    notes, refs = list(prepared.notes), prepared.soup.ingredients
    if len(refs) < 2:
        raise UsageError("is all there is to search among", refs[0], "name a checkpoint of other weights beside it")
    kept: list[int] = []
    fingerprints: dict[int, Fingerprint] = {}
    for i, checkpoint in enumerate(prepared.sources[: len(refs)]):
        looked_at = look(checkpoint, memory, progress)
        fingerprints[i] = looked_at.fingerprint
        if not looked_at.nonfinite:
            kept.append(i)
        elif keep_going:
            notes.append(f"left out: {refs[i]} has NaN or infinity in {looked_at.nonfinite!r}")
        else:
            raise CheckpointError(
                "has non-finite weights (NaN or infinity)",
                f"{refs[i]}, tensor {looked_at.nonfinite!r}",
                "leave this ingredient out; --keep-going leaves it out by itself",
            )
    if len(kept) < 2:
        raise UsageError(f"leaves {len(kept)} to search among", "--keep-going", "a search needs at least two")
    if least_cosine is not None:
        kept = _pointing_alike(refs, kept, prepared, least_cosine, notes)
    if len(kept) < len(refs):
        prepared = prepare(soup.model_copy(update={"ingredients": [refs[i] for i in kept]}), output, opened)
    far = prepared.sources[-1] if base is not None else None
    return Ingredients(
        tuple(refs[i] for i in kept),
        prepared.sources[: len(kept)],
        tuple(fingerprints[i] for i in kept),
        config_of(prepared, len(kept), head),
        prepared.tokenizer_files,
        tuple(notes),
        base,
        far,
        look_at_finite(far, memory, progress) if far is not None else None,
    )


def _pointing_alike(
    refs: Sequence[str], kept: list[int], prepared: Prepared, least: float, notes: list[str]
) -> list[int]:
    """Return those of `kept` whose task vectors have a median cosine of at least `least` with the others', and note the
    others. Raises UsageError without a base, or where fewer than two are left."""
    if prepared.soup.base is None:
        raise UsageError("needs the base of the task vectors", "--least-cosine", "name it with --base")
    cosines = median_cosines([prepared.sources[i] for i in kept], prepared.sources[-1])
    for i, cosine in zip(kept, cosines, strict=True):
        if cosine < least:
            notes.append(f"left out: the task vector of {refs[i]} has a median cosine of {cosine:.2f} with the others'")
    alike = [i for i, cosine in zip(kept, cosines, strict=True) if cosine >= least]
    if len(alike) < 2:
        raise UsageError(
            f"leaves {len(alike)} to search among; the cosines are {', '.join(f'{c:.2f}' for c in cosines)}",
            "--least-cosine", "choose a smaller one",
        )  # fmt: skip
    return alike


def config_of(prepared: Prepared, n: int, head: HeadOptions) -> Config | None:
    """Return the config of the first `n` sources: a classifier's, where they have a head, else open_clip's; None where
    they are neither.

    Raises ArchitectureError where their heads differ: the outputs of one would be averaged with others of another.
    """
    heads = [head_config(checkpoint, head) for checkpoint in prepared.sources[:n]]
    for checkpoint, config in zip(prepared.sources, heads, strict=False):
        if config != heads[0]:
            what = f"is not the classifier that {prepared.sources[0].ref} is, or its labels stand in another order"
            raise ArchitectureError(what, checkpoint.ref, "compare their config.json")
    return heads[0] or prepared.agreement.config


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What was found by reading all of a checkpoint: its fingerprint, and the first tensor that is not finite, "" where
    all are."""

    fingerprint: Fingerprint
    nonfinite: str


def look(checkpoint: Checkpoint, memory: Path | None, progress: Progress) -> LookedAt:
    """Read all of `checkpoint`, unless `memory` remembers what was found in the same files."""

    def compute() -> dict[str, str]:
        value = fingerprint(checkpoint, progress=progress)
        reader = Reader(torch.device("cpu"))
        odd = next((n for n in checkpoint if not _is_finite(checkpoint, n, reader)), "")
        return {"value": value.value, "image": value.image, "text": value.text, "nonfinite": odd}

    paths = [str(path) for path in checkpoint.paths]
    memory = memory if paths else None  # nothing says of weights in memory that they are the same as before
    seen = remembered(paths, memory, checkpoint.ref, ("value", "image", "text", "nonfinite"), compute)
    return LookedAt(Fingerprint(seen["value"], seen["image"], seen["text"]), seen["nonfinite"])


def look_at_finite(checkpoint: Checkpoint, memory: Path | None, progress: Progress) -> Fingerprint:
    """Return the fingerprint of weights that are finite. Raises CheckpointError for others."""
    looked_at = look(checkpoint, memory, progress)
    if looked_at.nonfinite:
        raise CheckpointError(
            "has non-finite weights (NaN or infinity)",
            f"{checkpoint.ref}, tensor {looked_at.nonfinite!r}",
            "choose another checkpoint",
        )
    return looked_at.fingerprint


def _is_finite(checkpoint: Checkpoint, name: str, reader: Reader) -> bool:
    """Whether a tensor holds no NaN and no infinity; other numbers than floats always do not."""
    spec = checkpoint.tensors[name]
    return not spec.is_float or all(
        all_finite(reader.read(0, checkpoint, name, run).view(torch.uint8).numpy(), spec.dtype)
        for run in runs([checkpoint], name, reader.device, together=1)
    )


def said_of_tasks(config: Config | None, tasks: Sequence[Task], ref: str) -> list[str]:
    """Return what was taken for granted of `tasks`, for models of `config`, of which `ref` is one: how each was read,
    and how the outputs of classifiers with a head are brought together with its classes."""
    said = [note for task in tasks for note in task.notes]
    if config is not None and is_head(config):
        said += [f"{task.name}: outputs are classes {map_labels(config, task, ref).how}" for task in tasks]
    return list(dict.fromkeys(said))
