"""Procedural MR slices of heads, as a FLAIR sequence shows them.

The demos' and the tests' only data of this kind. A head is scalp, skull, fluid, a
folded ribbon of grey matter around white matter, deep grey nuclei and ventricles, cut
across from the level of the nuclei to near the top. Every subject has a shape, tissue
levels, a gain, a shading of the coil and a noise of his own, so that slices of
different subjects have to be brought to one scale. What lies outside the head is
exactly 0, and nothing inside is.

Lengths are pixels of an image of 256 rows and columns, about 1 mm, and scale with the
image; the front is at the top. Only additions, products, divisions and square roots
decide a pixel, never sine, exponential or a sum in an order of the library's choice, so
that one seed gives the same bytes on every machine.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.phantoms import smooth

LEVELS = (-0.2, 0.72)  # of the first and last slice: 0 the widest, 1 the top
HALF_WIDTH = (80.0, 92.0)
HALF_LENGTH = (100.0, 114.0)
GAIN = (350.0, 1600.0)  # grey levels of a signal of 1
GREY = (0.55, 0.68)  # signal of grey matter
CONTRAST = (0.10, 0.20)  # by which white matter is darker
FLUID = (0.07, 0.15)
FAT = (0.75, 1.0)
NOISE = (0.012, 0.035)  # standard deviation of each channel
SHADING = 0.12  # of the coil, standard deviation

# Outer horn, body and inner horn of a lateral ventricle: across, and along the head.
_VENTRICLE = ((7.0, -27.0), (9.0, -2.0), (18.0, 24.0))


class _Head(NamedTuple):
    """The places of one subject's slices; lengths in pixels of the unscaled head.

    Attributes:
      across: [N, H, W] from the middle plane.
      along: [N, H, W] from the middle, negative in front.
      depth: [N, H, W] below the skin, negative outside.
      level: [N, 1, 1].
      noise: (spacing along the slices, spacing in them) -> [N, H, W] smooth noise of
        variance one.
    """

    across: np.ndarray
    along: np.ndarray
    depth: np.ndarray
    level: np.ndarray
    noise: Callable[[float, float], np.ndarray]


def heads(
    *, subjects: int, slices: int, height: int, width: int, seed: int
) -> np.ndarray:
    """Slices of several heads.

    Args:
      subjects: number of heads, S; a head is the same however many there are.
      slices: of each head, N, from the lowest to the highest.
      height: rows.
      width: columns.
      seed: of everything; another size with the same seed is another set of heads.

    Returns:
      uint16 [S, N, H, W]; 0 outside the head and nowhere inside.

    Raises:
      ValueError: a length is below 1.
    """
    shape = (subjects, slices, height, width)
    if min(shape) < 1:
        raise ValueError(
            f"heads: subjects, slices, height and width are {shape}; each must be "
            "positive."
        )
    volume = np.empty(shape, np.uint16)
    for subject in range(subjects):
        rng = np.random.default_rng([seed, subject])
        volume[subject] = _scan(rng, slices, height, width)
    return volume


def _scan(rng: np.random.Generator, slices: int, height: int, width: int) -> np.ndarray:
    """One subject, uint16 [N, H, W]."""
    scale = min(height, width) / 256
    head = _place(rng, slices, height, width, scale)
    signal = _anatomy(rng, head)
    signal = signal * (1 + SHADING * head.noise(4, 130))
    noise = rng.uniform(*NOISE)
    real = signal + noise * rng.standard_normal(signal.shape)
    imaginary = noise * rng.standard_normal(signal.shape)
    magnitude = np.sqrt(real * real + imaginary * imaginary)
    grey = np.clip(np.rint(rng.uniform(*GAIN) * magnitude), 1, 65535)
    return np.where(head.depth > 0, grey, 0).astype(np.uint16)


def _place(
    rng: np.random.Generator, slices: int, height: int, width: int, scale: float
) -> _Head:
    """Lays a tilted, uneven ellipsoid into the image."""
    half_width, half_length = rng.uniform(*HALF_WIDTH), rng.uniform(*HALF_LENGTH)
    shift = rng.uniform(-5, 5, 2)
    tilt = rng.uniform(-0.15, 0.15)
    length = np.sqrt(1 + tilt * tilt)
    level = np.linspace(*LEVELS, slices).reshape(-1, 1, 1) + rng.uniform(-0.03, 0.03)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    y = (rows - (height - 1) / 2) / scale - shift[0]
    x = (columns - (width - 1) / 2) / scale - shift[1]
    across, along = (x + tilt * y) / length, (y - tilt * x) / length

    def noise(apart: float, spacing: float) -> np.ndarray:
        # Knots nearer than 4 pixels would be grain, not shape.
        return smooth(
            rng, (slices, height, width), (apart, *[max(spacing * scale, 4)] * 2)
        )

    size = np.sqrt(1 - level * level)
    # Foreheads are narrower than the backs of heads.
    narrow = 1 + 0.12 * np.clip(along / half_length, -1, 1)
    from_middle = np.sqrt(
        (across / (half_width * narrow)) ** 2 + (along / half_length) ** 2
    )
    depth = (size - from_middle) * (half_width + half_length) / 2 + 1.5 * noise(2, 60)
    shape = (slices, height, width)
    return _Head(
        np.broadcast_to(across, shape),
        np.broadcast_to(along, shape),
        depth,
        level,
        noise,
    )


def _anatomy(rng: np.random.Generator, head: _Head) -> np.ndarray:
    """The signal of a head without shading and noise, [N, H, W]; fat is about 1."""
    grey = rng.uniform(*GREY)
    white = grey - rng.uniform(*CONTRAST)
    fluid, fat = rng.uniform(*FLUID), rng.uniform(*FAT)
    scalp = 5 + head.noise(2, 40)
    bone = scalp + 6 + head.noise(2, 50)
    surface = head.depth - bone - 2.0  # below that of the brain; fluid lies above it

    # Fluid fills the space above the brain, its furrows and the cleft between the
    # halves; grey matter lines all of them.
    folds = abs(head.noise(1.5, 11)) * 6  # about the distance from a furrow
    furrow = folds + 0.5 * np.maximum(surface - 19, 0)
    middle = head.across + 1.5 * head.noise(3, 50)
    bridge = 34 - 140 * np.maximum(head.level - 0.3, 0)  # joins the halves below
    cleft = abs(middle) + 0.5 * np.maximum(bridge - abs(head.along), 0)
    lining = np.minimum(np.minimum(surface, furrow), cleft)
    ribbon = 3.6 + 0.6 * head.noise(2, 30)
    signal = grey + _step(lining - ribbon) * (white - grey)
    signal = signal + 0.02 * head.noise(1, 7)

    nuclei = 1 - _far(abs(middle) - 19, head.along - 2, (8, 15)) - _off(head, 0.0, 0.3)
    signal = _mix(signal, 0.5 * (grey + white) + 0.04, _step(10 * nuclei))
    signal = _mix(signal, fluid, 1 - _step(lining - 0.8))
    lateral = _ventricles(rng, head, middle)
    third = 1.4 - np.maximum(abs(middle), abs(head.along - 4) - 10)
    third = third - 20 * np.maximum(head.level - 0.05, 0)
    signal = _mix(signal, fluid, _step(np.maximum(lateral, third)))

    # Bone is dark, with marrow in the middle; skin and fat are bright.
    to_bone = np.minimum(head.depth - scalp, bone - head.depth)
    marrow = 0.05 + 0.2 * _step(to_bone - 2.2)
    signal = _mix(signal, fluid, 1 - _step(surface))
    signal = _mix(signal, marrow, 1 - _step(head.depth - bone))
    skin = fat * (0.75 + 0.25 * _step(head.depth - 1.5))
    return _mix(signal, skin, 1 - _step(head.depth - scalp))


def _ventricles(
    rng: np.random.Generator, head: _Head, middle: np.ndarray
) -> np.ndarray:
    """How far inside the lateral ventricles a pixel lies, negative outside."""
    part = (head.level - 0.18) / 0.3
    radius = rng.uniform(3.5, 7) * np.sqrt(np.maximum(1 - part * part, 0.0))
    nearest = np.full(middle.shape, np.inf)
    for (x0, y0), (x1, y1) in zip(_VENTRICLE, _VENTRICLE[1:], strict=False):
        x, y = abs(middle) - x0, head.along - y0
        way_x, way_y = x1 - x0, y1 - y0
        part_of_way = (x * way_x + y * way_y) / (way_x * way_x + way_y * way_y)
        part_of_way = np.clip(part_of_way, 0, 1)
        x, y = x - part_of_way * way_x, y - part_of_way * way_y
        nearest = np.minimum(nearest, np.sqrt(x * x + y * y))
    return np.where(radius > 0, radius, -9.0) - nearest


def _far(x: np.ndarray, y: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    """1 on an upright ellipse, less inside."""
    return np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2)


def _off(head: _Head, level: float, reach: float) -> np.ndarray:
    """0 at a level, 1 where what lies there ends."""
    part = (head.level - level) / reach
    return part * part


def _step(distance: np.ndarray) -> np.ndarray:
    """0 below -0.5, 1 above 0.5, smooth between: an edge across one pixel."""
    t = np.clip(distance + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _mix(
    signal: np.ndarray, other: np.ndarray | float, share: np.ndarray
) -> np.ndarray:
    return signal + share * (other - signal)
