"""A moving average of the weights that lies in one file with them: REF@ema.

open_clip keeps it under "state_dict_ema", others under "ema", "ema_model", "model_ema" and the like; within a state
dict, names begin so.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from soupkit.errors import CheckpointError

PART = "ema"
_AVERAGE = re.compile(r"ema|ema_\w+|\w+_ema|average")

T = TypeVar("T")


def is_average(key: object) -> bool:
    """Whether a key names an average: "ema", or a word that begins or ends with it."""
    return isinstance(key, str) and _AVERAGE.fullmatch(key) is not None


def split_average(tensors: Mapping[str, T], part: str | None, where: object) -> dict[str, T]:
    """Return the tensors that are no average; with `part` "ema" those of the average, without what their names begin
    with. Raises CheckpointError where there is no such part."""
    averaged = {name: tensor for name, tensor in tensors.items() if is_average(name.partition(".")[0])}
    if part is None:
        rest = {name: tensor for name, tensor in tensors.items() if name not in averaged}
        return rest or dict(averaged)
    if part != PART or not averaged:
        raise CheckpointError(
            f"holds no {part!r}", where, f"leave out what follows @; {PART!r} is all that may stand there"
        )
    return {name.partition(".")[2]: tensor for name, tensor in averaged.items()}
