"""What every container of a volume offers: sections to read, and a copy to write to.

A volume is never written to. It is copied byte for byte, and the copy is given other
pixels where they were invented, so that whatever else it holds stays as it is.
"""

import abc
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.patches import Patch

AXES = "zyx"
NANOMETERS = {"nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "meter": 1e9}
BLOCK = 2**28  # bytes of pixels that are held at once, at most, or else one section
Plane = Callable[[int], np.ndarray | None]  # position -> [H, W]; None where all are 0


class Voxel(NamedTuple):
    """Size of a voxel.

    Attributes:
      size: along z, y and x.
      unit: "nanometer", "micrometer", "millimeter" or another word of the file; "" if
        it does not say.
    """

    size: tuple[float, float, float]
    unit: str

    def __str__(self) -> str:
        return f"{' x '.join(f'{n:g}' for n in self.size)} {self.unit or '(no unit)'}"


class Volume(abc.ABC):
    """A stack of sections in a file or a folder; a context manager that closes it.

    Attributes:
      path: of the file or folder.
      kind: of container, for people.
      shape: sections, height, width, channels (1 or 3).
      dtype: of the pixels, in this machine's byte order.
      axis: which of "zyx" counts the sections.
      voxel: size of a voxel; None where the file does not say.
      depth: adjacent sections that are best read at once, for they share chunks.
      notes: sentences about what is not as anybody would expect.
    """

    path: Path
    kind: str
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    axis: str = "z"
    voxel: Voxel | None = None
    depth: int = 1
    notes: tuple[str, ...] = ()

    def __enter__(self) -> "Volume":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 (most hold nothing open)
        """Closes files."""

    @abc.abstractmethod
    def read(self, first: int, last: int) -> np.ndarray:
        """Sections first to last - 1, [n, H, W, C].

        Raises:
          ImageFileError: they are damaged.
        """

    def section(self, z: int) -> np.ndarray:
        """One section, [H, W, C]."""
        return self.read(z, z + 1)[0]

    def label(self, z: int) -> str:
        """What a section is called in messages."""
        return f"section {z}"

    def files(self) -> list[Path]:
        """What is copied: relative paths, "." of a single file."""
        return files_below(self.path)

    def written_name(self) -> str:
        """The name that the restored volume gets."""
        return self.path.name

    @abc.abstractmethod
    def reopen(self, target: Path) -> "Volume":
        """Opens the copy, with a fresh reader of its own."""

    @abc.abstractmethod
    def apply(self, target: Path, patches: Callable[[int], Patch | None]) -> None:
        """Writes patches into a copy.

        Args:
          target: the copy.
          patches: position -> what was invented there, or None.

        Raises:
          ImageFileError: the container cannot be written as it was.
        """

    @abc.abstractmethod
    def layer_name(self, word: str) -> str:
        """The name of a volume that goes beside this one."""

    @abc.abstractmethod
    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """Writes a volume of the same grid and one channel.

        Args:
          target: the file or folder, which is not there yet.
          dtype: of the pixels.
          plane: what each section holds.
        """

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 of sections that are read at once, through the volume."""
        step = block_depth(self.depth, self.shape, self.dtype)
        for first in range(0, self.shape[0], step):
            yield first, min(first + step, self.shape[0])


def block_depth(depth: int, shape: Sequence[int], dtype: np.dtype) -> int:
    """As many sections of a chunk as may be held at once; a whole number of shares."""
    room = max(1, BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))
    return max(1, min(depth, room))


def files_below(path: Path) -> list[Path]:
    """Files below a folder, by relative path; "." of a file.

    Raises:
      ImageFileError: a folder that is a link, which a copy would not hold.
    """
    if not path.is_dir():
        return [Path(".")]
    found = []
    for folder, below, names in os.walk(path):
        here = Path(folder)
        for name in below:
            if (here / name).is_symlink():
                raise ImageFileError(
                    f"{here / name}: is a link to a folder; copy what it points to."
                )
        found += [(here / name).relative_to(path) for name in names]
    return sorted(found)


def copy_files(
    source: Path, files: Sequence[Path], target: Path, each: Callable[[], None]
) -> str:
    """Copies files byte for byte, a block at a time.

    Args:
      source: file, or folder of the files.
      files: relative paths, "." of a single file.
      target: the copy.
      each: called before each block; may raise to end it.

    Returns:
      SHA-256 as `digest` of the source.
    """
    return _digest(source, files, target, each)


def digest(path: Path, files: Sequence[Path], each: Callable[[], None]) -> str:
    """SHA-256 of a file, or of the names and digests of the files of a folder."""
    return _digest(path, files, None, each)


def _digest(
    source: Path, files: Sequence[Path], target: Path | None, each: Callable[[], None]
) -> str:
    total = hashlib.sha256()
    for name in files:
        one = hashlib.sha256()
        with open(source / name, "rb") as file:
            copy: Any = None
            if target is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                copy = open(target / name, "wb")
            try:
                while data := file.read(2**24):
                    each()
                    one.update(data)
                    if copy is not None:
                        copy.write(data)
            finally:
                if copy is not None:
                    copy.close()
        if list(files) == [Path(".")]:
            return one.hexdigest()
        total.update(name.as_posix().encode() + b"\0" + one.digest())
    return total.hexdigest()


class Grid(NamedTuple):
    """Sections of an array that is read and written by slices.

    Attributes:
      array: of numpy, h5py or tensorstore.
      axes: of it, that count sections, rows and columns; there is nothing along others.
    """

    array: Any
    axes: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections, rows, columns."""
        one, two, three = (int(self.array.shape[a]) for a in self.axes)
        return one, two, three

    def read(
        self,
        first: int,
        last: int,
        rows: slice = slice(None),  # noqa: B008
        columns: slice = slice(None),  # noqa: B008
    ) -> np.ndarray:
        """Reads [last - first, h, w], a copy that may be written to."""
        got = np.asarray(self.array[self._index(first, last, rows, columns)])
        got = got.transpose(self._ranks())
        return np.array(got, got.dtype.newbyteorder("="), order="C")

    def write(self, first: int, top: int, left: int, values: np.ndarray) -> None:
        """Writes [n, h, w]."""
        count, height, width = values.shape
        rows, columns = slice(top, top + height), slice(left, left + width)
        index = self._index(first, first + count, rows, columns)
        self.array[index] = values.transpose(np.argsort(self._ranks()))

    def _index(
        self, first: int, last: int, rows: slice, columns: slice
    ) -> tuple[int | slice, ...]:
        index: list[int | slice] = [0] * len(self.array.shape)
        parts = (slice(first, last), rows, columns)
        for axis, part, size in zip(self.axes, parts, self.shape, strict=True):
            index[axis] = slice(*part.indices(size))
        return tuple(index)

    def _ranks(self) -> list[int]:
        return [sorted(self.axes).index(a) for a in self.axes]


def section_axes(names: str, axis: str) -> tuple[int, int, int]:
    """Where an array has its sections, rows and columns.

    Args:
      names: of the axes of the array, among which z, y and x stand once.
      axis: which of "zyx" counts the sections.
    """
    rows, columns = (name for name in AXES if name != axis)
    return names.index(axis), names.index(rows), names.index(columns)


def paste_into(
    grid: Grid, depth: int, patches: Callable[[int], Patch | None], dtype: np.dtype
) -> None:
    """Writes patches into an array: a block of sections at once, and of it the box.

    Args:
      grid: that is written to.
      depth: sections of a chunk.
      patches: position -> what was invented there, or None.
      dtype: of the pixels.
    """
    shape = grid.shape
    step = block_depth(depth, shape, dtype)
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        own = {z: one for z in range(first, last) if (one := patches(z)) is not None}
        if not own:
            continue
        low, high = min(own), max(own) + 1
        rows, columns = union([one.box for one in own.values()])
        block = grid.read(low, high, rows, columns)
        for z, one in own.items():
            moved = one._replace(
                top=one.top - rows.start, left=one.left - columns.start
            )
            moved.paste(block[z - low, ..., None])
        grid.write(low, rows.start, columns.start, block)


def union(boxes: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    """The smallest box around boxes."""
    rows, columns = zip(*boxes, strict=True)
    return (
        slice(min(r.start for r in rows), max(r.stop for r in rows)),
        slice(min(c.start for c in columns), max(c.stop for c in columns)),
    )


def pages(plane: Plane, shape: Sequence[int], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Every section of a layer [H, W], also those that are all 0."""
    empty = np.zeros(tuple(shape[1:3]), dtype)
    for z in range(shape[0]):
        own = plane(z)
        yield empty if own is None else own
