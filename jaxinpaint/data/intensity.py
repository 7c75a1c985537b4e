"""Grey values of MR slices as 16-bit levels, and back.

A scanner's grey values have no unit, so each subject is brought to its own scale: `top`
is a high percentile of the subject's non-zero pixels, and

    level = round(65535 * clip(value / top, 0, 1)),    value = level * top / 65535.

The device then takes level 0, the background, to exactly -1 and `top` to 1. What the
levels lose is what lay above `top` or below 0, and half a level, top / 131070.
"""

from collections.abc import Iterable

import numpy as np

LAST = 65535


def subject_top(where: str, parts: Iterable[np.ndarray], percentile: float) -> float:
    """Finds the value that becomes the last level.

    Args:
      where: the subject, for messages.
      parts: its slices or volumes, of any real dtype.
      percentile: of the non-zero pixels of all parts together, by linear
        interpolation.

    Raises:
      ValueError: a percentile outside (0, 100], pixels that are not finite, or no
        positive value at the percentile.

    Source: ipA-MedGAN specification 5.1.
    """
    if not 0 < percentile <= 100:
        raise ValueError(
            f"config.data.percentile is {percentile}; it must be above 0, at most 100."
        )
    shown = []
    for part in parts:
        bad = np.count_nonzero(~np.isfinite(part))
        if bad:
            raise ValueError(
                f"{where}: {bad} pixels are NaN or infinite; replace them, by 0 where "
                "they are background."
            )
        shown.append(part[part != 0].astype(np.float64))
    values = np.concatenate([*shown, np.zeros(0)])
    top = float(np.percentile(values, percentile)) if values.size else 0.0
    if top <= 0:
        raise ValueError(
            f"{where}: {values.size} pixels are not 0, and their percentile "
            f"{percentile:g} is {top:g}; an image needs positive values."
        )
    return top


def to_levels(pixels: np.ndarray, top: float) -> np.ndarray:
    """Grey values of any shape to uint16 levels."""
    share = np.clip(pixels.astype(np.float64) / top, 0.0, 1.0)
    return np.rint(share * LAST).astype(np.uint16)


def from_levels(levels: np.ndarray, top: float) -> np.ndarray:
    """Levels, which need not be integers, back to grey values, float64."""
    return levels.astype(np.float64) * top / LAST


def of_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """Levels of 16 bits as they are, or the nearest ones of 8: uint8, 255 for 65535."""
    if bits == 16:
        return levels
    return np.rint(levels / (LAST // 255)).astype(np.uint8)


def fit(plane: np.ndarray, size: int) -> np.ndarray:
    """Crops or zero-pads a slice [H, W] to [size, size], both about its centre.

    An odd remainder leaves one row or column more at the end.
    """
    for axis in (0, 1):
        more = size - plane.shape[axis]
        if more < 0:
            plane = np.take(plane, np.arange(size) + (-more) // 2, axis)
        elif more:
            pad = [(0, 0), (0, 0)]
            pad[axis] = (more // 2, more - more // 2)
            plane = np.pad(plane, pad)
    return plane
