"""The device that `--device` names, and the memory of this machine: one answer for all that computes."""

from typing import TYPE_CHECKING

from soupkit.errors import UsageError
from soupkit.system import memory_bytes

if TYPE_CHECKING:
    import torch

_HINT = "choose auto, cpu, cuda or cuda:N"


def choose_device(name: str, local_rank: int = 0) -> "torch.device":
    """Return the device that `name` means; `auto` is CUDA where there is one.

    `auto` and `cuda` spread the ranks of a machine over its GPUs. Raises UsageError for what is no device or not there.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device", "--device", _HINT) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"soupkit does not compute on {device.type!r}", "--device", _HINT)
    if device.type == "cuda":
        index = device.index if device.index is not None else local_rank % max(count, 1)
        if index >= count:
            raise UsageError(f"{name!r} is not there; {count} CUDA devices are", "--device", "use --device cpu")
        device = torch.device("cuda", index)
    return device


def available_memory() -> int | None:
    """Return how many bytes of host memory are free, None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:  # noqa: PTH123 - not a file
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return memory_bytes("SC_AVPHYS_PAGES")
