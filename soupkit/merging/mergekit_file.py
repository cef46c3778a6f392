"""Reads mergekit's YAML (https://github.com/arcee-ai/mergekit) as a soup's entry, with mergekit's meaning of its words:
where the two differ, parameters of ours are set so that the result is mergekit's."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, NoReturn

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.towers import blocks
from soupkit.merging import registry
from soupkit.merging.entry import SoupEntry
from soupkit.merging.mergekit_methods import EVERYWHERE, METHODS, NO_DEFAULT, Method
from soupkit.schema import Document

Place = tuple[str | int, ...]
_ROOT = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
)


def read_mergekit(path: Path) -> SoupEntry:
    """Return what the mergekit file at `path` asks for.

    Raises UsageError, with the line, for what is not mergekit's YAML, and for what soupkit does not do: stacked layers,
    modules of their own, LoRA, tokenizers that are put together.
    """
    return _File(Document(path)).entry()


class _File:
    """A mergekit file on its way to an entry."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: Any = document.data

    def refuse(self, what: str, place: Place, hint: str) -> NoReturn:
        self.document.refuse(what, place, hint=hint)

    def entry(self) -> SoupEntry:
        if not isinstance(self.data, dict) or "merge_method" not in self.data:
            self.refuse("is no file of mergekit's: it has no merge_method", (), "a recipe is read with --recipe FILE")
        for key in self.data:
            if key not in _ROOT:
                self.refuse(f"says {key}, which soupkit does not do", (str(key),), f"it reads {', '.join(_ROOT)}")
        name = self.data["merge_method"]
        if not isinstance(name, str) or name not in METHODS:
            why = "stacks layers; soupkit merges models of one shape" if name == "passthrough" else "is not known"
            self.refuse(f"merge_method {name} {why}", ("merge_method",), f"it reads {', '.join(METHODS)}")
        self._check_tokenizer()
        method = METHODS[name]
        sources, over = self._sources()
        refs = [self._ref(source["model"], place) for source, place in sources]
        base = self._ref(self.data["base_model"], ("base_model",)) if self.data.get("base_model") else None
        models = list(zip(refs, sources, strict=True))
        if method.base == "base":
            models = [m for m in models if m[0] != base]
        elif method.base == "first":
            if base is None:
                self.refuse(f"{name} needs base_model", ("merge_method",), "name the model that t = 0 gives")
            models.sort(key=lambda m: m[0] != base)
            if base not in refs:
                models.insert(0, (base, ({}, ("base_model",))))
            base = None
        elif base is not None:
            if base not in refs:
                self.refuse(f"{name} has no use for a base_model", ("base_model",), "name it among the models")
            base = None
        parameters = self._parameters(name, method, [source for _, source in models], over)
        dtype = self.data.get("out_dtype") or self.data.get("dtype")
        return SoupEntry.model_construct(
            ingredients=[ref for ref, _ in models],
            method=name,
            base=base,
            parameters=parameters,
            dtype=str(dtype).removeprefix("torch.") if dtype else None,
        )

    def _check_tokenizer(self) -> None:
        for key, value in (
            ("tokenizer_source", self.data.get("tokenizer_source")),
            ("tokenizer", self.data.get("tokenizer")),
        ):
            source = value.get("source") if isinstance(value, dict) and set(value) <= {"source"} else value
            if source not in (None, "base", self.data.get("base_model")):
                self.refuse(
                    f"{key} {value} puts tokenizers together, which soupkit does not do", (key,), "write `base`"
                )

    def _sources(self) -> tuple[list[tuple[dict[str, Any], Place]], list[tuple[dict[str, Any], Place]]]:
        """Return the models with their places in the file, and the maps of parameters that hold for all of them, the
        nearer one first."""
        over: list[tuple[dict[str, Any], Place]] = [(self._map(self.data, ("parameters",)), ("parameters",))]
        if ("models" in self.data) == ("slices" in self.data):
            self.refuse("has to name either models or slices", (), "write models: [{model: REF}, ...]")
        if "models" in self.data:
            return self._list(self.data["models"], ("models",), ("model", "parameters")), over
        slices = self.data["slices"]
        if not isinstance(slices, list) or len(slices) != 1:
            self.refuse(
                "slices stack layers; soupkit merges whole models", ("slices",), "write one slice of all layers"
            )
        (one,) = slices
        keys = ("sources", "parameters", "base_model", "residual_weight")
        if not isinstance(one, dict) or any(key not in keys[:2] for key in one):
            self.refuse("a slice here has sources and parameters", ("slices", 0), "give base_model for the whole file")
        place: Place = ("slices", 0, "parameters")
        sources = self._list(one.get("sources"), ("slices", 0, "sources"), ("model", "layer_range", "parameters"))
        self._check_layers(sources)
        return sources, [(self._map(one, place), place), *over]

    def _check_layers(self, sources: Sequence[tuple[dict[str, Any], Place]]) -> None:
        """Refuse ranges that are not all layers of the model."""
        ranges = {str(source.get("layer_range")): (source, place) for source, place in sources}
        source, place = sources[0]
        with open_checkpoint(self._ref(source["model"], place)) as first:
            count = blocks(list(first.tensors))
        if set(ranges) != {str([0, count])}:
            source, place = next(found for text, found in ranges.items() if text != str([0, count]))
            self.refuse(
                f"layer_range {source.get('layer_range')} is not the whole model, which has {count} layers",
                (*place, "layer_range"),
                f"write [0, {count}], or name models instead of slices",
            )

    def _list(self, value: Any, place: Place, keys: Sequence[str]) -> list[tuple[dict[str, Any], Place]]:
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) and "model" in v for v in value):
            self.refuse("should be a list of maps with a model", place, "write - model: REF")
        for i, entry in enumerate(value):
            for key in entry:
                if key not in keys:
                    self.refuse(f"says {key}, which soupkit does not do", (*place, i, str(key)), f"{', '.join(keys)}")
        return [(entry, (*place, i)) for i, entry in enumerate(value)]

    def _map(self, owner: Mapping[str, Any], place: Place) -> dict[str, Any]:
        value = owner.get("parameters") or {}
        if not isinstance(value, dict):
            self.refuse("parameters should be a map", place, "write parameters: {weight: 0.5}")
        return value

    def _ref(self, model: Any, place: Place) -> str:
        """Return how soupkit names a model: a path that is there, else a repository on the Hub."""
        if isinstance(model, dict):
            inner = model.get("model", model)
            if model.get("lora"):
                self.refuse("names a LoRA", (*place, "model"), "merge it into its model first")
            inner = {"path": inner, **model} if isinstance(inner, str) else inner
            if not isinstance(inner, dict):
                self.refuse("names no model", place, "write model: REF")
            path, revision = inner.get("path"), inner.get("revision")
            model = f"{path}@{revision}" if revision else path
        if not isinstance(model, str) or not model:
            self.refuse("names no model", place, "write model: REF")
        if model.startswith("hf-hub:"):
            return model
        with suppress(OSError, ValueError, RuntimeError):  # what no file can be called
            if (path := Path(model).expanduser()).exists():
                return str(path)
        if "+" in model:
            self.refuse(f"{model} names a LoRA", place, "merge it into its model first")
        return f"hf-hub:{model}"

    def _parameters(
        self,
        name: str,
        method: Method,
        models: Sequence[tuple[dict[str, Any], Place]],
        over: Sequence[tuple[dict[str, Any], Place]],
    ) -> dict[str, Any]:
        known = {*method.shared, *method.each, *method.words, *EVERYWHERE}
        own = [((self._map(source, (*place, "parameters"))), (*place, "parameters")) for source, place in models]
        for settings, place in (*own, *over):
            for key in settings:
                if key not in known and not (key == "lambda" and name == "task_arithmetic"):
                    self.refuse(
                        f"{name} has no parameter {key} here", (*place, key), f"it has {', '.join(sorted(known))}"
                    )
        parameters: dict[str, Any] = dict(method.unlike)
        for theirs, ours in method.shared.items():
            if (value := self._setting(theirs, over)) is not None:
                parameters[ours] = _completed(value, method.unlike.get(ours))
        for theirs, words in method.words.items():
            self._word(theirs, words, over, parameters)
        for theirs, ours in method.each.items():
            values = [_completed(self._setting(theirs, [mine, *over]), method.unlike.get(ours)) for mine in own]
            if all(v is None for v in values) and theirs not in NO_DEFAULT:
                continue
            if theirs not in NO_DEFAULT:
                default = method.unlike.get(ours, registry.METHODS[name].parameters[ours].default)
                values = [default if v is None else v for v in values]
            if any(v is None for v in values):
                source = own[values.index(None)][1]
                self.refuse(f"{name} needs {theirs} for each model", source[:-1], f"give {theirs} for all, or for each")
            parameters[ours] = values[0] if all(v == values[0] for v in values) else values
        for theirs in method.shared:
            if theirs in NO_DEFAULT and method.shared[theirs] not in parameters:
                self.refuse(f"{name} needs {theirs}", ("merge_method",), f"give parameters: {{{theirs}: ...}}")
        if name == "task_arithmetic" and (factor := self._setting("lambda", over)) not in (None, 1):
            self._scale(factor, parameters, over)
        if name == "nuslerp" and self._setting("nuslerp_flatten", over) in (None, True):
            parameters.pop("over", None)
        return parameters

    def _scale(self, factor: Any, parameters: dict[str, Any], over: Sequence[tuple[dict[str, Any], Place]]) -> None:
        """Multiply the scales of task arithmetic by lambda, where both are numbers."""
        given = parameters["scale"]
        scales = given if isinstance(given, list) else [given]
        if isinstance(factor, dict) or any(isinstance(s, dict) for s in scales) or parameters.get("normalize"):
            place = next(place for settings, place in over if "lambda" in settings)
            self.refuse(
                "lambda is read where it and the weights are numbers, without normalize", (*place, "lambda"),
                "multiply the weights by it",
            )  # fmt: skip
        scaled = [factor * s for s in scales]
        parameters["scale"] = scaled if isinstance(given, list) else scaled[0]

    def _word(
        self,
        theirs: str,
        words: Mapping[Any, tuple[str, Any] | None],
        over: Sequence[tuple[dict[str, Any], Place]],
        parameters: dict[str, Any],
    ) -> None:
        value = self._setting(theirs, over)
        if value is None:
            return
        if isinstance(value, dict) or value not in words:
            place = next(place for settings, place in over if theirs in settings)
            self.refuse(
                f"{theirs}: {value} is not what soupkit does here", (*place, theirs),
                f"write {' or '.join(str(w).lower() for w in words)}",
            )  # fmt: skip
        if (word := words[value]) is not None:
            parameters[word[0]] = word[1]

    def _setting(self, name: str, scopes: Sequence[tuple[dict[str, Any], Place]]) -> Any:
        """Return a parameter's value as ours is written, from the nearest scope that has one for each tensor; None
        where none says it."""
        by_pattern: dict[str, Any] = {}
        for settings, place in scopes:
            if name not in settings:
                continue
            setting, here = settings[name], (*place, name)
            conditions = [setting] if isinstance(setting, dict) else setting
            if not (isinstance(conditions, list) and all(isinstance(c, dict) for c in conditions)) or not conditions:
                conditions = [{"value": setting}]
            for condition in conditions:
                wanted = condition.get("filter")
                pattern = "*" if wanted in (None, "*") else f"*{escape(str(wanted))}*"
                by_pattern.setdefault(pattern, self._value(condition.get("value"), here))
                if pattern == "*":
                    return by_pattern["*"] if len(by_pattern) == 1 else by_pattern
        return by_pattern or None

    def _value(self, value: Any, place: Place) -> Any:
        if isinstance(value, list) and value and not any(isinstance(v, bool | list | dict) for v in value):
            numbers = [self._value(v, place) for v in value]
            return {"gradient": numbers, "outside": numbers[0]} if len(numbers) > 1 else numbers[0]
        if isinstance(value, str):
            try:
                return float(value)  # YAML 1.1 reads 1e-5 as a text
            except ValueError:
                pass
        if not isinstance(value, bool | int | float):
            self.refuse(f"{value!r} is no value of a parameter", place, "write a number, or one for each of the layers")
        return value


def _completed(value: Any, default: Any) -> Any:
    """Return a map of patterns with mergekit's default for what none of them matches, where ours is another."""
    lacks = isinstance(value, dict) and "gradient" not in value and "*" not in value
    return {**value, "*": default} if lacks and default is not None else value
