"""Trains the demo's ingredients: a small CLIP on the shipped digits, then three fine-tunes of it, by a plain loop.

The miniature follows ViT-bigG/14's recipe: stage 1 with 50 % patch dropout, stage 2 three times without, each with
another learning rate, length and part of the data. A batch is cut into groups that hold one image of each class, and
the contrastive loss is taken within a group, so that no caption of another image is also right.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.partial import PartialDirectory
from soupkit.errors import DataError, StorageError
from soupkit.evaluation.data import Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.evaluation.transform import decode
from soupkit.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch
    from open_clip.model import CLIP

_SETTINGS = "training.json"
_MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 16, "layers": 4, "width": 64, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
_PREPROCESS: dict[str, Any] = {
    "size": 16,
    "mode": "RGB",
    "mean": [0.305, 0.305, 0.305],
    "std": [0.376, 0.376, 0.376],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training: where it starts, how long it goes, on which share of the data.

    After `warmup` steps the learning rate follows half a cosine down to zero, or stays as it is when `constant`.
    `groups` is the number of groups of one image per class in a batch; `shift` the pixels that images are moved by at
    most, `noise` the deviation of the noise added to normalised pixels.
    """

    name: str
    init: str | None
    steps: int
    lr: float
    seed: int
    patch_dropout: float = 0.0
    share: float = 1.0
    shift: int = 1
    noise: float = 0.3
    groups: int = 12
    warmup: int = 20
    constant: bool = False
    weight_decay: float = 0.1


STAGE_1 = Run("stage1", None, steps=300, lr=2e-3, seed=0, patch_dropout=0.5, share=0.1)
# Ingredients that are not annealed still differ in what averaging removes, the noise of their last steps. Measured over
# eight seeds on 497 images: with a constant rate the soup was 1.9 points above its best ingredient (1.0 to 2.8), with a
# cosine and augmentations of their own 0.4 (-1.2 to 1.6); it reached 96.2 % and 95.1 %.
FINE_TUNES = (
    Run("a", "stage1", steps=120, lr=8e-4, seed=1, share=0.15, constant=True),
    Run("b", "stage1", steps=140, lr=6e-4, seed=2, share=0.15, constant=True),
    Run("c", "stage1", steps=100, lr=1e-3, seed=3, share=0.15, constant=True),
)


def train_digits(
    directory: Path,
    runs: tuple[Run, ...] = (STAGE_1, *FINE_TUNES),
    *,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Train `runs` one after the other into `directory` and return the open_clip directory of each, in their order.

    A run that is there already with the same settings, its own and those of the run it starts from, is kept, unless
    `fresh`. Deterministic on one machine and torch version. Raises DataError when the shipped digits are
    damaged, CheckpointError when the weights to start from are, StorageError when something else is in the way, another
    training writes the same directory, or it cannot be written.
    """
    paths = [directory / run.name for run in runs]
    for path in paths:
        if path.exists() and not (path / _SETTINGS).is_file():
            raise StorageError("is there already and is not a run of the demo", path, "choose another -o")
    (data,) = open_tasks(["digits:train"])
    for run, path in zip(runs, paths, strict=True):
        init = directory / run.init if run.init is not None else None
        settings = _settings(run, init)
        if fresh or _read(path) != settings:
            with PartialDirectory(path) as partial:
                partial.clear()
                with _one_thread():
                    _save(_train(run, init, data, progress), partial.path)
                (partial.path / _SETTINGS).write_text(settings)
                partial.publish(replace=True)
    return paths


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: as fast for a model this small, the same weights whatever the number of cores, and no
    waiting of threads for each other where the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _settings(run: Run, init: Path | None) -> str:
    """Everything that decides the weights of a run, as its `training.json` says it."""
    start = json.loads(_read(init) or "null") if init is not None else None
    return json.dumps({"run": asdict(run), "model": _MODEL, "init": start}, indent=2) + "\n"


def _read(path: Path) -> str | None:
    """Return the settings that the finished run at `path` was trained with; None where there is none."""
    try:
        return (path / _SETTINGS).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _build(run: Run, init: Path | None) -> "CLIP":
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(run.seed)
    vision = {**_MODEL["vision_cfg"], "patch_dropout": run.patch_dropout}
    model = CLIP(embed_dim=_MODEL["embed_dim"], vision_cfg=vision, text_cfg=dict(_MODEL["text_cfg"]))
    if init is not None:
        with open_checkpoint(str(init)) as start:
            model.load_state_dict({name: start[name] for name in start})
    return model


def _save(model: "CLIP", path: Path) -> None:
    from safetensors.torch import save

    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    # `save_file` would make a file that only its owner may read.
    (path / "open_clip_model.safetensors").write_bytes(save(state, {"format": "pt"}))
    config = {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS}
    (path / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _train(run: Run, init: Path | None, data: Task, progress: Progress) -> "CLIP":
    """Train one model in float32 on the CPU: AdamW, warm-up, cosine; the loss is taken within groups."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    model = _build(run, init)
    generator = torch.Generator().manual_seed(run.seed)
    pixels, by_class, captions = _tensors(data, run, generator)
    classes = len(data.classnames)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": run.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=run.lr,
        betas=(0.9, 0.98),
    )
    target = torch.arange(classes).repeat(run.groups)
    progress.start(f"training {run.name}", run.steps * run.groups * classes, "images")
    model.train()
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.lr * _schedule(step, run)
        chosen = torch.stack([c[torch.randint(len(c), (run.groups,), generator=generator)] for c in by_class], dim=1)
        images = _augment(pixels[chosen.flatten()], run, generator)
        template = torch.randint(captions.shape[1], (classes,), generator=generator)
        texts = normalize(model.encode_text(captions[torch.arange(classes), template]), dim=-1)
        features = normalize(model.encode_image(images), dim=-1)
        logits = model.logit_scale.exp() * features @ texts.T
        per_text = logits.view(run.groups, classes, classes).transpose(1, 2).reshape(-1, classes)
        loss = (cross_entropy(logits, target) + cross_entropy(per_text, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        progress.advance(run.groups * classes)
    progress.finish()
    return model.eval()


def _schedule(step: int, run: Run) -> float:
    warm = min(1.0, (step + 1) / run.warmup)
    return warm if run.constant else warm * 0.5 * (1 + math.cos(math.pi * step / run.steps))


def _tensors(
    data: Task, run: Run, generator: "torch.Generator"
) -> tuple["torch.Tensor", list["torch.Tensor"], "torch.Tensor"]:
    """Return normalised pixels [N, 3, 16, 16], the run's images per class, and captions [classes, templates, 16]."""
    import torch
    from open_clip import SimpleTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**_PREPROCESS), is_train=False)
    samples = [data.dataset.read(i) for i in range(len(data.dataset))]
    try:
        pixels = torch.stack([transform(decode(sample.data)) for sample in samples])
    except OSError as error:
        raise DataError(f"an image is damaged: {error}", data.dataset.place, "install soupkit again") from error
    labels = torch.tensor([sample.label for sample in samples])
    by_class = []
    for c in range(len(data.classnames)):
        members = torch.nonzero(labels == c).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        by_class.append(members[: max(1, round(run.share * len(members)))])
    tokenizer = SimpleTokenizer(context_length=_MODEL["text_cfg"]["context_length"])
    captions = torch.stack([tokenizer([t.replace("{c}", name) for t in data.templates]) for name in data.classnames])
    return pixels, by_class, captions


def _augment(images: "torch.Tensor", run: Run, generator: "torch.Generator") -> "torch.Tensor":
    """Shift every image by its own whole number of pixels and add noise."""
    import torch

    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (run.shift,) * 4, mode="replicate")
    across = torch.randint(2 * run.shift + 1, (n, 1), generator=generator) + torch.arange(width)
    down = torch.randint(2 * run.shift + 1, (n, 1), generator=generator) + torch.arange(height)
    moved = padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], down[:, None, :, None],
                   across[:, None, None, :]]  # fmt: skip
    return moved + run.noise * torch.randn(moved.shape, generator=generator)
