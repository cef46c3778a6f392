"""A run's entry in a recipe: what is trained, from what, on what and for how long. Everything is counted in samples."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from soupkit.schema import Entry

# What may change between a run and its continuation, because it does not decide what the run is.
NOT_IDENTITY = frozenset(
    {
        "micro_batch_size", "log_every", "checkpoint_every", "keep", "grad_checkpointing", "shard", "compile",
        "evaluate", "report_to", "nonfinite",
    }
)  # fmt: skip


def _count(value: Any) -> Any:
    """Let whole numbers be written as 200e3, which YAML takes for a text or a float."""
    if isinstance(value, str):
        try:
            value = float(value.replace("_", ""))
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checkpointing(value: Any) -> Any:
    """Let it be switched on and off."""
    return {False: "none", True: "full"}[value] if isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    """Let one source stand for a list of one."""
    return [value] if isinstance(value, dict | Entry) else value


Precision = Literal["fp32", "tf32", "bf16"]
_MOST = 2**63 - 1  # what a checkpoint counts up to
Count = Annotated[int, BeforeValidator(_count), Field(ge=0, le=_MOST)]
Positive = Annotated[int, BeforeValidator(_count), Field(ge=1, le=_MOST)]
Seed = Annotated[int, Field(ge=-_MOST, le=_MOST)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataEntry(Entry):
    """One source of images with captions: `shards` or `csv`.

    `shards` are tar files of WebDataset (braces are expanded), or a task of classification (`digits:train`, a folder in
    CLIP_benchmark's layout) whose captions are its class names in its templates; so are those of tar files with labels
    (`cls`) and `class_names`, a file with one name a line, or `imagenet-1k`. `weight` is the source's part of a
    mixture, by default its number of samples (all of them have one, or none). `share` trains on a part drawn by the
    run's seed. `balanced` (of these alone) lets every group of as many samples as there are classes hold each class
    once, and as many groups as there are templates hold no caption twice. Samples are shuffled among `shuffle_shards`
    shards at a time.
    """

    shards: str | list[str] | None = None
    csv: Path | None = None
    image_key: str = "jpg;jpeg;png;webp"
    caption_key: str = "txt"
    class_names: str | None = None
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


class EvaluationPointsEntry(Entry):
    """When a run is scored while it goes on: on which tasks, after every how many samples, on how many images each."""

    tasks: Annotated[list[str], Field(min_length=1)]
    every: Positive
    limit: Positive | None = None
    data_root: Path | None = None


class TrainEntry(Entry):
    """One run. `samples` is the length of its schedule, in whole batches; `stop_at` ends it earlier (0: before its
    first step, with what it begins with).

    `init` is a reference; without it the weights are random. `model` is a name that open_clip knows, a JSON file with a
    model_cfg, or the model_cfg itself; without it the model is that of `init`. A `continued` schedule is the one of the
    run before (`continued_from` samples long), `samples` longer, with this entry's `lr` and `warmup`: ViT-bigG/14's
    fine-tune (a) is stage 1's schedule with the base rate doubled and 2 B samples more.

    The loss `cross_entropy` trains the image tower of `init` with a classification head on the classes of its data. The
    head is that of `init`, or begun anew: from the zero-shot classifier, or from a linear probe. `keep_text` keeps the
    text tower beside them, as it was.

    >>> entry = TrainEntry(model="tiny", data={"shards": "digits:train"}, batch_size=256, samples="10e3", lr=1e-3)
    >>> entry.samples, entry.steps, entry.schedule
    (10000, 40, 'cosine')
    """

    model: str | dict[str, Any] | None = None
    preprocess: dict[str, Any] | None = None
    init: str | None = None
    data: Annotated[list[DataEntry], BeforeValidator(_listed), Field(min_length=1)]
    augmentation: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults
    batch_size: Positive
    micro_batch_size: Positive | None = None
    samples: Positive
    stop_at: Count | None = None
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
    grad_checkpointing: Annotated[Literal["none", "full", "selective"], BeforeValidator(_checkpointing)] = "none"
    shard: bool = False
    compile: bool = False
    lock_image: bool = False
    lock_text: bool = False
    loss: Literal["clip", "siglip", "cross_entropy"] = "clip"
    head: Literal["zero_shot", "probe"] | None = None
    label_smoothing: Fraction = 0.0
    keep_text: bool = False
    precision: Precision = "fp32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    snapshots: list[Positive] = []  # noqa: RUF012 - pydantic copies defaults
    nonfinite: Literal["stop", "skip"] = "stop"
    seed: Seed = 0
    log_every: Positive | None = None
    checkpoint_every: Positive | None = None
    keep: Positive = 2
    evaluate: EvaluationPointsEntry | None = None
    report_to: list[Literal["tensorboard", "trackio"]] = []  # noqa: RUF012 - pydantic copies defaults

    @model_validator(mode="after")
    def _fits(self) -> "TrainEntry":
        if self.model is None and self.init is None:
            raise ValueError("a run that starts from nothing needs a model")
        weighted = sum(source.weight is not None for source in self.data)
        if weighted not in (0, len(self.data)):
            raise ValueError("some of the data have a weight and some have none: give one to all, or to none")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size is larger than batch_size")
        if self.schedule == "continued" and self.continued_from is None:
            raise ValueError("a continued schedule needs continued_from, or init of another run of this file")
        self._check_classifier()
        if self.warmup >= self.samples + (self.continued_from or 0):
            raise ValueError("warmup is as long as the whole schedule")
        return self

    def _check_classifier(self) -> None:
        if self.classifies and self.init is None:
            raise ValueError("cross_entropy fine-tunes: it needs init, the weights to start from")
        for name in () if self.classifies else ("head", "label_smoothing", "keep_text"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to loss: cross_entropy")

    @property
    def classifies(self) -> bool:
        """Whether a classifier with a head comes out, and no CLIP."""
        return self.loss == "cross_entropy"

    @property
    def steps(self) -> int:
        """Steps until the run ends: whole batches, rounded up."""
        samples = self.samples if self.stop_at is None else min(self.samples, self.stop_at)
        return -(-samples // self.batch_size)
