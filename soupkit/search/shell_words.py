"""Where a command of the shell says `{model}`: the path goes there as one word, also within quotes."""

import shlex

from soupkit.search.custom_score import MODEL

_SPECIAL = '\\"$`'  # what double quotes leave its meaning
_CLOSING = {"(": ")", "`": "`"}


def with_model(command: str, path: str) -> str:
    r"""Return `command` with `path` for each `{model}`, as the shell's quotes around it ask for.

    >>> with_model('run {model} --log="{model}/log"', "/my soups/a")
    'run \'/my soups/a\' --log="/my soups/a/log"'
    """
    made: list[str] = []
    i = 0
    # What is open, the innermost last: quotes, and commands within them, in which words begin without any.
    open_ones = [""]
    while i < len(command):
        inner = open_ones[-1]
        if command.startswith(MODEL, i):
            made.append(_as_in(inner, path))
            i += len(MODEL)
            continue
        length = 2 if command[i] == "\\" and inner != "'" else 1
        _follow(command[i : i + length], command[i - 1 : i], open_ones)
        made.append(command[i : i + length])
        i += length
    return "".join(made)


def _follow(letter: str, before: str, open_ones: list[str]) -> None:
    """Note what `letter`, after `before`, opens or closes; a letter with its backslash does neither."""
    inner = open_ones[-1]
    if len(open_ones) > 1 and letter == _CLOSING.get(inner, inner):
        open_ones.pop()
        return
    if inner == "'":
        return
    opens_command = letter == "`" or (letter == "(" and (inner != '"' or before == "$"))
    if opens_command or (inner != '"' and letter in ("'", '"')):
        open_ones.append(letter)


def _as_in(inner: str, path: str) -> str:
    if inner == "'":
        return path.replace("'", "'\\''")
    if inner == '"':
        return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in path)
    return shlex.quote(path)
