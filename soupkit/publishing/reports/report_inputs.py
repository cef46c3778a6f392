"""What a report is made of: scores, searches, interpolations and soups, read from the files that hold them."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.scores_document import SCORES, parse_scores_document
from soupkit.evaluation.task import ClassHits, Pair, PairPictures, Reliability
from soupkit.merging.soup_directory import SOUP_NAME, SoupDocument
from soupkit.publishing.json_input import decode
from soupkit.publishing.reports.units import row_of, score_row, shown
from soupkit.search.document import SEARCH_NAME, SearchDocument, SearchScore, parse_search
from soupkit.search.interpolation_document import InterpolationDocument, parse_interpolation
from soupkit.text import visible

IN_A_DIRECTORY = (SOUP_NAME, SCORES, SEARCH_NAME, "interpolation.json")
_DOCUMENTS = "those of evaluate, search and interpolate are, and soup.json"
_MOST_BYTES = 64 << 20
_ABOUT_A_MODEL = {"name", "pretrained", "params (m)", "flops (b)", "average perf. on 38 datasets", "train dataset"}


@dataclass
class Results:
    """All that was read, in order. `roles` says which references are soups, and of which kind."""

    scores: list[SearchScore] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    classes: list[ClassHits] = field(default_factory=list)
    differing: list[PairPictures] = field(default_factory=list)
    reliability: list[Reliability] = field(default_factory=list)
    searches: list[tuple[str, SearchDocument]] = field(default_factory=list)
    interpolations: list[tuple[str, InterpolationDocument]] = field(default_factory=list)
    soups: list[tuple[str, SoupDocument]] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def role(self, ref: str) -> str:
        """Return `uniform`, `greedy`, `soup` or `ingredient`: from what was read, else from the words of its name."""
        if ref in self.roles:
            return self.roles[ref]
        words = re.split(r"[^a-z0-9]+", Path(ref).name.lower())
        named = [w for w in ("greedy", "uniform") if w in words]
        words.append(Path(ref).parent.name.lower())  # soups/a, as soups are kept
        return named[0] if named else "soup" if {"soup", "soups"} & set(words) else "ingredient"

    def add_notes(self, notes: Iterable[str]) -> None:
        """Add what is to be known of the inputs, each thing once."""
        self.notes += (note for note in dict.fromkeys(notes) if note not in self.notes)

    def add_scores(self, scores: Iterable[SearchScore], source: object) -> None:
        """Add scores; of two that differ about one model and task the later counts, and that is noted."""
        positions = {(s.ref, s.task_and_split): i for i, s in enumerate(self.scores)}
        for score in scores:
            i = positions.get((score.ref, score.task_and_split))
            if i is None:
                positions[score.ref, score.task_and_split] = len(self.scores)
                self.scores.append(score)
                continue
            if self.scores[i].value != score.value:
                was, now = (shown(v, score) for v in (self.scores[i].value, score.value))
                unit = " %" if score.unit == "fraction" else ""
                self.notes.append(
                    f"{score.ref} on {score.task_and_split}: {was}{unit} before, {now}{unit} in {source}, which counts"
                )
            self.scores[i] = score


def gather(inputs: Sequence[Path]) -> Results:
    """Read every input: a directory (a soup, a search), or a JSON, JSON lines or CSV file.

    Raises UsageError without inputs, DataError, with the line where there is one, for what is no input of a report.
    """
    if not inputs:
        raise UsageError("names nothing to report on", "soupkit report", "for example: soupkit report scores.json")
    results = Results()
    for path in inputs:
        if path.is_dir():
            files = [path / name for name in IN_A_DIRECTORY if (path / name).is_file()]
            if not files:
                raise DataError(
                    f"holds none of {', '.join(IN_A_DIRECTORY)}",
                    path,
                    "name a soup, or a file that `evaluate -o` wrote",
                )
            for file in files:
                _read_json(file, results, visible(str(path)))
        elif path.suffix == ".csv" or path.suffix in (".jsonl", ".ndjson"):
            results.add_scores(read_results(path), path)
        elif path.suffix == ".json":
            _read_json(path, results, visible(str(path)))
        elif path.exists():
            raise DataError("is no input of a report", path, "give a directory, or a .json, .jsonl or .csv file")
        else:
            raise DataError("does not exist", path, "check the path")
    return results


def read_results(path: Path) -> list[SearchScore]:
    """Return the scores of a published table: a CSV as open_clip's, or JSON lines as those of model-soups.

    A CSV has a column `name`, perhaps `pretrained`, and a column per task; a line of JSON has `model_name` and a number
    per task. Fractions; a cell may be empty. Raises DataError with the line of the first thing wrong.
    """
    scores = _csv_scores(path) if path.suffix == ".csv" else _line_scores(path)
    if not scores:
        raise DataError("holds no scores", path, "it needs a row per model, and a task or more")
    return scores


def _csv_scores(path: Path) -> list[SearchScore]:
    reader = csv.DictReader(StringIO(visible(_text(path), keep="\r\n\t"), newline=""), strict=True)
    scores = []
    try:
        header = reader.fieldnames or []
        if "name" not in header:
            raise DataError(
                "has no column `name`", f"{path}, line 1", "open_clip's openclip_results.csv shows the form"
            )
        if twice := [column for column, times in Counter(header).items() if times > 1]:
            raise DataError(f"names the column {twice[0]!r} twice", f"{path}, line 1", "give each task one column")
        tasks = [c for c in header if c.lower() not in _ABOUT_A_MODEL]
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"has not the {len(header)} cells of the header", where, "correct the line")
            ref = "/".join(filter(None, (row["name"], row.get("pretrained"))))
            cells = {task: row[task].strip() for task in tasks}
            scores += _scores_of(ref, {t: c for t, c in cells.items() if c}, where)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise DataError(f"is not valid CSV: {error}", where, "correct the line") from error
    return scores


def _line_scores(path: Path) -> list[SearchScore]:
    scores = []
    for number, line in enumerate(_text(path).split("\n"), 1):  # not at what else ends a line within a text
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = decode(line, path, number)
        if not isinstance(row, dict) or not isinstance(row.get("model_name"), str):
            raise DataError("has no `model_name`", where, "model-soups' *_results.jsonl show the form")
        numbers = {k: v for k, v in row.items() if k != "model_name" and v is not None}
        scores += _scores_of(row["model_name"], numbers, where)
    return scores


def _scores_of(ref: str, cells: Mapping[str, Any], where: str) -> list[SearchScore]:
    scores = []
    for task, cell in cells.items():
        try:
            value = math.nan if isinstance(cell, bool) else float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{task}: {cell!r} is no finite number", where, "a fraction, or an empty cell")
        scores.append(score_row({"ref": ref, "task": task, "value": value}, f"{where}, {task}"))
    return scores


def _read_json(path: Path, results: Results, ref: str) -> None:
    """Read one document, recognised by what it holds; `ref` is the directory or file that the user named."""
    data = decode(_text(path), path)
    where = str(path)
    if not isinstance(data, dict):
        raise DataError("is no document of soupkit", path, _DOCUMENTS)
    if "decisions" in data:
        search = parse_search(data, where)
        results.searches.append((ref, search))
        results.roles[search.score.ref] = "greedy" if "greedy" in search.strategy else "soup"
        if search.uniform is not None:
            results.roles[search.uniform.ref] = "uniform"
        results.add_scores(search.scores, path)
        results.add_notes(search.notes)
    elif "points" in data:
        curve = parse_interpolation(data, where)
        results.interpolations.append((ref, curve))
        results.add_notes(curve.notes)
    elif "scores" in data:
        document = parse_scores_document(data, where)
        results.add_scores(map(row_of, document.scores), path)
        results.pairs += document.pairs
        results.classes += document.classes
        results.differing += document.differing
        results.reliability += document.reliability
        results.add_notes(document.notes)
    elif "method" in data and "ingredients" in data:
        soup = SoupDocument.of(data)
        if soup is None or not soup.ingredients:
            raise DataError("does not say how a soup was made", path, "make the soup again")
        results.soups.append((ref, soup))
        results.roles.setdefault(ref, "uniform" if soup.method == "uniform" else "soup")
    else:
        raise DataError("is no document of soupkit", path, _DOCUMENTS)


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise DataError("is no regular file", path, "give a directory, or a .json, .jsonl or .csv file")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"is larger than {_MOST_BYTES >> 20} MiB", path, "give the scores alone")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, "check the path and who may read it") from error
    if not text.strip():
        raise DataError("is empty", path, _DOCUMENTS)
    return text
