"""Statistics of ingredients on data, which some methods weigh weights by: a safetensors file for each ingredient.

`soupkit statistics` makes them. A file holds float32 tensors under the names of weights: of kind "fisher" the diagonal
of the Fisher information, in the weight's shape; of kind "gram" the mean of x x' over a linear layer's inputs x, [in,
in]; of kind "merged_gram" the same over the inputs that its block gets from the merged blocks before it. Its metadata
say the kind, the fingerprint of the weights, which Grams are of weights [in, out] (`transposed`), and of merged Grams
how and with what was merged (`behind`).
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.survey import Survey

KINDS = ("fisher", "gram", "merged_gram")
# Keys of the metadata.
KIND, OF, TRANSPOSED, BEHIND = "soupkit.statistics", "soupkit.weights", "soupkit.transposed", "soupkit.behind"
_HINT = "make it with soupkit statistics REF --task TASK --kind {kind} -o FILE"


class Statistics:
    """The open files of one merge, in the ingredients' order. They are closed when nothing holds it any more."""

    def __init__(self, paths: Sequence[str], kind: str) -> None:
        """Raises UsageError for a file that holds no statistics of this kind, CheckpointError where files of several
        ingredients hold other tensors, and as opening a checkpoint does."""
        stack = ExitStack()
        finalize(self, stack.close)
        self.paths = tuple(paths)
        self.files: tuple[Checkpoint, ...] = tuple(stack.enter_context(_opened(path, kind)) for path in paths)
        shapes = [{name: spec.shape for name, spec in file.tensors.items()} for file in self.files]
        for path, other in zip(paths, shapes, strict=True):
            if other != shapes[0]:
                name = sorted(set(other.items()) ^ set(shapes[0].items()))[0][0]
                what = f"differs from {paths[0]} in tensor {name!r}"
                raise CheckpointError(what, path, "collect all statistics on models of one architecture")
        self._transposed = frozenset(json.loads(self.files[0].metadata.get(TRANSPOSED, "[]")))
        self.behind: dict[str, Any] = json.loads(self.files[0].metadata.get(BEHIND, "{}"))
        for file in self.files[1:]:
            if json.loads(file.metadata.get(BEHIND, "{}")) != self.behind:
                what = f"was collected behind another merge than {self.files[0].ref}"
                raise CheckpointError(what, file.ref, "collect the statistics of all ingredients with one command")

    def __contains__(self, name: str) -> bool:
        return name in self.files[0].tensors

    def is_transposed(self, name: str) -> bool:
        """Whether the weight is [in, out], so that its layer computes x W."""
        return name in self._transposed

    def read(self, ingredient: int, name: str, start: int, stop: int) -> "Tensor":
        """Return elements `start` to `stop` of a statistic, 1-D float32. Raises CheckpointError as reading does."""
        import torch

        values = torch.empty(stop - start)
        self.files[ingredient].read_into(name, 4 * start, values.view(torch.uint8).numpy())
        return values

    def whole(self, ingredient: int, name: str) -> "Tensor":
        """Return a statistic in its shape, float32."""
        spec = self.files[ingredient].tensors[name]
        return self.read(ingredient, name, 0, spec.numel).view(spec.shape)

    def check_names(self, sources: Sequence[Checkpoint]) -> None:
        """Raise UsageError where a file holds a tensor that its ingredient lacks."""
        for source, file in zip(sources, self.files, strict=False):
            if not set(file.tensors) <= set(source.tensors):
                name = next(name for name in file.tensors if name not in source.tensors)
                hint = "statistics have open_clip's names: merge checkpoints in open_clip's form (merge --to converts)"
                raise UsageError(f"holds {name!r}, which {source.ref} lacks", file.ref, hint)

    def check_weights(self, sources: Sequence[Checkpoint]) -> None:
        """Raise CheckpointError where a file is not of its ingredient's weights, which are read for that."""
        for source, file in zip(sources, self.files, strict=False):
            if file.metadata[OF] != fingerprint(source).value:
                what = f"is of other weights than those of {source.ref}"
                raise CheckpointError(what, file.ref, "give the files in the ingredients' order, or make it anew")
        merged = self.behind.get("weights", [])
        if merged and sorted(merged) != sorted(file.metadata[OF] for file in self.files):
            what = f"was collected behind a merge of {len(merged)} models, and not of these {len(self.files)} alone"
            raise CheckpointError(what, self.files[0].ref, "collect the statistics of these ingredients together")


def _opened(path: str, kind: str) -> Checkpoint:
    hint = _HINT.format(kind=kind)
    if not Path(path).is_file():
        raise UsageError("is no file", path, hint)
    file = open_checkpoint(path)
    found = file.metadata.get(KIND)
    if found != kind or OF not in file.metadata or any(spec.dtype != "F32" for spec in file.tensors.values()):
        file.close()
        what = f"holds statistics of kind {found}, and not {kind}" if found in KINDS else "is no statistics"
        raise UsageError(what, path, hint)
    return file


def recorded(
    given: Mapping[str, Any], files: Mapping[str, str], sources: Sequence[Checkpoint]
) -> tuple[dict[str, Any], list[str]]:
    """Return `given` parameters as a soup's document says them: of those that name `files`, by their kind, the content;
    and the tensors that the files hold nothing of.

    Raises as opening them does, and where they do not fit the `sources`.
    """
    said, without = dict(given), []
    for name in files.keys() & given.keys():
        paths = given[name] if isinstance(given[name], list | tuple) else [given[name]]
        statistics = Statistics([str(path) for path in paths], files[name])
        statistics.check_names(sources)
        said[name] = [fingerprint(file).value for file in statistics.files]
        without = [name for name in sources[0].tensors if name not in statistics]
    return said, without


def statistics_of(model: "Survey", kind: str) -> Statistics:
    """Open the files of a merge's parameter `statistics`, and check that they are the ingredients'."""
    statistics = Statistics(model.setting("statistics"), kind)
    statistics.check_weights(model.sources)
    return statistics
