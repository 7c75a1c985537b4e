"""Reads public weight files, PyTorch's and safetensors, as dicts of numpy arrays.

Foreign files are untrusted: whatever is wrong with one ends in `ForeignFileError`,
which names the file, and none of them can make this process run, import or write
anything, or take much more memory than the file is long.
"""

from pathlib import Path

import numpy as np

from jaxinpaint.features.foreign_file import ForeignFileError
from jaxinpaint.features.safetensors_file import read_safetensors
from jaxinpaint.features.torch_file import PICKLE, ZIP, read_torch

__all__ = ["ForeignFileError", "read_safetensors", "read_torch", "read_weights"]


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a weight file by what it holds, whatever its name ends in.

    Returns:
      As `read_torch` or `read_safetensors`.

    Raises:
      ForeignFileError: neither of them, or as they raise.
      OSError: the file is not there or may not be read.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # never so in torch's formats, whose first bytes are fixed
        return read_safetensors(path)
    if head.startswith((ZIP, PICKLE)):
        return read_torch(path)
    raise ForeignFileError(
        f"{path}: is neither a PyTorch nor a safetensors file, it begins with "
        f"{head!r}; get it again, and look whether a web page came instead."
    )
