"""Reads images from tables as the Hugging Face Hub and its `datasets` keep them: Arrow streams and Parquet files.

Retrieval: columns `image` and `caption`, a text or a list of them. Games of associations, as WinoGAViL's: columns
`candidate_images`, `candidates`, `cue` and `associations`. An image is a struct of `bytes` and `path`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from soupkit.errors import DataError
from soupkit.evaluation.kinds import cue_prompt
from soupkit.evaluation.task import Sample, evenly

ENDINGS = (".arrow", ".parquet")
_AGAIN = "get the table again"


def table_files(directory: Path, split: str) -> list[Path]:
    """Return the tables of a split below `directory`, in their order: in `SPLIT/`, called `SPLIT-*` or `SPLIT.*`, or as
    `datasets` caches them, `NAME-SPLIT*`."""
    for pattern in (f"{split}/*", f"{split}[-.]*", f"data/{split}-*", f"**/*-{split}[-.]*"):
        if files := sorted(p for p in directory.glob(pattern) if p.suffix in ENDINGS and p.is_file()):
            if len({p.parent for p in files}) > 1:
                raise DataError(
                    f"holds {split} in several folders", directory, f"keep one of {files[0].parent}, {files[-1].parent}"
                )
            return files
    return []


class Table:
    """The images of Arrow or Parquet files. Files are opened when the first sample is asked for."""

    columns: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)

    @property
    def place(self) -> str:
        """The first file."""
        return str(self._files[0])

    def files(self) -> list[str]:
        """Return the files."""
        return [str(path) for path in self._files]

    def beside_files(self) -> str:
        """Return nothing: all of it lies in the files."""
        return ""

    def some(self, limit: int) -> list[int]:
        """Return the numbers of `limit` samples, evenly spread."""
        return evenly(len(self), limit)

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def _table(self) -> Any:
        """The files as one table of `columns`, mapped into memory. Raises DataError."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise DataError("is a table that pyarrow reads", self.place, "pip install pyarrow") from error
        tables = []
        for path in self._files:
            try:
                if path.suffix == ".parquet":
                    table = pq.read_table(path, memory_map=True)
                else:
                    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            except (OSError, pa.ArrowException) as error:
                what = f"cannot be read as a table: {str(error)[:200]}"
                raise DataError(what, path, _AGAIN) from error
            if lacking := [c for c in self.columns if c not in table.column_names]:
                what = f"has the columns {', '.join(table.column_names)[:200]}, and lacks {', '.join(lacking)}"
                raise DataError(what, path, f"it needs {', '.join(self.columns)}")
            tables.append(table.select(list(self.columns)))
        return pa.concat_tables(tables)

    def _where(self, row: int) -> str:
        return f"{self.place}, row {row}"

    def _bytes(self, image: Any, row: int) -> bytes:
        """Return the bytes of an image that a table holds, as pyarrow gives them."""
        stored = image.as_py()
        if isinstance(stored, dict) and isinstance(stored.get("bytes"), bytes):
            return stored["bytes"]
        raise DataError("holds no bytes of its image", self._where(row), "an image is a struct of bytes and path")


class CaptionTable(Table):
    """Images with their captions."""

    columns = ("image", "caption")

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError."""
        caption = self._table["caption"][index].as_py()
        texts = [caption] if isinstance(caption, str) else caption if isinstance(caption, list) else []
        captions = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
        if not captions:
            raise DataError("has no caption", self._where(index), "a caption is a text, or a list of texts")
        return Sample(f"row {index}", self._bytes(self._table["image"][index], index), captions=captions)


class GameTable(Table):
    """Games of associations, one a row; a sample is one candidate of a game."""

    columns = ("candidate_images", "candidates", "cue", "associations")

    @cached_property
    def _games(self) -> tuple[list[dict[str, Any]], np.ndarray]:
        """What the games are but for their images, and the number of each one's first candidate, int64 [games + 1]."""
        games = self._table.select(["candidates", "cue", "associations"]).to_pylist()
        for row, game in enumerate(games):
            names, right = game["candidates"], game["associations"]
            texts = isinstance(names, list) and isinstance(right, list) and isinstance(game["cue"], str)
            if not texts or not game["cue"].strip() or not set(names) & set(right):
                raise DataError(
                    "is no game", self._where(row), "it has a cue, candidates, and among them the associations"
                )
        starts = np.cumsum([0, *(len(game["candidates"]) for game in games)])
        return games, starts

    def __len__(self) -> int:
        return int(self._games[1][-1])

    def some(self, limit: int) -> list[int]:
        """Return the candidates of whole games that are evenly spread, about `limit` of them, of one game at least."""
        games, starts = self._games
        rows = evenly(len(games), max(1, round(limit * len(games) / max(1, len(self)))))
        return [i for row in rows for i in range(starts[row], starts[row + 1])]

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError."""
        games, starts = self._games
        row = int(np.searchsorted(starts, index, side="right")) - 1
        game, candidate = games[row], index - int(starts[row])
        images = self._table["candidate_images"][row]
        if len(images) != len(game["candidates"]):
            what = f"has {len(images)} images of {len(game['candidates'])} candidates"
            raise DataError(what, self._where(row), _AGAIN)
        name = game["candidates"][candidate]
        data = self._bytes(images[candidate], row)
        cue = (cue_prompt(game["cue"].strip()),)
        return Sample(f"row {row}, {name}", data, label=int(name in game["associations"]), captions=cue, group=row)


TABLES: dict[str, type[CaptionTable | GameTable]] = {"retrieval": CaptionTable, "associations": GameTable}
