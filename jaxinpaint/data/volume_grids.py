"""Volumes that are arrays read and written by slices, and their smaller levels."""

import abc
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.patches import Patch
from jaxinpaint.data.volume_files import (
    Grid,
    Plane,
    Volume,
    block_depth,
    paste_into,
    union,
)


class Opened(NamedTuple):
    """A copy that may be written to.

    Attributes:
      grid: at full resolution.
      levels: the same volume at lower resolutions.
    """

    grid: Grid
    levels: list[Grid]


class GridVolume(Volume):
    """An array of sections of one channel.

    Attributes:
      grid: the array, which is only read.
    """

    grid: Grid

    def read(self, first: int, last: int) -> np.ndarray:
        """See `Volume`."""
        try:
            return self.grid.read(first, last)[..., None]
        except Exception as error:  # libraries raise many types at damaged chunks
            raise ImageFileError(
                f"{self.path}: is damaged at sections {first} to {last - 1}: {error}"
            ) from error

    @abc.abstractmethod
    def opened(self, target: Path) -> contextlib.AbstractContextManager[Opened]:
        """Opens a copy, to be written to."""

    def apply(self, target: Path, patches: Callable[[int], Patch | None]) -> None:
        """See `Volume`."""
        with self.opened(target) as copy:
            paste_into(copy.grid, self.depth, patches, self.dtype)
            for level in copy.levels:
                pool_into(level, copy.grid, patches)


def write_planes(grid: Grid, depth: int, dtype: np.dtype, plane: Plane) -> None:
    """Writes a layer into an array of zeros; blocks that are 0 are left alone."""
    shape = grid.shape
    step = block_depth(depth, shape, dtype)
    for first in range(0, shape[0], step):
        planes = [plane(z) for z in range(first, min(first + step, shape[0]))]
        if any(one is not None for one in planes):
            empty = np.zeros(shape[1:], dtype)
            block = np.stack([empty if one is None else one for one in planes])
            grid.write(first, 0, 0, block)


def factors(level: Grid, full: Grid) -> tuple[int, int, int] | None:
    """How many voxels of the full grid one of a level stands for; None if not whole."""
    found = []
    for small, large in zip(level.shape, full.shape, strict=True):
        factor = max(1, round(large / small))
        if small not in (-(-large // factor), large // factor):
            return None
        found.append(factor)
    return found[0], found[1], found[2]


def pool_into(level: Grid, full: Grid, patches: Callable[[int], Patch | None]) -> None:
    """Brings a lower resolution up to date: the mean wherever a voxel was invented.

    Assumption: of levels made otherwise, by picking voxels or by a filter, nothing
    says how; voxels without anything invented below them stay as they are.

    Args:
      level: of whole factors, as `factors` tells.
      full: the volume with what was invented.
      patches: position -> what was invented there, or None.
    """
    by = factors(level, full)
    assert by is not None
    deep, tall, wide = by
    shape = level.shape
    for z in range(shape[0]):
        first, last = z * deep, min((z + 1) * deep, full.shape[0])
        own = {k: one for k in range(first, last) if (one := patches(k)) is not None}
        if not own:
            continue
        rows, columns = union([one.box for one in own.values()])
        top, left = rows.start // tall, columns.start // wide
        bottom = min(-(-rows.stop // tall), shape[1])
        right = min(-(-columns.stop // wide), shape[2])
        if bottom <= top or right <= left:
            continue  # in the last rows or columns, which an even size leaves out
        box = (
            slice(top * tall, min(bottom * tall, full.shape[1])),
            slice(left * wide, min(right * wide, full.shape[2])),
        )
        block = full.read(first, last, *box)
        marks = np.zeros(block.shape, bool)
        for k, one in own.items():
            whole = np.zeros(full.shape[1:], bool)
            whole[one.box] = one.hole
            marks[k - first] = whole[box]
        mean = _pool(block.astype(np.float64), (tall, wide), np.add)
        mean /= _pool(np.ones(block.shape), (tall, wide), np.add)
        touched = _pool(marks, (tall, wide), np.logical_or)
        before = level.read(z, z + 1, slice(top, bottom), slice(left, right))
        if before.dtype.kind in "ui":
            mean = np.floor(mean + 0.5)
        new = np.where(touched, mean.astype(before.dtype), before[0])
        level.write(z, top, left, new[None])


def _pool(block: np.ndarray, by: tuple[int, int], join: np.ufunc) -> np.ndarray:
    """Joins all sections of a block, and its rows and columns by factors; [h, w]."""
    flat = join.reduce(block, axis=0)
    for axis, factor in enumerate(by):
        flat = join.reduceat(flat, np.arange(0, flat.shape[axis], factor), axis=axis)
    return flat
