"""One loss in a process of its own: prints seconds, peak memory, the value, and the floor's seconds as JSON.

python -m benchmarks.train.one_loss soupkit|open_clip BATCH WIDTH
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.tools.clock import timed


def status(field: str) -> int:
    """Return a field of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def measure_loss(which: str, batch: int, width: int) -> dict[str, float]:
    """Time one loss in this process: seconds, peak bytes above the features, the value, and the floor's seconds."""
    from open_clip.loss import ClipLoss

    from soupkit.training.loss import contrastive_gradients

    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(batch, width), dim=-1) for _ in range(2))
    scale = torch.tensor(50.0)
    small = [image[:512].clone().requires_grad_(), text[:512].clone().requires_grad_(), scale.clone().requires_grad_()]
    ClipLoss()(*small).backward()
    contrastive_gradients(image[:512], text[:512], scale)
    # Forget the peak of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    started, worked = time.perf_counter(), time.process_time()
    if which == "soupkit":
        value = contrastive_gradients(image, text, scale).loss
    else:
        leaves = [tensor.requires_grad_() for tensor in (image, text, scale)]
        value = ClipLoss()(*leaves)
        value.backward()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    peak = status("VmHWM") - before
    piece = min(batch, 2048)
    a, b, out = image[:piece].detach(), text[:piece].detach().T.contiguous(), torch.empty(piece, piece)
    rate = piece * piece / min(timed(lambda: torch.mm(a, b, out=out)) for _ in range(5))
    floor = 4 * batch * batch / rate
    return {"seconds": seconds, "processor": processor, "peak": peak, "loss": value.item(), "floor": floor}


if __name__ == "__main__":
    print(json.dumps(measure_loss(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
