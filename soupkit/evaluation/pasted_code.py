"""Lines of text files that are Python or JSON: `lambda c: f'a photo of {c}',`, `0: 'tench',`, `["tench", "crane"]`."""

import ast
import re
import warnings

_MOST_CHARACTERS = 2000  # of a line that is parsed; prompts and class names have a hundredth of it
_LAMBDA = re.compile(r"[\[({\s]*lambda\s+\w+\s*:.*")


def texts_in_code(line: str) -> tuple[str, ...] | None:
    """Return the texts that a line of code holds, placeholders as they are; None for a line that is no code.

    Code is what Python parses, alone or as a part of a list or a dict, and what holds a text in quotes or a function.
    """
    if len(line) <= _MOST_CHARACTERS and any(sign in line for sign in ("'", '"')):
        part = line.strip().lstrip("[({").rstrip("])},; ")
        for source in (line, f"[{part}\n]", f"{{{part}\n}}"):
            tree = _parsed(source)
            if tree is not None and (texts := _texts(tree)) is not None:
                return texts
    return () if _LAMBDA.fullmatch(line) else None


def _parsed(source: str) -> ast.AST | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            return ast.parse(source.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _texts(tree: ast.AST) -> tuple[str, ...] | None:
    """Return the texts in `tree`, None where it has neither text nor function."""
    texts: list[str] = []
    inner: set[int] = set()  # nodes of texts with placeholders
    found = False
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(map(id, ast.walk(node)))
            texts.append("".join(_piece(value) for value in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            texts.append(node.value)
        found = found or isinstance(node, ast.Lambda)
    return tuple(texts) if texts or found else None


def _piece(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    return f"{{{ast.unparse(value.value)}}}" if isinstance(value, ast.FormattedValue) else ""
