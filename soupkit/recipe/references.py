"""How a recipe names the results of its own steps: `${train.a}`, `${soup.greedy}`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REFERENCE = re.compile(r"\$\{([^}]*)\}")


def references_in(value: Any) -> list[str]:
    """Return the steps that a value names, each once, in the order in which they stand."""
    if isinstance(value, str):
        return list(dict.fromkeys(REFERENCE.findall(value)))
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(name for inner in value for name in references_in(inner)))
    return []


def replace_references(value: Any, outputs: Mapping[str, Path]) -> Any:
    """Return `value` with each `${step}` replaced by the path of that step's output."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: str(outputs[match[1]]), value)
    if isinstance(value, list):
        return [replace_references(inner, outputs) for inner in value]
    if isinstance(value, dict):
        return {key: replace_references(inner, outputs) for key, inner in value.items()}
    return value
