"""Small text files beside a dataset, read with care: class names, templates, how many shards there are."""

import errno
from pathlib import Path

from soupkit.errors import DataError

_MOST_BYTES = 64 << 20
_DESCRIPTORS = "this process may open no more files: raise the limit, for example with `ulimit -n 4096`"


def unreadable(error: OSError, where: object, hint: str) -> DataError:
    """Return what is said of something that cannot be read; `hint` is what to do where the file itself is at fault."""
    few = error.errno in (errno.EMFILE, errno.ENFILE)
    return DataError(f"cannot be read: {error.strerror or error}", where, _DESCRIPTORS if few else hint)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones at its end.

    Raises DataError for a file that is missing, empty, or has an empty line between others: a line's number is a label.
    """
    # Not `splitlines`, which ends a line at a form feed, and at what Unicode calls separators, too.
    lines = [line.strip() for line in _text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError("is empty", path, "write one entry a line, or remove the file")
    if "" in lines:
        raise DataError("is empty", f"{path}, line {lines.index('') + 1}", "every line is one entry; remove or fill it")
    return lines


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError("is no regular file", path, "put a text file there")
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"is larger than {_MOST_BYTES >> 20} MiB", path, "it should hold one short entry a line")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise unreadable(error, path, "get the file, or mend its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", path, "write it in UTF-8") from error
