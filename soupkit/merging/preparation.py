"""Everything about a merge that can be known, and refused, before a weight is read."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.compatibility import Agreement, agree, check_before_download
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.lineage import compare_weights, verdict
from soupkit.checkpoint.writer import OutputLayout, lay_out
from soupkit.errors import UsageError
from soupkit.merging import methods
from soupkit.merging.methods import normalized
from soupkit.merging.parameters import Resolved, resolve
from soupkit.merging.plan import TensorPlan, output_specs, plan_tensors
from soupkit.merging.registry import MergeMethod, find_method
from soupkit.merging.soup_directory import SoupRecord, check_tokenizers
from soupkit.progress import SILENT, Progress

assert methods  # importing the module registers the methods


@dataclass(frozen=True, slots=True)
class SoupRequest:
    """What is to be merged, and into what: everything that decides the result's bytes."""

    ingredients: tuple[str, ...]
    output: Path
    method: str
    weights: tuple[float, ...] | None
    base: str | None
    parameters: dict[str, Any]
    dtype: str | None
    model: str | None
    preprocess: Path | None
    max_shard_bytes: int | None
    allow_nonfinite: bool
    allow_single: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that is ready to run. `sources` are the open ingredients and then the base, where there is one."""

    request: SoupRequest
    method: MergeMethod
    sources: tuple[Checkpoint, ...]
    agreement: Agreement
    tensors: tuple[TensorPlan, ...]
    layout: OutputLayout
    tokenizer_files: tuple[Path, ...]
    record: SoupRecord
    notes: tuple[str, ...]


def prepare(request: SoupRequest, opened: ExitStack, progress: Progress = SILENT) -> Prepared:
    """Open and check everything; files are closed when `opened` is. Raises as `merge` does. Writes nothing."""
    method, given = _method_and_parameters(request)
    _check_counts(method, request)
    refs = [*request.ingredients, *([request.base] if request.base is not None else [])]
    check_before_download(refs, model=request.model, preprocess=request.preprocess)
    opens = [opened.enter_context(open_checkpoint(ref, progress=progress)) for ref in refs]
    ingredients = opens[: len(request.ingredients)]
    base = opens[-1] if request.base is not None else None
    sources = (*ingredients, base) if base is not None else tuple(ingredients)
    _check_places(request.output, sources)
    agreement = agree(sources, model=request.model, preprocess=request.preprocess)
    names = list(ingredients[0].tensors)
    resolved = resolve(method, given, names, len(ingredients))
    tensors = plan_tensors(method, ingredients, base, resolved, request.dtype)
    layout = lay_out(output_specs(tensors), {"format": "pt"}, request.max_shard_bytes, agreement.output)
    dtypes = {t.dtype for t in tensors if t.accumulator is not None}
    record = SoupRecord(
        method=method.name,
        parameters=given,
        dtype=DTYPES[dtypes.pop()].torch_name if len(dtypes) == 1 else "mixed",
        model=agreement.model,
        model_from=agreement.model_from,
        ingredients=request.ingredients,
        weights=_shares(method, resolved, len(ingredients)),
        base=request.base,
    )
    related, lineage = verdict(compare_weights(ingredients, base, sample=True), request.ingredients)
    warning = () if related else (f"warning: {lineage} (judged by a sample; `soupkit compare --weights` reads all)",)
    notes = (*agreement.notes, *warning, *_notes(tensors, ingredients, agreement, request))
    return Prepared(
        request, method, sources, agreement, tuple(tensors), layout, check_tokenizers(ingredients), record, notes
    )


def _method_and_parameters(request: SoupRequest) -> tuple[MergeMethod, dict[str, Any]]:
    """Find the method; `--weight` is the parameter `weight` in other words."""
    name = "linear" if request.method == "uniform" and request.weights is not None else request.method
    method = find_method(name)
    given = dict(request.parameters)
    if request.weights is not None:
        if "weight" not in method.parameters:
            raise UsageError(f"method {name} takes no weights", "--weight", "use --method linear")
        if "weight" in given:
            raise UsageError("the weights are given twice", "--weight and --param weight", "give one of them")
        if len(request.weights) != len(request.ingredients):
            raise UsageError(
                f"{len(request.weights)} weights for {len(request.ingredients)} ingredients",
                "--weight",
                "give one for each ingredient, in their order",
            )
        # 3 and 3.0 are one recipe, and give one soup.json
        given["weight"] = [float(w) if isinstance(w, int) else w for w in request.weights]
    return method, given


def _check_counts(method: MergeMethod, request: SoupRequest) -> None:
    n = len(request.ingredients)
    least, most = method.ingredients
    if n < least and not (n == 1 and request.allow_single):
        plural = "s" if n != 1 else ""
        raise UsageError(
            f"{n} ingredient{plural} given; {method.name} needs at least {least}", "REF", "name more checkpoints"
        )
    if most is not None and n > most:
        raise UsageError(f"{n} ingredients given; {method.name} takes {most}", "REF", "leave some out")
    if method.needs_base and request.base is None:
        raise UsageError(f"method {method.name} needs a base", "--base", "name the model that was fine-tuned")
    if not method.needs_base and request.base is not None:
        raise UsageError(f"method {method.name} uses no base", "--base", "leave it out, or use --method interpolate")


def _check_places(output: Path, sources: Sequence[Checkpoint]) -> None:
    """Refuse an output that is an ingredient, lies inside one, or holds one."""
    target = output.resolve()
    if target.is_file():
        raise UsageError("is a file; a soup is a directory", output, "choose another -o")
    for source in sources:
        for place in {source.path.resolve(), *(f.resolve() for f in source.files)}:
            inside = place in target.parents and place.is_dir()
            if target == place or inside or target in place.parents:
                raise UsageError(
                    f"the output is, holds or lies inside the ingredient {source.ref}", output, "choose another -o"
                )


def _shares(method: MergeMethod, resolved: dict[str, Resolved], n: int) -> tuple[float | None, ...]:
    """Return each ingredient's share of the soup, where one number says it for all tensors."""
    if method.name == "uniform":
        return (1 / n,) * n
    if method.name == "linear":
        weights = {values["weight"] for values in resolved.values()}
        normalize = {values["normalize"] for values in resolved.values()}
        if len(weights) == 1 and len(normalize) == 1:
            (weight,) = weights
            assert isinstance(weight, tuple)
            return tuple(normalized(weight)) if normalize.pop() else weight
    return (None,) * n


def _notes(
    tensors: Sequence[TensorPlan], ingredients: Sequence[Checkpoint], agreement: Agreement, request: SoupRequest
) -> list[str]:
    notes = []
    n = len(ingredients)
    mixed = [t for t in tensors if t.accumulator is not None and len(set(t.inputs[:n])) > 1]
    if mixed and request.dtype is None:
        kinds = sorted({DTYPES[d].torch_name for t in mixed for d in t.inputs[:n]})
        wide = ", ".join(sorted({DTYPES[t.dtype].torch_name for t in mixed}))
        notes.append(
            f"the ingredients mix {' and '.join(kinds)} in {len(mixed)} tensors; the soup has the widest: {wide}"
        )
    if any(t.name.endswith("running_mean") for t in tensors):
        notes.append(
            "the model has batch normalisation: the soup's running statistics are averages of the ingredients', not "
            "those of the averaged weights; recompute them on training data where accuracy matters"
        )
    if request.max_shard_bytes is not None:
        notes.append(
            "the soup is written in shards, which open_clip does not open; without --max-shard-size it is one file"
        )
    if agreement.config is None:
        notes.append("no open_clip architecture is known for these weights: the soup is a plain safetensors directory")
    return notes
