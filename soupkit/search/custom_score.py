"""A score of the user's own: what it is, and what it is asked by."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from soupkit.errors import UsageError
from soupkit.search.score_answer import Answer

MODEL, SEED = "{model}", "{seed}"  # what stands in a command for a soup's directory, and for the search's seed


@dataclass(frozen=True, slots=True)
class CustomScore:
    """A score to search by.

    `asks` is a command for the shell in which `{model}` stands for a soup's directory, or a function of one argument:
    the directory as a `Path`, or, where its annotation says so, the weights as a `Mapping[str, Tensor]`, or the
    `nn.Module` that `build()` made. A second argument `images` has it asked about some images alone: it is given their
    numbers (int64 [b], None for all) and returns their hits. Higher is better unless `minimize`. `files` belong to the
    score: when one changes, it is another score. A command that takes longer than `timeout` seconds is stopped; one
    that failed is asked `retries` more times. Beside tasks the score counts `weight` times. Of an answer with several
    named numbers `key` is the one that counts.
    """

    asks: Any
    minimize: bool = False
    files: tuple[Path, ...] = ()
    timeout: float | None = None
    retries: int = 1
    weight: float = 1.0
    build: Any = None
    key: str | None = None

    @property
    def is_command(self) -> bool:
        """Whether it is a command for the shell."""
        return isinstance(self.asks, str)

    @property
    def name(self) -> str:
        """The command, or the function's name."""
        return self.asks if self.is_command else getattr(self.asks, "__qualname__", type(self.asks).__qualname__)

    def check(self) -> None:
        """Raise UsageError for what cannot be asked."""
        if self.is_command and MODEL not in self.asks:
            raise UsageError("does not say where the model goes", "--score", "for example 'python evaluate.py {model}'")
        if not self.is_command and not callable(self.asks):
            raise UsageError(f"{self.asks!r:.60} is no function and no command", "score", "give one of the two")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"{self.timeout} is no time", "--score-timeout", "give seconds, for example 3600")
        if self.retries < 0:
            raise UsageError(f"{self.retries} is no number of times", "--score-retries", "0 asks once")
        if not math.isfinite(self.weight) or self.weight <= 0:
            raise UsageError(f"{self.weight} is no weight", "--score-weight", "above 0; --minimize turns the score")
        if self.key == "":
            raise UsageError("is no name", "--score-key", "name one of the numbers that the score answers")
        for path in self.files:
            if not path.is_file():
                raise UsageError("is no file", f"--score-file {path}", "name what the score is computed with")

    def described(self, seed: int) -> dict[str, Any]:
        """Return what the score is, so that another one is recognised: its words, its files' contents, the seed."""
        files = [[path.name, f"xxh3:{xxhash.xxh3_128_hexdigest(path.read_bytes())}"] for path in self.files]
        said = self.name if self.is_command else f"{getattr(self.asks, '__module__', '')}.{self.name}"
        words = {"asks": said, "minimize": self.minimize, "files": files, "seed": seed, "weight": self.weight}
        return words if self.key is None else {**words, "key": self.key}


class Asker(Protocol):
    """Asks the score about the soup that was last shown to it; `by_images` is whether it can be asked about some images
    alone."""

    by_images: bool

    def ask(self, name: str) -> Answer:
        """Return the answer; `name` says what was asked about, for logs and errors. Raises ScoreError."""

    def ask_about(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return the hits on `images` (int64 [b], of those that the whole answer counts), bool [b]. Raises
        ScoreError."""
