"""TorchScript archives, as OpenAI published CLIP: their parameters and buffers, read without running their code.

The pickle describes the module's objects; which of their tensors are parameters and buffers stands in the code, as
text: `__parameters__ = ["weight", ]`.
"""

import re
from pathlib import Path

from soupkit.checkpoint.formats.pickle_reader import Call, Name
from soupkit.checkpoint.formats.torch_archive import TorchArchive, is_tensor
from soupkit.errors import CheckpointError

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:[ \t]+[^\n]*\n|\n)*)", re.MULTILINE)
_FIELDS = re.compile(r"^\s+__(?:parameters|buffers)__ = \[([^\]]*)\]", re.MULTILINE)
_DEEPEST = 100


def state_of_module(path: Path, module: Call, archive: TorchArchive) -> dict[str, Call]:
    """Return the tensors that the module's `state_dict()` holds, by their names there. Raises CheckpointError."""
    fields: dict[str, frozenset[str]] = {}
    state: dict[str, Call] = {}
    waiting: list[tuple[str, Call, int]] = [("", module, 0)]
    while waiting:
        prefix, part, depth = waiting.pop(0)
        if depth > _DEEPEST or len(state) > 1_000_000:
            raise CheckpointError("is a module that holds itself", path, "the archive is damaged; get it again")
        attributes = part.state if isinstance(part.state, dict) else {}
        held = _fields_of(part.function, archive, fields)
        for name, value in attributes.items():
            if not isinstance(value, Call) or not isinstance(name, str):
                continue
            if is_tensor(value):
                if held is None or name in held:
                    state[prefix + name] = value
            elif isinstance(value.function, Name) and value.function.module.startswith("__torch__"):
                waiting.append((f"{prefix}{name}.", value, depth + 1))
    if not state:
        raise CheckpointError("is a TorchScript archive without parameters", path, "choose another file")
    return state


def _fields_of(function: object, archive: TorchArchive, known: dict[str, frozenset[str]]) -> frozenset[str] | None:
    """Return the names of the parameters and buffers of a class, None where its code does not say them.

    Classes that were read before are in `known`.
    """
    if not isinstance(function, Name):
        return None
    if (full := str(function)) not in known:
        record = f"code/{function.module.replace('.', '/')}.py"
        if record not in archive.names:
            return None
        for name, body in _CLASS.findall(archive.text(record)):
            words = ",".join(_FIELDS.findall(body))
            known[f"{function.module}.{name}"] = frozenset(re.findall(r'"([^"]*)"', words))
    return known.get(full)
