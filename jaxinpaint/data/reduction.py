"""Images and masks at a lower resolution, by the mean of the area of each pixel."""

import math
from collections.abc import Callable

import numpy as np

_TIE = 1e-9  # what is a half in exact arithmetic rounds up in floats, too


def nearest_factor(factor: float) -> float:
    """The whole number that a factor is meant to be, or the factor itself.

    Assumption: resolutions are written as rounded numbers (0.499 um/px is half of 1.0),
    so within 5 % of a whole number the factor is that number, and nothing is resampled
    for the sake of a rounding.
    """
    whole = max(round(factor), 1)
    return float(whole) if abs(factor - whole) <= 0.05 * whole else factor


def reduced_side(side: int, factor: float) -> int:
    """Rows or columns that remain of a side; what does not fill a pixel is dropped."""
    return int(math.floor(side / factor + _TIE))


def reduced_region(
    read: Callable[[int, int, int, int], np.ndarray],
    size: tuple[int, int],
    factor: float,
    place: tuple[int, int, int, int],
    block: int,
) -> np.ndarray:
    """A region at lower resolution of an image that is read by regions.

    Args:
      read: (top, left, height, width) of the source -> uint8 [h, w, C].
      size: rows and columns of the source.
      factor: source pixels of a pixel, along each side; at least 1.
      place: (top, left, height, width) of the region in reduced pixels.
      block: source pixels that are read at once, along each side.

    Returns:
      uint8 [height, width, C], means of areas rounded half up; the same however the
      image is divided into regions.

    Source: glomeruli specification 5.4.
    """
    if factor == 1:
        return read(*place)
    top, left, height, width = place
    step = max(int(block / factor), 1)
    rows = []
    for y in range(top, top + height, step):
        row = []
        h = min(step, top + height - y)
        for x in range(left, left + width, step):
            w = min(step, left + width - x)
            y0, y1 = _span(y, h, factor, size[0])
            x0, x1 = _span(x, w, factor, size[1])
            pixels = read(y0, x0, y1 - y0, x1 - x0)
            total = _sums(pixels, factor, (y0, x0), (y, x, h, w))
            mean = np.floor(total / factor**2 + 0.5 + _TIE)
            row.append(np.minimum(mean, 255).astype(np.uint8))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def reduced_mask(mask: np.ndarray, factor: float) -> np.ndarray:
    """A mask at lower resolution: 1 where at least half of the area is.

    Args:
      mask: uint8 [H, W] of 0 and 1.
      factor: pixels of a new pixel, along each side; at least 1.

    Returns:
      uint8 [H // factor, W // factor].

    Source: glomeruli specification 5.4.
    """
    if factor == 1:
        return mask
    height, width = (reduced_side(side, factor) for side in mask.shape)
    place = (0, 0, height, width)
    total = _sums(mask[..., None], factor, (0, 0), place)[..., 0]
    return (total >= 0.5 * factor**2 - _TIE).astype(np.uint8)


def _span(start: int, count: int, factor: float, side: int) -> tuple[int, int]:
    """The source pixels that a run of reduced pixels touches."""
    low = math.floor(start * factor + _TIE)
    high = math.ceil((start + count) * factor - _TIE)
    return low, min(high, side)


def _sums(
    pixels: np.ndarray,
    factor: float,
    corner: tuple[int, int],
    place: tuple[int, int, int, int],
) -> np.ndarray:
    """Sums over the area of each reduced pixel, [h, w, C]."""
    top, left, height, width = place
    if factor.is_integer():
        f = int(factor)
        blocks = pixels[: height * f, : width * f].reshape(
            height, f, width, f, pixels.shape[-1]
        )
        return blocks.sum(axis=(1, 3), dtype=np.int64)
    rows = _weights(top, height, factor, corner[0], pixels.shape[0])
    columns = _weights(left, width, factor, corner[1], pixels.shape[1])
    along = np.einsum("yh,hwc->ywc", rows, pixels.astype(np.float64))
    return np.einsum("xw,ywc->yxc", columns, along)


def _weights(
    start: int, count: int, factor: float, corner: int, side: int
) -> np.ndarray:
    """How much of each source pixel belongs to each reduced one, [count, side]."""
    low = ((start + np.arange(count)) * factor)[:, None]
    at = corner + np.arange(side)[None]
    shared = np.minimum(low + factor, at + 1) - np.maximum(low, at)
    return np.clip(shared, 0, 1)
