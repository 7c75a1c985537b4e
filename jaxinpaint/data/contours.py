"""Pieces of a binary map: components, holes, enclosing circles, a piece at another size.

Maps are [H, W], 1 (or True) inside; points and centres are (row, column) with integer
pixel centres, so a pixel's own circle has radius 0.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from jaxinpaint.data.masks import expect_binary

_EIGHT = np.ones((3, 3), bool)
# Bilinear weights that are halves in exact arithmetic round to either side of 0.5.
_TIE = 1e-6


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the 8-connected pieces of a map.

    Args:
      mask: [H, W] of 0 and 1, or bool.

    Returns:
      int32 [H, W], 0 outside and 1 to count inside, numbered in raster order of their
      first pixels; and the count.

    Raises:
      ValueError: the map is not two-dimensional or holds other values.

    Source: glomeruli specification 5.5, step 1.
    """
    labels, count = ndimage.label(_map("components", mask), structure=_EIGHT)
    return labels.astype(np.int32, copy=False), int(count)


def largest(mask: np.ndarray) -> np.ndarray:
    """The 8-connected piece with most pixels, of equals the first in raster order.

    Args:
      mask: [H, W] of 0 and 1, or bool.

    Returns:
      uint8 [H, W]; all 0 where the map is.

    Raises:
      ValueError: the map is not two-dimensional or holds other values.
    """
    labels, count = components(mask)
    if not count:
        return np.zeros(labels.shape, np.uint8)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)[1:]
    return (labels == 1 + int(areas.argmax())).astype(np.uint8)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Sets every 0 that cannot reach the border by steps to its four neighbours.

    Four, since the inside is 8-connected: a diagonal line closes.

    Args:
      mask: [H, W] of 0 and 1, or bool.

    Returns:
      uint8 [H, W].

    Raises:
      ValueError: the map is not two-dimensional or holds other values.

    Source: glomeruli specification 8.2, step 2.
    """
    return ndimage.binary_fill_holes(_map("fill_holes", mask)).astype(np.uint8)


def enclosing_circle(points: np.ndarray) -> tuple[float, float, float]:
    """The smallest circle that holds all points.

    It goes through two or three corners of the convex hull, found by adding corner after
    corner: one that lies outside the circle so far lies on the next.

    Args:
      points: [N, 2] finite (row, column), N at least 1; points may repeat.

    Returns:
      Row and column of the centre, and the radius: the distance to the farthest point.

    Raises:
      ValueError: another shape, no point, or one that is not finite.

    Source: glomeruli specification 5.5, step 2.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"enclosing_circle: points must be [N, 2] with N >= 1, got "
            f"{list(points.shape)}."
        )
    if not np.isfinite(points).all():
        raise ValueError("enclosing_circle: a point is not finite; drop it first.")
    corners = _corners(points)
    centre, radius2 = corners[0], 0.0
    for i, first in enumerate(corners):
        if _holds(centre, radius2, first):
            continue
        centre, radius2 = first, 0.0
        for j, second in enumerate(corners[:i]):
            if _holds(centre, radius2, second):
                continue
            centre, radius2 = _through((first + second) / 2, second)
            for third in corners[:j]:
                if not _holds(centre, radius2, third):
                    centre, radius2 = _around(first, second, third)
    radius = np.sqrt(((corners - centre) ** 2).sum(-1).max())
    return float(centre[0]), float(centre[1]), float(radius)


def rescale(
    mask: np.ndarray, scale: float, centre: tuple[float, float], size: int
) -> np.ndarray:
    """A piece at another size, in the middle of a square window.

        out[p] = 1 where bilinear(mask, centre + (p - (size - 1) / 2) / scale) >= 0.5

    The map counts as 0 beyond its border. Of what remains, the largest 8-connected piece
    is kept.

    Args:
      mask: [H, W] of 0 and 1, or bool.
      scale: size of the piece after / before, > 0.
      centre: row and column in `mask` of the point that goes to the window's middle.
      size: side of the window, in pixels.

    Returns:
      uint8 [size, size]; all 0 where nothing reaches one half.

    Raises:
      ValueError: a map of another kind, or a scale or size that is not positive.

    Source: glomeruli specification 8.2, steps 3 and 4.
    """
    inside = _map("rescale", mask)
    if not scale > 0 or size < 1:
        raise ValueError(
            f"rescale: scale and size must be positive, got {scale} and {size}."
        )
    offset = np.asarray(centre, np.float64) - (size - 1) / 2 / scale
    level = ndimage.affine_transform(
        inside.astype(np.float64),
        np.full(2, 1 / scale),
        offset,
        output_shape=(size, size),
        order=1,
        mode="grid-constant",
        cval=0.0,
    )
    return largest(level >= 0.5 - _TIE)


def _map(where: str, mask: np.ndarray) -> np.ndarray:
    """The map as bool [H, W]."""
    if np.ndim(mask) != 2:
        raise ValueError(f"{where}: mask must be [H, W], got {list(np.shape(mask))}.")
    if mask.dtype != bool:
        expect_binary(where, mask[..., None])
    return mask.astype(bool, copy=False)


def _corners(points: np.ndarray) -> np.ndarray:
    """Corners [M, 2] of the convex hull; of points on one line, its ends."""
    points = np.unique(points, axis=0)
    if len(points) < 3:
        return points
    try:
        return points[np.sort(ConvexHull(points).vertices)]
    except QhullError:  # one line: sorted by row, then column, its ends come out
        return points[[0, -1]]


def _holds(centre: np.ndarray, radius2: float, point: np.ndarray) -> bool:
    return bool(((point - centre) ** 2).sum() <= radius2 * (1 + 1e-12) + 1e-18)


def _through(centre: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float]:
    return centre, float(((point - centre) ** 2).sum())


def _around(
    first: np.ndarray, second: np.ndarray, third: np.ndarray
) -> tuple[np.ndarray, float]:
    """The circle through three points: equally far from all means two linear equations."""
    sides = np.stack((second - first, third - first))
    centre = first + np.linalg.solve(sides, (sides**2).sum(-1) / 2)
    return _through(centre, first)
