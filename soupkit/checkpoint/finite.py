"""Whether floats are finite, by their bits."""

import numpy as np

from soupkit.checkpoint.dtypes import DTYPES

# The integer that the bits of infinity are: in a float's integer view all greater ones are NaN. float8_e4m3fn has no
# infinity, and one NaN of each sign.
_INFINITY = {
    "F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F
}  # fmt: skip


def all_finite(data: np.ndarray, dtype: str) -> bool:
    """Whether floats of `dtype` (as safetensors names it) in `data` (1-D uint8) hold no NaN and no infinity.

    Two maxima over the bits as integers: signed ones put positive values on top, unsigned ones negative values. Several
    times faster than looking at floats, for bfloat16 most of all.
    """
    itemsize = DTYPES[dtype].itemsize
    infinity, sign = _INFINITY[dtype], 1 << (8 * itemsize - 1)
    if not len(data):
        return True
    positive, negative = data.view(f"i{itemsize}").max(), data.view(f"u{itemsize}").max()
    return bool(positive < infinity and negative < infinity + sign)
