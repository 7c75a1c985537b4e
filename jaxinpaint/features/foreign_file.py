"""What the readers of foreign weight files share: the error, the limits, the shapes."""

import math
from typing import Any

import numpy as np

MAX_HEADER = 8 * 2**20  # bytes of a pickle or a JSON header; a usual one has 50 kB
MAX_TENSORS = 20_000
MAX_AXES = 32
MAX_ELEMENTS = 2**40  # of one tensor, empty axes counted as one


class ForeignFileError(ValueError):
    """A weight file that is damaged, hostile, too large or of a kind not read here."""


def refuse_shape(where: str, shape: Any) -> None:
    """Checks a shape that a file declares.

    Raises:
      ForeignFileError: not a tuple or list of whole numbers, or absurdly large.
    """
    listed = type(shape) in (tuple, list) and len(shape) <= MAX_AXES
    if not listed or any(type(n) is not int or n < 0 for n in shape):
        raise ForeignFileError(
            f"{where}: the shape is not at most {MAX_AXES} whole numbers; the file is "
            "damaged, get it again."
        )
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise ForeignFileError(
            f"{where}: the shape has more than {MAX_ELEMENTS} elements; the file is "
            "damaged, get it again."
        )


def typed(where: str, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Sees bytes (uint8 [N], a whole number of elements) as read-only `dtype`.

    Raises:
      ForeignFileError: a bool that is neither 0 nor 1.
    """
    if dtype.kind == "b" and (data > 1).any():
        raise ForeignFileError(
            f"{where}: holds a bool other than 0 and 1; the file is damaged, get it "
            "again."
        )
    array = data.view(dtype)
    array.flags.writeable = False
    return array
