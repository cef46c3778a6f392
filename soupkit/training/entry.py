"""A run's entry in a recipe: what is trained, from what, on what and for how long. Everything is counted in samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from soupkit.errors import UsageError
from soupkit.schema import Document, Entry
from soupkit.training.references import RUN_REFERENCE

# What may change between a run and its continuation, because it does not decide what the run is.
NEUTRAL = frozenset(
    {"micro_batch_size", "log_every", "checkpoint_every", "keep", "grad_checkpointing", "shard", "compile"}
)


def _count(value: Any) -> Any:
    """Let whole numbers be written as 200e3, which YAML takes for a text or a float."""
    if isinstance(value, str):
        try:
            value = float(value.replace("_", ""))
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_count), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_count), Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataEntry(Entry):
    """One source of images with captions: `shards` or `csv`.

    `shards` are tar files of WebDataset (braces are expanded), or a task of classification (`digits:train`, a folder in
    CLIP_benchmark's layout) whose captions are its class names in its templates. `weight` is the source's part of a
    mixture, by default its number of samples. `share` trains on a part drawn by the run's seed. `balanced` (tasks only)
    lets every group of as many samples as there are classes hold each class once, and as many groups as there are
    templates hold no caption twice. Samples are shuffled among `shuffle_shards` shards at a time.
    """

    shards: str | list[str] | None = None
    csv: Path | None = None
    image_key: str = "jpg;jpeg;png;webp"
    caption_key: str = "txt"
    csv_image: str = "filepath"
    csv_caption: str = "title"
    weight: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    balanced: bool = False
    shuffle_shards: Positive = 16

    @model_validator(mode="after")
    def _one_place(self) -> "DataEntry":
        if (self.shards is None) == (self.csv is None):
            raise ValueError("give either shards or csv")
        return self


class TrainEntry(Entry):
    """One run. `samples` is the length of its schedule, in whole batches; `stop_at` ends it earlier.

    `init` is a reference; without it the weights are random. `model` is a name that open_clip knows, a JSON file with a
    model_cfg, or the model_cfg itself; without it the model is that of `init`. A `continued` schedule is the one of the
    run before (`continued_from` samples long), `samples` longer, with this entry's `lr` and `warmup`: ViT-bigG/14's
    fine-tune (a) is stage 1's schedule with the base rate doubled and 2 B samples more.
    """

    model: str | dict[str, Any] | None = None
    preprocess: dict[str, Any] | None = None
    init: str | None = None
    data: DataEntry | list[DataEntry]
    augmentation: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults
    batch_size: Positive
    micro_batch_size: Positive | None = None
    samples: Positive
    stop_at: Positive | None = None
    lr: Annotated[float, Field(gt=0)]
    warmup: Count = 0
    schedule: Literal["cosine", "constant", "continued"] = "cosine"
    continued_from: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    patch_dropout: Fraction = 0.0
    grad_checkpointing: bool = False
    shard: bool = False
    compile: bool = False
    lock_image: bool = False
    lock_text: bool = False
    loss: Literal["clip", "siglip"] = "clip"
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    snapshots: list[Positive] = []  # noqa: RUF012 - pydantic copies defaults
    nonfinite: Literal["stop", "skip"] = "stop"
    seed: int = 0
    log_every: Positive | None = None
    checkpoint_every: Positive | None = None
    keep: Positive = 2

    @model_validator(mode="after")
    def _fits(self) -> "TrainEntry":
        if self.model is None and self.init is None:
            raise ValueError("a run that starts from nothing needs a model")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size is larger than batch_size")
        if self.schedule == "continued" and self.continued_from is None:
            raise ValueError("a continued schedule needs continued_from, or init of another run of this file")
        if self.warmup >= self.samples + (self.continued_from or 0):
            raise ValueError("warmup is as long as the whole schedule")
        return self

    @property
    def sources(self) -> list[DataEntry]:
        """The sources of the data, as a list also where there is one."""
        return self.data if isinstance(self.data, list) else [self.data]

    @property
    def steps(self) -> int:
        """Steps until the run ends: whole batches, rounded up."""
        return -(-min(self.samples, self.stop_at or self.samples) // self.batch_size)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a file: its name (empty where the file holds one entry alone) and the run it starts from, if any."""

    name: str
    entry: TrainEntry
    parent: str | None = None


def read_runs(path: Path, settings: Sequence[str] = ()) -> list[Run]:
    """Return the runs of the recipe at `path`, each after the run it starts from.

    What a run that starts from another (`init: ${train.x}`) does not say, it takes from that run. `settings` are
    `key=value` or `RUN.key=value` and count before the file. Raises UsageError, with the line.
    """
    document = Document(path)
    data: Any = document.data
    named = isinstance(data, dict) and isinstance(data.get("train"), dict)
    if isinstance(data, dict) and "train" in data and not named:
        document.refuse("train should be a map from names to runs", ("train",))
    raw: dict[str, Any] = dict(data["train"]) if named else {"": data}
    for name, fields in raw.items():
        if not isinstance(fields, dict):
            document.refuse("a run should be a map of its settings", ("train", name) if named else ())
        raw[name] = dict(fields)
    for text in settings:
        _apply(raw, text)
    runs: dict[str, Run] = {}

    def resolve(name: str, after: tuple[str, ...]) -> dict[str, Any]:
        place = ("train", name) if named else ()
        fields, parent = dict(raw[name]), None
        if found := RUN_REFERENCE.fullmatch(str(fields.get("init", ""))):
            parent = found[1]
            if parent in after or parent == name or parent not in raw:
                problem = "starts from itself" if parent in raw else f"starts from {parent!r}, which is no run here"
                document.refuse(f"{name or 'the run'} {problem}", (*place, "init"), hint=f"runs: {', '.join(raw)}")
            inherited = resolve(parent, (*after, name))
            before = runs[parent].entry
            for own in ("init", "stop_at", "snapshots", "schedule", "continued_from"):
                inherited.pop(own, None)
            fields = {**inherited, **fields}
            if fields.get("schedule") == "continued":
                fields.setdefault("continued_from", before.steps * before.batch_size)
            elif "warmup" not in raw[name]:
                fields.pop("warmup", None)
        if name not in runs:
            runs[name] = Run(name, document.validate(TrainEntry, fields, place), parent)
        return fields

    for name in raw:
        resolve(name, ())
    return list(runs.values())


def _apply(raw: dict[str, Any], text: str) -> None:
    """Set what `key=value` or `RUN.key=value` says, in every run or in one. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not key=value", "--set", "write it as lr=1e-3, data.share=0.5 or RUN.lr=1e-3")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"the value of {key} cannot be read: {value}", "--set", "quote it for the shell") from error
    first, _, rest = key.partition(".")
    names, key = ([first], rest) if first in raw and rest else (list(raw), key)
    *path, last = key.split(".")
    for name in names:
        target = raw[name]
        if path and len(names) > 1 and path[0] not in target:
            continue  # it takes the whole of this from the run it starts from
        for part in path:
            inner = target.get(part)
            target[part] = dict(inner) if isinstance(inner, dict) else {}
            target = target[part]
        target[last] = parsed
