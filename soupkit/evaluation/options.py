"""How models are evaluated: on which device, in which precision, on which images, and where what is made is kept."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soupkit.errors import UsageError

if TYPE_CHECKING:
    import torch

_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    `device` is auto, cpu, cuda or cuda:N; `precision` fp32, bf16 or fp16 (None: fp32 on the CPU, bf16 on CUDA);
    `batch_size` counts images (None: as many as suit the device); `cache` is where pixels, digests and scores are kept,
    None for a temporary place that goes away; `scores` whether scores may come from the cache; `limit` scores that many
    images of a task, evenly spread; `skip_corrupt` leaves out images that cannot be decoded; `compile` has
    `torch.compile` make one program of the image tower, which pays for large models and many images only.

    >>> how = soupkit.EvaluationOptions(device="cpu", limit=20)
    >>> soupkit.evaluate("runs/a", "digits", options=how).scores[0].n
    20
    """

    device: str = "auto"
    precision: str | None = None
    batch_size: int | None = None
    cache: Path | None = None
    scores: bool = True
    limit: int | None = None
    skip_corrupt: bool = False
    compile: bool = False


def default_cache() -> Path:
    """Return where soupkit keeps what it can make again: $SOUPKIT_CACHE, or soupkit in the user's cache directory."""
    if place := os.environ.get("SOUPKIT_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soupkit"


def precision_dtype(precision: str | None, device: "torch.device") -> "torch.dtype":
    """Return the dtype that `precision` means on `device`. Raises UsageError."""
    import torch

    if precision is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in _PRECISIONS:
        raise UsageError(
            "is no precision that soupkit knows", f"--precision {precision}", f"one of {', '.join(_PRECISIONS)}"
        )
    return getattr(torch, _PRECISIONS[precision])
