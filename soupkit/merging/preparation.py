"""Everything about a merge that can be known, and refused, before a weight is read."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.adapter_ref import JOINS, adapter_folder
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import in_form
from soupkit.checkpoint.compatibility import Agreement, agree, check_before_download, without_shared
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.lineage import compare_weights, verdict
from soupkit.checkpoint.opening import ConfigCheck
from soupkit.checkpoint.side_files import SideFile, side_files_of
from soupkit.checkpoint.towers import is_image, is_text
from soupkit.checkpoint.writer import OutputLayout, lay_out
from soupkit.errors import UsageError
from soupkit.files import real_path
from soupkit.merging.duplicates import with_distinct_references, with_distinct_weights
from soupkit.merging.entry import SoupEntry, check_recordable
from soupkit.merging.methods.averages import normalized
from soupkit.merging.parameters import Resolved, resolve
from soupkit.merging.plan import TensorPlan, output_specs, plan_tensors
from soupkit.merging.registry import METHODS, MergeMethod
from soupkit.merging.soup_directory import IngredientRecord, SoupDocument, SourceRecord
from soupkit.merging.statistics import recorded
from soupkit.progress import SILENT, Progress

_NORMALISATION = (
    "the model has batch normalisation: the soup's running statistics are averages of the ingredients', not those of "
    "the averaged weights; recompute them on training data where accuracy matters"
)
_SHARDS = "the soup is written in shards, which open_clip does not open; without --max-shard-size it is one file"
_NOT_EXACT = (
    "{} rests on libraries whose order of sums is their own: on another machine the soup may differ in its last bits"
)
_NO_CONFIG = "no open_clip architecture is known for these weights: the soup is a plain safetensors directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A merge that is ready to run. `sources` are the open ingredients and then the base, where there is one;
    `output` is the soup's directory, None where it stays in memory; `document` is what `soup.json` will say, as far as
    that is known before a weight is read. `configs` is the check of the config beside the weights where it is still on
    its way: the soup is finished when it is over, and not before."""

    soup: SoupEntry
    output: Path | None
    method: MergeMethod
    sources: tuple[Checkpoint, ...]
    agreement: Agreement
    tensors: tuple[TensorPlan, ...]
    layout: OutputLayout
    side_files: tuple[SideFile, ...]
    tokenizer_files: tuple[Path, ...]
    document: SoupDocument
    notes: tuple[str, ...]
    configs: ConfigCheck | None = None
    allow_nonfinite: bool = False

    @property
    def target(self) -> Path:
        """The directory of a soup that is written to one."""
        assert self.output is not None
        return self.output


def prepare(
    soup: SoupEntry,
    output: Path | None,
    opened: ExitStack,
    *,
    max_shard_bytes: int | None = None,
    allow_nonfinite: bool = False,
    allow_single: bool = False,
    as_written: bool = False,
    check_meanwhile: bool = False,
    progress: Progress = SILENT,
) -> Prepared:
    """Open and check everything; files are closed when `opened` is. Raises as `merge` does. Writes nothing.

    With `as_written` the tensors have the names that the soup's library gives them; without it a CLIP has open_clip's.
    With `check_meanwhile` the caller waits for `configs`, and this does not.
    """
    soup = with_bases(soup)
    asked = len(soup.ingredients)
    check_recordable(soup)
    _method_and_parameters(soup)
    soup, said = with_distinct_references(soup)
    _check_counts(METHODS.find(soup.method_name), soup, asked, allow_single=allow_single)
    refs = [*soup.ingredients, *([soup.base] if soup.base is not None else [])]
    check_before_download(refs, model=soup.model, preprocess=soup.preprocess)
    opens = [opened.enter_context(open_checkpoint(ref, progress=progress)) for ref in refs]
    n = len(soup.ingredients)
    distinct = with_distinct_weights(soup, opens[:n])
    if len(distinct.kept) < n:  # the same weights may be those of two models, which is an error
        agree(without_shared(opens), model=soup.model, preprocess=soup.preprocess, to=soup.to)
    opens = without_shared([*(opens[i] for i in distinct.kept), *opens[n:]])
    soup = distinct.soup
    method, given = _method_and_parameters(soup)
    _check_counts(method, soup, asked, allow_single=allow_single)
    if output is not None:
        _check_target(output, opens)
    agreement = agree(opens, model=soup.model, preprocess=soup.preprocess, to=soup.to)
    side_files, side_notes = side_files_of(opens[: len(soup.ingredients)], agreement)
    configs = opened.enter_context(closing(ConfigCheck(opens, agreement.architecture)))
    config_notes = () if check_meanwhile else configs.wait()
    tokenizer_files = next((c.tokenizer_files for c in opens if c.tokenizer_files), ())
    if as_written:
        opens = [in_form(checkpoint, agreement.family.name) for checkpoint in opens]
    ingredients = opens[: len(soup.ingredients)]
    base = opens[-1] if soup.base is not None else None
    resolved = _resolve(method, given, opens[0], len(ingredients))
    written, without_statistics = recorded(given, method.files, ingredients)
    tensors = plan_tensors(method, ingredients, base, resolved, soup.dtype)
    layout = lay_out(output_specs(tensors), {"format": "pt"}, max_shard_bytes, agreement.family.output)
    dtypes = {t.dtype for t in tensors if t.accumulator is not None}
    shares = _shares(method, resolved, len(ingredients))
    document = SoupDocument(
        method=method.name,
        parameters=written,
        dtype=DTYPES[dtypes.pop()].torch_name if len(dtypes) == 1 else "mixed",
        base=SourceRecord(soup.base) if soup.base is not None else None,
        model=agreement.model,
        model_from=agreement.model_from,
        ingredients=tuple(
            IngredientRecord(ref, weight=share, copies=copies)
            for ref, share, copies in zip(soup.ingredients, shares, distinct.copies, strict=True)
        ),
    )
    notes = [
        *said,
        *distinct.notes,
        *agreement.notes,
        *config_notes,
        *side_notes,
        *_relation(ingredients, base, soup),
        *_dtype_notes(tensors, len(ingredients), soup),
        *_statistics_notes(without_statistics, len(tensors)),
    ]
    if any(t.name.endswith("running_mean") for t in tensors):
        notes.append(_NORMALISATION)
    if max_shard_bytes is not None and agreement.family.name == "open_clip":
        notes.append(_SHARDS)
    if not all(method.is_exact(t.parameters) for t in tensors if t.accumulator is not None):
        notes.append(_NOT_EXACT.format(method.name))
    if agreement.config is None and agreement.family.name in ("open_clip", "plain"):
        notes.append(_NO_CONFIG)
    return Prepared(
        soup=soup,
        output=output,
        method=method,
        sources=tuple(opens),
        agreement=agreement,
        tensors=tuple(tensors),
        layout=layout,
        side_files=side_files,
        tokenizer_files=tokenizer_files,
        document=document,
        notes=tuple(notes),
        configs=configs if check_meanwhile else None,
        allow_nonfinite=allow_nonfinite,
    )


def with_bases(soup: SoupEntry) -> SoupEntry:
    """Return the soup with each ingredient that is an adapter as BASE+ADAPTER, where a base is named; a method that has
    no use for a base of its own then goes without."""
    if soup.base is None:
        return soup
    of_adapters = [f"{soup.base}{JOINS}{ref}" if adapter_folder(ref) is not None else ref for ref in soup.ingredients]
    if of_adapters == soup.ingredients:
        return soup
    own_base = soup.base if METHODS.find(soup.method_name).base != "none" else None
    return soup.model_copy(update={"ingredients": of_adapters, "base": own_base})


def _resolve(method: MergeMethod, given: dict[str, Any], first: Checkpoint, n: int) -> dict[str, Resolved]:
    """Resolve parameters for each tensor; of a CLIP by open_clip's name of it, whatever its own library calls it."""
    clip_names = first.clip_names
    names = [clip_names.get(name, name) for name in first.tensors]
    resolved = resolve(method, given, list(dict.fromkeys(names)), n)
    return {own: resolved[name] for own, name in zip(first.tensors, names, strict=True)}


def _method_and_parameters(soup: SoupEntry) -> tuple[MergeMethod, dict[str, Any]]:
    """Return the method and its parameters as they were given; `--weight` is the parameter `weight` in other words."""
    method = METHODS.find(soup.method_name)
    given = dict(soup.parameters)
    if soup.weights is not None:
        if "weight" not in method.parameters:
            raise UsageError("has no use with a method that takes no weights", "--weight", "use --method linear")
        if "weight" in given:
            raise UsageError("give the weights twice", "--weight and --param weight", "give one of them")
        if len(soup.weights) != len(soup.ingredients):
            raise UsageError(
                f"gives {len(soup.weights)} weights for {len(soup.ingredients)} ingredients",
                "--weight",
                "give one for each ingredient, in their order",
            )
        # 3 and 3.0 are one recipe, and give one soup.json
        given["weight"] = [float(w) if isinstance(w, int) else w for w in soup.weights]
    return method, given


def _check_counts(method: MergeMethod, soup: SoupEntry, asked: int, *, allow_single: bool) -> None:
    """Check how many ingredients there are; where all that were `asked` for are one, their average is that one."""
    n = len(soup.ingredients)
    least, most = method.ingredients
    where = f"method {method.name}"
    of_itself = asked > 1 and method.name in ("uniform", "linear")
    if n < least and not (n == 1 and (allow_single or of_itself)):
        given = "1 ingredient" if n == 1 else f"{n} ingredients"
        given += f", {asked} times" if n < asked and n == 1 else ""
        raise UsageError(f"needs at least {least} checkpoints and got {given}", where, "name more checkpoints")
    if most is not None and n > most:
        raise UsageError(f"takes {most} ingredients and got {n}", where, "leave some out")
    if method.needs_base and soup.base is None:
        raise UsageError("needs a base", where, "name the model that was fine-tuned with --base")
    if method.base == "none" and soup.base is not None:
        raise UsageError("uses no base", where, "leave --base out, or use --method interpolate")


def _check_target(output: Path, sources: Sequence[Checkpoint]) -> None:
    """Refuse an output that is an ingredient, lies inside one, or holds one."""
    target = real_path(output)
    if target.is_file():
        raise UsageError("is a file; a soup is a directory", output, "choose another -o")
    for source in sources:
        for path in {source.path.resolve(), *(f.resolve() for f in source.paths)}:
            inside = path in target.parents and path.is_dir()
            if target == path or inside or target in path.parents:
                raise UsageError(f"is, holds or lies inside the ingredient {source.ref}", output, "choose another -o")


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


def _relation(ingredients: Sequence[Checkpoint], base: Checkpoint | None, soup: SoupEntry) -> list[str]:
    """Warn of ingredients that look independently trained."""
    related, lineage = verdict(compare_weights(ingredients, base, sample=True), soup.ingredients)
    if related:
        return []
    return [f"warning: {lineage} (judged by a sample; `soupkit compare --weights` reads all)"]


def _statistics_notes(without: Sequence[str], n: int) -> list[str]:
    """Say what is averaged because no statistics are of it, such as text towers and norms."""
    if not without:
        return []
    texts = sum(map(is_text, without)) if any(map(is_image, without)) else 0
    tower = f", {texts} of them of the text tower" if texts else ""
    return [f"{len(without)} of {n} tensors have no statistics and are averaged{tower}"]


def _dtype_notes(tensors: Sequence[TensorPlan], n: int, soup: SoupEntry) -> list[str]:
    """Say which dtype the soup gets where its `n` ingredients have several."""
    mixed = [t for t in tensors if t.accumulator is not None and len(set(t.inputs[:n])) > 1]
    if not mixed or soup.dtype is not None:
        return []
    kinds = sorted({DTYPES[d].torch_name for t in mixed for d in t.inputs[:n]})
    wide = ", ".join(sorted({DTYPES[t.dtype].torch_name for t in mixed}))
    return [f"the ingredients mix {' and '.join(kinds)} in {len(mixed)} tensors; the soup has the widest: {wide}"]
