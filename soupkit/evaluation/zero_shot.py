"""Zero-shot accuracy by a plain loop on open_clip: its own classifier, its own transform, one batch after another."""

from dataclasses import dataclass
from pathlib import Path

from soupkit.evaluation.metrics import wilson
from soupkit.evaluation.webdataset import LabelledImages

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Hits among `n` images; `low` and `high` bound the 95 % interval. Fractions."""

    value: float
    low: float
    high: float
    n: int


def zero_shot_accuracy(directory: Path, data: LabelledImages) -> Accuracy:
    """Score the open_clip directory at `directory` on `data`: top-1, in float32, on the CPU."""
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    model.eval()
    templates = [lambda name, text=text: text.replace("{c}", name) for text in data.templates]
    hits = 0
    with torch.inference_mode():
        classifier = open_clip.build_zero_shot_classifier(
            model, tokenizer, data.classnames, templates, num_classes_per_batch=None
        )
        for start in range(0, len(data.images), _BATCH):
            pixels = torch.stack([transform(image) for image in data.images[start : start + _BATCH]])
            features = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
            labels = torch.tensor(data.labels[start : start + _BATCH])
            hits += int((features @ classifier).argmax(dim=-1).eq(labels).sum())
    n = len(data.images)
    return Accuracy(hits / n, *wilson(hits, n), n)
