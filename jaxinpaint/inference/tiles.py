"""Restores pictures of any size in tiles around their holes, at full resolution.

A hole that fits into a tile with context around it is painted by that tile alone, which
has it in the middle. A larger one is painted by several that overlap, and blended.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Restore = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
MOST_HOLE = 0.75  # of a tile; above it the tile grows until it sees more


class Tile(NamedTuple):
    """A part of a picture that is restored at once.

    Attributes:
      rows: of the picture.
      columns: of the picture.
      weight: [h, w] float32, how much each of its pixels counts among the tiles that
        paint it; 0 where it paints none.
    """

    rows: slice
    columns: slice
    weight: np.ndarray


def cover(hole: np.ndarray, side: int, overlap: int, *, blind: bool) -> list[Tile]:
    """Finds tiles that paint every pixel of a hole.

    A picture of at most `side` x `side` is one tile. In a larger one, holes that fit
    together into a tile with `overlap` pixels of context share one. A tile of which
    more than three quarters are hole grows, up to the picture.

    Args:
      hole: [H, W] bool; all True where nobody knows where it is.
      side: height and width of a tile, in pixels; at the picture's own it ends.
      overlap: context around a hole, and overlap of tiles in a larger one, in pixels.
      blind: whether the network is told no hole; then no tile grows.

    Returns:
      The tiles; none if there is no hole.

    Raises:
      ValueError: `overlap` is not in 0 to a third of `side`.
    """
    if not 0 <= 3 * overlap <= side:
        raise ValueError(
            f"tiles of {side} pixels overlap by 0 to {side // 3}, got {overlap}."
        )
    if not hole.any():
        return []
    height, width = hole.shape
    if max(height, width) <= side:
        return [Tile(slice(0, height), slice(0, width), hole.astype(np.float32))]
    labels, _ = ndimage.label(hole, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    room = np.array([n if n <= side else side - 2 * overlap for n in hole.shape])
    groups: list[tuple[list[int], np.ndarray, np.ndarray]] = []  # labels, low, high
    tiles = []
    for index, box in enumerate(boxes, start=1):
        low, high = (np.array(ends) for ends in zip(*map(_ends, box), strict=True))
        if (high - low > room).any():
            tiles += _grid(labels == index, low, high, side, overlap, blind, hole)
            continue
        for own, first, last in groups:
            joint = np.minimum(first, low), np.maximum(last, high)
            if (joint[1] - joint[0] <= room).all():
                own.append(index)
                first[:], last[:] = joint
                break
        else:
            groups.append(([index], low, high))
    for own, low, high in groups:
        rows, columns = _window((low + high) / 2, side, hole, blind)
        weight = np.isin(labels[rows, columns], own).astype(np.float32)
        tiles.append(Tile(rows, columns, weight))
    return tiles


def restore_pictures(
    restore: Restore,
    pictures: Sequence[Mapping[str, np.ndarray]],
    tiles: Sequence[Sequence[Tile]],
    batch_size: int,
) -> list[np.ndarray]:
    """Restores pictures tile by tile; tiles of one size share batches.

    Args:
      restore: batch -> images by name, of which "completed" is taken, such as
        `restore.predictor` makes.
      pictures: `image` [H, W, C] and whatever else `restore` reads, each of its height
        and width.
      tiles: of each, as `cover` finds them.
      batch_size: tiles of a batch; the last one is filled up with its last tile.

    Returns:
      The completed pictures; pixels that no tile paints are those of `image`, bit for
      bit. Where tiles overlap, integers are rounded once more.
    """
    total = [np.zeros(p["image"].shape, np.float64) for p in pictures]
    share = [np.zeros((*p["image"].shape[:2], 1), np.float64) for p in pictures]
    alike: dict[tuple, list[tuple[int, Tile]]] = {}
    for at, (picture, own) in enumerate(zip(pictures, tiles, strict=True)):
        for tile in own:
            kinds = {name: (a.dtype.str, a.shape[2:]) for name, a in picture.items()}
            key = (tile.weight.shape, tuple(sorted(kinds.items())))
            alike.setdefault(key, []).append((at, tile))
    for places in alike.values():
        for first in range(0, len(places), batch_size):
            some = places[first : first + batch_size]
            rows = some + some[-1:] * (batch_size - len(some))
            parts = [cut(pictures[at], tile) for at, tile in rows]
            batch = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            made = restore(batch)["completed"]
            for image, (at, tile) in zip(made, some, strict=False):
                weight = tile.weight[..., None]
                total[at][tile.rows, tile.columns] += weight * image
                share[at][tile.rows, tile.columns] += weight
    return [
        _blend(picture["image"], summed, shares)
        for picture, summed, shares in zip(pictures, total, share, strict=True)
    ]


def cut(picture: Mapping[str, np.ndarray], tile: Tile) -> dict[str, np.ndarray]:
    """A tile of a picture as a batch of one."""
    return {
        name: np.ascontiguousarray(array[tile.rows, tile.columns])[None]
        for name, array in picture.items()
    }


def _ends(box: slice) -> tuple[int, int]:
    return box.start, box.stop


def _grid(
    own: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    side: int,
    overlap: int,
    blind: bool,
    hole: np.ndarray,
) -> list[Tile]:
    """Overlapping tiles over the box of one large hole; those without it are left out."""
    first, last = np.maximum(0, low - overlap), np.minimum(own.shape, high + overlap)
    middles = [
        _middles(int(start), int(stop), side, overlap)
        for start, stop in zip(first, last, strict=True)
    ]
    tiles, seen = [], set()
    for middle in itertools.product(*middles):
        if not own[_window(middle, side, own, blind=True)].any():
            continue
        rows, columns = _window(middle, side, hole, blind)
        place = (*_ends(rows), *_ends(columns))
        if place in seen:  # grown to the same
            continue
        seen.add(place)
        part = own[rows, columns]
        tiles.append(Tile(rows, columns, np.where(part, _tent(part.shape), 0)))
    return tiles


def _middles(start: int, stop: int, side: int, overlap: int) -> list[float]:
    """Middles of tiles that cover start to stop, evenly, by at least `overlap`."""
    if stop - start <= side:
        return [(start + stop) / 2]
    count = -(-(stop - start - overlap) // (side - overlap))
    return np.linspace(start + side / 2, stop - side / 2, count).tolist()


def _window(
    middle: Sequence[float] | np.ndarray, side: int, hole: np.ndarray, blind: bool
) -> tuple[slice, slice]:
    """A square about a place, moved into the picture, large enough to see context."""
    while True:
        parts = []
        for place, size in zip(middle, hole.shape, strict=True):
            own = min(side, size)
            start = min(max(0, round(place - own / 2)), size - own)
            parts.append(slice(start, start + own))
        rows, columns = parts
        whole = side >= max(hole.shape)
        if blind or whole or hole[rows, columns].mean() <= MOST_HOLE:
            return rows, columns
        side *= 2


def _tent(shape: tuple[int, ...]) -> np.ndarray:
    """Falls from the middle of a tile to its edges, where it is small but not 0."""
    slopes = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in shape]
    return np.minimum.outer(*slopes).astype(np.float32)


def _blend(image: np.ndarray, summed: np.ndarray, share: np.ndarray) -> np.ndarray:
    painted = share > 0
    values = summed / np.where(painted, share, 1.0)
    if image.dtype.kind in "ui":
        values = np.floor(values + 0.5)
    return np.where(painted, values.astype(image.dtype), image)
