"""A model with an adapter in it, as a checkpoint: which weight of the base each module's update belongs to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from soupkit.checkpoint.formats import transformers_clip as clip
from soupkit.checkpoint.formats import transformers_siglip as siglip
from soupkit.checkpoint.formats.peft import ADAPTER_CONFIG, Adapter, Factors
from soupkit.checkpoint.formats.table import Tensors
from soupkit.checkpoint.low_rank import LoadedUpdates, Update, UpdatedWeight
from soupkit.checkpoint.sources import Source
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError

_CLASSES = "save the model with its head as a model of its own, and name that as the base"


@dataclass(frozen=True, slots=True)
class Adapted:
    """The tensors of a model with an adapter, the sources of those that are made as they are read, and what lies
    beneath: the tensors that those are made of."""

    tensors: Tensors
    sources: Mapping[Path, Source]
    beneath: tuple[TensorSpec, ...]


def adapted(tensors: Tensors, adapter: Adapter, files: Mapping[Path, Source], base: str) -> Adapted:
    """Return `tensors`, those of the model called `base`, with `adapter`, whose sources read from `files`.

    The names of the adapter's modules are the model's own, or those of a part or a whole of it (one prefix less or
    more), or, for a CLIP or SigLIP in open_clip's form, transformers'. Raises CheckpointError for an adapter of another
    model.
    """
    for to_own, back in _forms(tensors):
        own = to_own(tensors, base)
        names = _names(adapter, own)
        if names is not None:
            made = _with_updates(own, adapter, names, files)
            return Adapted(back(made.tensors, base), made.sources, made.beneath)
    module = next(iter(adapter.factors))
    raise CheckpointError(
        f"is no adapter of {base}, which has no module {module!r}",
        adapter.path,
        f"name the model that it was trained on: BASE+{adapter.path}",
    )


Convert = Callable[[Tensors, object], Tensors]


def _forms(tensors: Tensors) -> list[tuple[Convert, Convert]]:
    """Return the forms in which the modules of a model may be named: there and back."""
    forms: list[tuple[Convert, Convert]] = [(_as_it_is, _as_it_is)]
    if "visual.class_embedding" in tensors and "token_embedding.weight" in tensors:
        forms.append((clip.to_transformers, clip.convert_tensors))
    if "visual.trunk.attn_pool.latent" in tensors:
        forms.append((siglip.to_transformers, siglip.convert_tensors))
    return forms


def _as_it_is(tensors: Tensors, where: object) -> Tensors:
    return tensors


def _names(adapter: Adapter, tensors: Tensors) -> Callable[[str], str] | None:
    """Return how the adapter's names become the model's; None where they are another model's."""
    modules = list(adapter.factors)

    def fits(rename: Callable[[str], str]) -> bool:
        return all(_weight_of(rename(module), tensors) is not None for module in modules)

    first = modules[0].partition(".")[0] + "."
    prefixes = dict.fromkeys(name.partition(".")[0] + "." for name in tensors)
    candidates: list[Callable[[str], str]] = [lambda name: name, lambda name: name.removeprefix(first)]
    candidates += [lambda name, prefix=prefix: prefix + name for prefix in prefixes]  # type: ignore[misc]
    return next((rename for rename in candidates if fits(rename)), None)


def _weight_of(module: str, tensors: Tensors) -> str | None:
    """Return the name of the weight of a module; of attention as torch has it, the joined projection."""
    return next((name for name in (f"{module}.weight", f"{module}.in_proj_weight") if name in tensors), None)


def _with_updates(
    tensors: Tensors, adapter: Adapter, rename: Callable[[str], str], files: Mapping[Path, Source]
) -> Adapted:
    made = dict(tensors)
    sources: dict[Path, Source] = {}
    beneath: list[TensorSpec] = []
    loaded = LoadedUpdates()

    def put(name: str, update: Update, where: str) -> None:
        spec = tensors[name]
        if not spec.is_float:
            raise CheckpointError(f"adds to {name!r}, which holds {spec.dtype}", where, "dequantize the base first")
        path = adapter.path / name
        sources[path] = UpdatedWeight(path, spec, update, files, loaded)
        made[name] = TensorSpec(spec.dtype, spec.shape, (Extent(path, 0, spec.nbytes),))
        beneath.extend(part for part in (spec, update.a, update.b, update.magnitude) if part is not None)

    turned = _is_turned(adapter, tensors, rename)
    for module, factors in adapter.factors.items():
        where = f"{adapter.path}, module {module!r}"
        name = _weight_of(rename(module), tensors)
        assert name is not None
        transposed = _check_shape(tensors[name], factors, turned, f"{name!r}", where)
        put(name, Update(factors.a, factors.b, factors.scale, factors.magnitude, transposed), where)
        if factors.bias is not None:
            bias = name.removesuffix("weight") + "bias"
            if bias not in tensors or tensors[bias].numel != factors.bias.numel:
                raise CheckpointError(f"has a bias, and {bias!r} of the model none of its size", where, _CLASSES)
            put(bias, Update(None, factors.bias, factors.scale), where)
    for own, spec in adapter.replaced.items():
        name = rename(own)
        where = f"{adapter.path}, tensor {own!r}"
        if name not in tensors or tensors[name].shape != spec.shape:
            shape = list(tensors[name].shape) if name in tensors else "no such tensor"
            raise CheckpointError(f"has the shape {list(spec.shape)}, and the model has {shape}", where, _CLASSES)
        made[name] = spec
    return Adapted(made, sources, tuple(beneath))


def _is_turned(adapter: Adapter, tensors: Tensors, rename: Callable[[str], str]) -> bool:
    """Whether square weights are stored in x out: as the others are, and where all are square as the config says."""
    for module, factors in adapter.factors.items():
        shape = tensors[_weight_of(rename(module), tensors) or ""].shape
        if not factors.embedding and len(shape) == 2 and shape[0] != shape[1]:
            return shape == (factors.inputs, factors.outputs)
    return bool(adapter.config.get("fan_in_fan_out", False))


def _check_shape(spec: TensorSpec, factors: Factors, turned: bool, name: str, where: str) -> bool:
    """Return whether a weight is stored with its rows as columns. Raises CheckpointError for one of another size."""
    outputs, inputs = factors.outputs, factors.inputs
    stored = (spec.shape[0], spec.numel // spec.shape[0]) if spec.numel else (0, 0)
    straight, across = stored == (outputs, inputs), stored == (inputs, outputs) and len(spec.shape) == 2
    odd = factors.magnitude is not None and factors.magnitude.numel != outputs
    fits = across if factors.embedding else straight or across
    if not fits or odd or (factors.bias is not None and factors.bias.numel != outputs):
        raise CheckpointError(
            f"makes {outputs} x {inputs}, and {name} of the model has the shape {list(spec.shape)}",
            where,
            f"name the model that the adapter was trained on; {ADAPTER_CONFIG} says which",
        )
    return across and (turned or factors.embedding or not straight)
