"""Reads PyTorch weight files without PyTorch, and without running what they hold.

Two formats are read. Since 1.6 a file is a zip of stored members: `NAME/data.pkl`, the
pickled dict, and `NAME/data/KEY`, the bytes of each storage. From 0.1.10 to 1.5, and
for most public files of those years, it is a row of pickles (magic number, protocol
1001, byte order, the dict, the list of storage keys) followed by the storages, each an
int64 count and its elements. The tar files of 2016 are refused.
"""

import io
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxinpaint.features.foreign_file import (
    MAX_HEADER,
    MAX_TENSORS,
    ForeignFileError,
    typed,
)
from jaxinpaint.features.torch_pickle import Storage, Tensor, read_pickle

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"  # the op PROTO, with which a pickle begins
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_MEMBERS = MAX_TENSORS + 100  # of a zip; all but a few are storages
_MAX_DEPTH = 16  # of dicts in dicts
_MAX_NAME = 1024  # characters
_CHUNK = 2**20

_log = logging.getLogger(__name__)


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a `.pth`, `.pt` or `.bin` file that `torch.save` wrote.

    Nested dicts, lists and tuples become one dict, names joined by dots: the weight of
    {"state_dict": {"conv.weight": ...}} is "state_dict.conv.weight". A parameter is
    its tensor. What is no tensor (a step, an epoch, a date) is left out and named in
    one log line. Tensors that share a storage share it here too, and a transposed one
    is a view, so reading takes the size of the file once.

    Args:
      path: the file, in the zip format or in the one before it.

    Returns:
      Name to read-only array, in the order of the file: float16, float32, float64,
      bfloat16 (of ml_dtypes), int8 to int64, uint8, bool; every bit as in the file.

    Raises:
      ForeignFileError: not of this format, damaged, or one that holds anything else
        than tensors and plain values in dicts, lists and tuples; nothing in it is run.
      OSError: the file is not there or may not be read.

    Source: R10.
    """
    where = str(path)
    with open(path, "rb") as file:
        head = file.read(len(ZIP))
        file.seek(0)
        if head == ZIP:
            tree, storages = _read_zip(file, where)
        elif head.startswith(PICKLE):
            tree, storages = _read_legacy(file, where)
        else:
            raise ForeignFileError(
                f"{where}: is no PyTorch file, it begins with {head!r}; get it again, "
                "or save a tar of 2016 anew with a later torch."
            )
    if type(tree) is not dict:
        raise ForeignFileError(
            f"{where}: holds a {type(tree).__name__}, not a dict of tensors; save "
            "model.state_dict()."
        )
    tensors: dict[str, np.ndarray] = {}
    left_out = []
    for count, (name, leaf) in enumerate(_flat(tree, "", where, 0)):
        if count >= MAX_TENSORS:
            raise ForeignFileError(f"{where}: holds more than {MAX_TENSORS} values.")
        if name in tensors:
            raise ForeignFileError(
                f"{where}: two tensors are named {name!r}; save model.state_dict() "
                "alone."
            )
        if type(leaf) is Tensor:
            tensors[name] = _array(leaf, storages[leaf.storage.key])
        else:
            left_out.append(name)
    if left_out:
        more = f" and {len(left_out) - 10} more" if len(left_out) > 10 else ""
        named = ", ".join(ascii(name) for name in left_out[:10])
        _log.warning("%s: left out what is no tensor: %s%s", where, named, more)
    return tensors


def _flat(tree: Any, name: str, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yields the leaves under their joined names."""
    if depth > _MAX_DEPTH or len(name) > _MAX_NAME:
        raise ForeignFileError(
            f"{where}: dicts lie more than {_MAX_DEPTH} deep, or a name is longer than "
            f"{_MAX_NAME} characters; save model.state_dict() alone."
        )
    if type(tree) is dict and tree:
        items: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif type(tree) in (list, tuple) and tree:
        items = iter(enumerate(tree))
    else:
        yield name, tree
        return
    for key, value in items:
        yield from _flat(value, f"{name}.{key}" if name else str(key), where, depth + 1)


def _array(tensor: Tensor, memory: np.ndarray) -> np.ndarray:
    size = tensor.storage.dtype.itemsize
    array: np.ndarray = np.ndarray(
        tensor.shape,
        tensor.storage.dtype,
        memory if memory.size else None,
        offset=tensor.offset * size,
        strides=tuple(n * size for n in tensor.strides) if memory.size else None,
    )
    array.flags.writeable = False
    return array


class _SmallReads(io.BufferedReader):
    """A file that will not hand out much at once.

    `zipfile` reads the whole directory in one call, as large as the file declares it,
    and makes an object of every 46 bytes.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        if size > MAX_HEADER:
            raise ValueError(f"its directory exceeds {MAX_HEADER} bytes")
        return super().read(size)


def _read_zip(file: BinaryIO, where: str) -> tuple[Any, Mapping[str, np.ndarray]]:
    """The tree of a file of torch 1.6 and later, and the storages it uses."""
    try:
        with _SmallReads(io.FileIO(file.fileno(), closefd=False)) as small:
            with zipfile.ZipFile(small) as archive:
                return _read_members(archive, os.fstat(file.fileno()).st_size, where)
    except (ForeignFileError, MemoryError):
        raise
    except Exception as error:  # zipfile raises many types at damaged files
        raise ForeignFileError(
            f"{where}: is a damaged zip ({error}); get the file again."
        ) from error


def _read_members(
    archive: zipfile.ZipFile, size: int, where: str
) -> tuple[Any, Mapping[str, np.ndarray]]:
    members = archive.infolist()
    by_name = {member.filename: member for member in members}
    if len(members) > _MAX_MEMBERS or len(by_name) < len(members):
        raise ForeignFileError(
            f"{where}: has {len(members)} members, more than {_MAX_MEMBERS} or two of "
            "one name; get the file again."
        )
    for member in members:
        packed = member.compress_type != zipfile.ZIP_STORED
        if packed or member.file_size != member.compress_size:
            raise ForeignFileError(
                f"{where}: {member.filename[:200]!r} is compressed, torch stores its "
                "members as they are; unpack the zip, it may hold the weight file."
            )
    if sum(member.file_size for member in members) > size:
        raise ForeignFileError(
            f"{where}: its members overlap or are cut short; get the file again."
        )
    pickles = [n for n in by_name if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ForeignFileError(
            f"{where}: is a zip with {len(pickles)} data.pkl where torch writes one; "
            "unpack it, it may hold the weight file."
        )
    folder = pickles[0].removesuffix("data.pkl")
    order = by_name.get(f"{folder}byteorder")
    if order and (order.file_size > 6 or archive.read(order) != b"little"):
        raise ForeignFileError(
            f"{where}: is big endian; save it again on a little endian machine."
        )
    if by_name[pickles[0]].file_size > MAX_HEADER:
        raise ForeignFileError(
            f"{where}: its data.pkl exceeds {MAX_HEADER} bytes; save "
            "model.state_dict() alone."
        )
    declared: dict[str, Storage] = {}
    pickled = io.BytesIO(archive.read(by_name[pickles[0]]))
    tree = read_pickle(pickled, where, declared)
    if pickled.read(1):
        raise ForeignFileError(f"{where}: its data.pkl goes on; get the file again.")
    storages = {}
    for key, storage in declared.items():
        raw = by_name.get(f"{folder}data/{key}")
        if raw is None or raw.file_size != _bytes_of(storage):
            found = "no" if raw is None else raw.file_size
            raise ForeignFileError(
                f"{where}: storage {key} declares {_bytes_of(storage)} bytes and has "
                f"{found}; get the file again."
            )
        data = np.empty(raw.file_size, np.uint8)
        with archive.open(raw) as stream:  # checks the sum at its end
            for begin in range(0, data.size, _CHUNK):
                part = data[begin : begin + _CHUNK]
                part[:] = np.frombuffer(stream.read(part.size), np.uint8)
        storages[key] = typed(f"{where}: storage {key}", data, storage.dtype)
    return tree, storages


def _read_legacy(file: BinaryIO, where: str) -> tuple[Any, Mapping[str, np.ndarray]]:
    """The tree of a file of torch 0.1.10 to 1.5, and its storages."""
    size = os.fstat(file.fileno()).st_size
    head = io.BytesIO(file.read(min(size, MAX_HEADER)))
    declared: dict[str, Storage] = {}
    magic, protocol, system = (read_pickle(head, where, {}) for _ in range(3))
    if type(magic) is not int or magic != _MAGIC or protocol != _PROTOCOL:
        raise ForeignFileError(
            f"{where}: is a pickle, but not one that torch.save wrote; convert it with "
            "the program that it came from."
        )
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ForeignFileError(
            f"{where}: is big endian; save it again on a little endian machine."
        )
    tree = read_pickle(head, where, declared)
    keys = read_pickle(head, where, {})
    _refuse_keys(keys, declared, where)
    left = size - file.seek(head.tell())
    storages = {}
    for key in keys:
        storage = declared[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        left -= 8 + _bytes_of(storage)
        if left < 0 or count != storage.size:
            raise ForeignFileError(
                f"{where}: storage {key} declares {storage.size} elements and is cut "
                "short or has others; get the file again."
            )
        data = np.fromfile(file, np.uint8, _bytes_of(storage))
        storages[key] = typed(f"{where}: storage {key}", data, storage.dtype)
    if left:
        raise ForeignFileError(
            f"{where}: {left} bytes follow the last storage; get the file again."
        )
    return tree, storages


def _refuse_keys(keys: Any, declared: Mapping[str, Storage], where: str) -> None:
    texts: Sequence[Any] = keys if type(keys) is list else [None]
    if any(type(key) is not str for key in texts) or sorted(texts) != sorted(declared):
        raise ForeignFileError(
            f"{where}: the storages that follow are not those its tensors need; get "
            "the file again."
        )


def _bytes_of(storage: Storage) -> int:
    return storage.size * storage.dtype.itemsize
