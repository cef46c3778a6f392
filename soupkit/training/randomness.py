"""Work that draws random numbers without the rest of the process noticing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the random states of Python, NumPy and torch (on the CPU and on the current GPU, if any) as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if used else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on the CPU: transforms of images draw from any of them."""
    # `torch.manual_seed` would also note a stack trace for every other device: a sixth of a small model's training.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
