"""open_clip's own trainer at work, in an environment of its own: prints the seconds of every step as JSON.

    python open_clip_peer.py CLOCK FOLDER-OF-CONFIGS OPTIONS-OF-OPEN_CLIP_TRAIN...

Runs under the peer's Python and imports nothing of soupkit. A step lasts from one request for a batch to the next, so
that it holds waiting for data, the loss, the optimizer and whatever the trainer does besides. CLOCK is wall or
processor.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import open_clip
from open_clip_train import data as loading
from open_clip_train import main as trainer

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

marks: list[float] = []


class Watched:
    """A loader that notes when each batch is asked for."""

    def __init__(self, loader: Any, clock: Callable[[], float]) -> None:
        self._loader, self._clock = loader, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self._loader)
        while True:
            marks.append(self._clock())
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch


def main() -> None:
    clock, configs, *options = sys.argv[1:]
    open_clip.add_model_config(configs)
    train_one_epoch = trainer.train_one_epoch

    def watched(model: Any, data: dict[str, Any], *rest: Any, **named: Any) -> Any:
        data["train"].dataloader = Watched(data["train"].dataloader, CLOCKS[clock])
        return train_one_epoch(model, data, *rest, **named)

    trainer.train_one_epoch = watched
    # Full before the first sample comes out, and not after thousands of steps as with its 5,000 samples.
    loading._SAMPLE_SHUFFLE_SIZE = loading._SAMPLE_SHUFFLE_INITIAL = 500
    trainer.main(options)
    print(json.dumps([b - a for a, b in pairwise(marks)]))


if __name__ == "__main__":
    main()
