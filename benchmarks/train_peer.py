"""open_clip's own trainer at work, in an environment of its own: prints the seconds of every step as JSON.

    python train_peer.py FOLDER-OF-CONFIGS OPTIONS-OF-OPEN_CLIP_TRAIN...

Runs under the peer's Python and imports nothing of soupkit. A step lasts from one request for a batch to the next, so
that it holds waiting for data, the loss, the optimizer and whatever the trainer does besides.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import open_clip
from open_clip_train import main as trainer

marks: list[float] = []


class Watched:
    """A loader that notes when each batch is asked for."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self._loader)
        while True:
            marks.append(time.perf_counter())
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch


def main() -> None:
    configs, *options = sys.argv[1:]
    open_clip.add_model_config(configs)
    train_one_epoch = trainer.train_one_epoch

    def watched(model: Any, data: dict[str, Any], *rest: Any, **named: Any) -> Any:
        data["train"].dataloader = Watched(data["train"].dataloader)
        return train_one_epoch(model, data, *rest, **named)

    trainer.train_one_epoch = watched
    trainer.main(options)
    print(json.dumps([b - a for a, b in pairwise(marks)]))


if __name__ == "__main__":
    main()
