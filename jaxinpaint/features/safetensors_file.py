"""Reads safetensors files: eight bytes of length, a JSON header, the raw tensors."""

import json
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinpaint.features.foreign_file import (
    MAX_HEADER,
    MAX_TENSORS,
    ForeignFileError,
    refuse_shape,
    typed,
)

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_FIELDS = {"dtype", "shape", "data_offsets"}


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file; `__metadata__` is left out.

    The format allows headers of 100 MB; here 8 MiB is the limit, which 50,000 tensors
    do not reach and which bounds what a hostile header can make the parser take.

    Args:
      path: the file.

    Returns:
      Name to read-only array, in the order of the bytes: float16 to float64, bfloat16
      (of ml_dtypes), int8 to int64, uint8 to uint64, bool; every bit as in the file.

    Raises:
      ForeignFileError: not of this format, damaged, a name twice, offsets that
        overlap, leave holes, leave the file or do not fit dtype and shape.
      OSError: the file is not there or may not be read.

    Source: R10; the format's own description.
    """
    where = str(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ForeignFileError(
                f"{where}: declares a header of {length} bytes in a file of {size}, "
                f"{MAX_HEADER} are the limit; it is cut short, or no safetensors file."
            )
        entries = _entries(file.read(length), where)
        tensors = {}
        end = 0
        for name, (dtype, shape, begin, until) in entries:
            if begin != end or until - begin != math.prod(shape) * dtype.itemsize:
                raise ForeignFileError(
                    f"{where}: {name!r} lies at bytes {begin} to {until}, which "
                    f"overlap, leave a hole, or do not fit {dtype} {shape}; get the "
                    "file again."
                )
            if until > size - 8 - length:
                raise ForeignFileError(
                    f"{where}: {name!r} ends behind the file; get the file again."
                )
            data = np.fromfile(file, np.uint8, until - begin)
            tensors[name] = typed(f"{where}: {name!r}", data, dtype).reshape(shape)
            end = until
        if end != size - 8 - length:
            raise ForeignFileError(
                f"{where}: bytes follow the last tensor; get the file again."
            )
    return tensors


def _entries(header: bytes, where: str) -> list[tuple[str, tuple]]:
    """Names with dtype, shape and the bytes between which the data lie, by these."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a name stands there twice")
        return made

    try:
        content = json.loads(header.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(
            f"{where}: its header is damaged ({error}); get the file again."
        ) from error
    if type(content) is not dict or len(content) > MAX_TENSORS:
        raise ForeignFileError(
            f"{where}: its header is no dict of at most {MAX_TENSORS} tensors; get the "
            "file again."
        )
    content.pop("__metadata__", None)
    entries = []
    for name, entry in content.items():
        if type(entry) is not dict or entry.keys() != _FIELDS:
            raise ForeignFileError(
                f"{where}: {name[:200]!r} has not the fields {sorted(_FIELDS)}; get "
                "the file again."
            )
        kind, shape, offsets = (entry[k] for k in ("dtype", "shape", "data_offsets"))
        if type(kind) is not str or kind not in _DTYPES:
            raise ForeignFileError(
                f"{where}: {name[:200]!r} is {kind!r:.50}; convert it to one of "
                f"{', '.join(_DTYPES)}."
            )
        refuse_shape(f"{where}: {name[:200]!r}", shape)
        whole = type(offsets) is list and all(type(n) is int for n in offsets)
        if not whole or len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
            raise ForeignFileError(
                f"{where}: {name[:200]!r} has no two growing offsets; get the file "
                "again."
            )
        entries.append((name, (_DTYPES[kind], shape, *offsets)))
    return sorted(entries, key=lambda entry: entry[1][2:])
