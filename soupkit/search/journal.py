"""The journal of a search: what it is about, then one line per decision, each on disk before the next trial begins.

A search that starts again decides everything again, from the hits on disk, and its decisions must be those of the
journal: then nothing has changed under it.
"""

import json
import os
from pathlib import Path
from typing import Any

from soupkit.errors import StorageError
from soupkit.files import MOST_KEPT_BYTES, parse_json, read_bytes, storage_error
from soupkit.search.measured import Unit
from soupkit.search.narration import in_words
from soupkit.search.subject import different_parts


class Journal:
    """Append-only lines of JSON in `path`. `done` counts the decisions that an earlier run left."""

    def __init__(self, path: Path, subject: dict[str, Any], *, writes: bool) -> None:
        """Open or begin the journal of a search for `subject`. Raises StorageError when it belongs to another one."""
        self.path = path
        self._writes = writes
        self._lines = self._read()
        self._next = 0
        if not self._lines:
            self._append({"schema": 1, "search": subject})
        else:
            self._check(self._lines.pop(0), subject)
        self.done = len(self._lines)

    def _check(self, header: dict[str, Any], subject: dict[str, Any]) -> None:
        earlier, hint = header.get("search"), "choose another -o, or start anew with --fresh"
        if not isinstance(earlier, dict):
            raise StorageError("is no journal of a search", self.path, hint)
        if different := different_parts(earlier, json.loads(json.dumps(subject))):
            raise StorageError(f"belongs to another search: other {', '.join(different)}", self.path, hint)

    def summary(self, unit: Unit) -> str:
        """Say what an earlier run left."""
        decisions = [line for line in self._lines if "decision" in line]
        scored, tried = self.done - len(decisions), len(decisions)
        text = f"resuming: {_counted(scored, 'ingredient')} and {_counted(tried, 'trial')} are in the journal"
        if kept := [line for line in decisions if line["decision"] == "accepted"]:
            soup, value = kept[-1].get("soup"), kept[-1].get("value")
            if isinstance(soup, list) and isinstance(value, int | float):  # they are checked when they are taken again
                text += f"; the soup so far, {in_words(value, unit)}: {', '.join(map(str, soup))}"
        return text

    def _read(self) -> list[dict[str, Any]]:
        """Return the whole lines; a line that was being written when its process died is cut off."""
        try:
            data = read_bytes(self.path, MOST_KEPT_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(
                f"cannot be read: {error.strerror}", self.path, "check who may read it, or --fresh"
            ) from error
        whole = data[: data.rfind(b"\n") + 1]
        if self._writes and len(whole) < len(data):
            os.truncate(self.path, len(whole))
        try:
            lines = [parse_json(line) for line in whole.splitlines()]
        except ValueError as error:
            raise StorageError("is damaged", self.path, "start anew with --fresh") from error
        if not all(isinstance(line, dict) for line in lines):
            raise StorageError("is damaged", self.path, "start anew with --fresh")
        return lines

    def record(self, decision: dict[str, Any]) -> None:
        """Note a decision, or check that it is the one that was noted."""
        decision = json.loads(json.dumps(decision))
        if self._next < len(self._lines):
            if self._lines[self._next] != decision:
                raise StorageError(
                    f"decision {self._next} is not taken again as it stands there", self.path, "start anew with --fresh"
                )
        else:
            self._append(decision)
        self._next += 1

    def _append(self, line: dict[str, Any]) -> None:
        if not self._writes:
            return
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self.path, 0) from error


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
