"""`compare`: whether checkpoints can be averaged, what stands in the way, and how far apart their weights are."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.architecture import Architecture, architecture_of
from soupkit.checkpoint.compatibility import SEE_COMPARE, agree
from soupkit.checkpoint.config_differences import config_differences
from soupkit.checkpoint.differences import TensorDifferences, tensor_differences
from soupkit.checkpoint.lineage import Pair, compare_weights, recorded_lineage, verdict
from soupkit.checkpoint.reference import open_checkpoint, open_headers
from soupkit.errors import ArchitectureError, UsageError
from soupkit.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` returns. Differences are those of each checkpoint from the first, in the order of `refs`.

    `problem` says why they cannot be averaged, None where they can. `related` is the verdict on the weights, None where
    they were not read; `lineage` says it in words, with what training runs have recorded of their parents.

    >>> comparison = compare(["runs/a", "runs/b"])
    >>> comparison.refs, comparison.mergeable, comparison.problem
    (('runs/a', 'runs/b'), True, None)
    """

    refs: tuple[str, ...]
    architectures: tuple[Architecture, ...]
    tensors: tuple[TensorDifferences, ...]
    configs: tuple[dict[str, tuple[Any, Any]], ...]
    problem: str | None
    pairs: tuple[Pair, ...] = ()
    related: bool | None = None
    lineage: str | None = None

    @property
    def mergeable(self) -> bool:
        """Whether the checkpoints can be averaged at all."""
        return self.problem is None


def compare(
    refs: Sequence[str | Path],
    *,
    weights: bool = False,
    base: str | Path | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare checkpoints by their headers and configs; with `weights` also by their weights, in one streaming pass.

    `base` is the model that was fine-tuned: with it the directions of the fine-tunes are compared too. Raises
    UsageError for fewer than two references, CheckpointError for a checkpoint that cannot be read.

    >>> compare(["runs/a", "runs/b"], weights=True, base="runs/base").pairs[0].tower
    'image'
    """
    if len(refs) < 2:
        raise UsageError(
            f"names {len(refs)} checkpoints; comparing takes two", "REF", "name more, or use `soupkit inspect`"
        )
    named = [*refs, *([base] if base is not None else [])]
    with ExitStack() as opened:
        # Headers say whether they fit; weights on the Hub are downloaded only to be compared.
        everything = [opened.enter_context(open_headers(ref)) for ref in named]
        first = everything[0]
        try:
            problem = None
            agree(everything, model=model, preprocess=preprocess)
        except ArchitectureError as error:
            problem = error.sentence if error.hint == SEE_COMPARE else str(error)
        comparison = Comparison(
            refs=tuple(c.ref for c in everything),
            architectures=tuple(_architecture(c, model, preprocess) for c in everything),
            tensors=tuple(tensor_differences(first, c) for c in everything),
            configs=tuple(config_differences(first.config or {}, c.config or {}) for c in everything),
            problem=problem,
        )
        recorded = recorded_lineage([c.path for c in everything[: len(refs)]], comparison.refs)
        if not weights or problem is not None:
            return replace(comparison, lineage=recorded)
        whole = [opened.enter_context(open_checkpoint(ref, progress=progress)) for ref in named]
        root = whole[-1] if base is not None else None
        pairs = compare_weights(whole[: len(refs)], root, progress=progress)
        related, lineage = verdict(pairs, comparison.refs)
        lineage = f"{lineage}; {recorded}" if recorded else lineage
        return replace(comparison, pairs=tuple(pairs), related=related, lineage=lineage)


def _architecture(checkpoint: Any, model: str | None, preprocess: Path | None) -> Architecture:
    bare = checkpoint.config is None
    return architecture_of(checkpoint, model=model if bare else None, preprocess=preprocess if bare else None)
