"""Holes of a given share of the image: strokes and centred rectangles of FlowInpaint.

Both are uint8 [H, W, 1], 1 = HOLE, and scale with the image.
"""

import math

import numpy as np

from jaxinpaint.data.masks import box_mask, hole_pixels

# Ratio -> least and largest height of the rectangle, in percent of the image's.
RECTANGLE_HEIGHTS = {0.1: (25, 38), 0.3: (40, 60), 0.5: (65, 75)}


def exact_mask(
    rng: np.random.Generator, height: int, width: int, *, ratio: float
) -> np.ndarray:
    """Zigzag strokes with an exact number of hole pixels.

    Strokes have 4 to 11 straight pieces, which go alternately up and down, at 48 to 96
    degrees to the rows; half of them are mirrored in each direction. Pieces are about
    an eighth of the diagonal long, strokes 12 to 40 pixels wide in an image of 256. A
    stroke covers the pixels whose centre is within half its width. The last one keeps
    the pixels nearest to its line, ties in raster order.

    Args:
      rng: source of the strokes.
      height: rows.
      width: columns.
      ratio: hole pixels / all pixels, 0 < ratio < 1; round(ratio * H * W) are hole.

    Returns:
      uint8 [height, width, 1].

    Raises:
      ValueError: the ratio leaves no hole pixel or no valid pixel.

    Source: FlowInpaint section 6.3, R43.
    """
    room = hole_pixels(ratio, height, width)
    hole = np.zeros((height, width), bool)
    # Allocated once: fresh pages for every stroke would cost more than the strokes.
    distance2 = np.full((height, width), np.inf)
    scale = min(height, width) / 256
    while room:
        vertices, mirrored = _zigzag(rng, height, width)
        for axis, last in enumerate((height - 1, width - 1)):
            if mirrored[axis]:
                vertices[:, axis] = last - vertices[:, axis]
        reach = rng.uniform(12 * scale, 40 * scale) / 2
        room -= _paint(hole, distance2, vertices, reach, room)
    return hole[..., None].astype(np.uint8)


def _zigzag(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [n + 1, 2] (row, column), and whether each axis is mirrored."""
    last_pixel = np.array([height - 1, width - 1])
    piece = math.hypot(height, width) / 8
    count = int(rng.integers(4, 12))
    low = 2 * math.pi / 5 - rng.uniform(0, 2 * math.pi / 15)
    high = 2 * math.pi / 5 + rng.uniform(0, 2 * math.pi / 15)
    vertices = np.empty((count + 1, 2))
    vertices[0] = rng.integers(0, last_pixel, endpoint=True)
    angles = rng.uniform(low, high, count)
    angles[::2] = 2 * math.pi - angles[::2]
    lengths = np.clip(rng.normal(piece, piece / 2, count), 0, 2 * piece)
    ways = lengths[:, None] * np.column_stack((np.sin(angles), np.cos(angles)))
    for i in range(count):
        vertices[i + 1] = np.clip(vertices[i] + ways[i], 0, last_pixel)
    return vertices, rng.random(2) < 0.5


def _paint(
    hole: np.ndarray,
    distance2: np.ndarray,
    vertices: np.ndarray,
    reach: float,
    room: int,
) -> int:
    """Draws one stroke, at most `room` new pixels; returns how many.

    Args:
      hole: bool [H, W], changed.
      distance2: inf [H, W], and inf again afterwards.
      vertices: [n, 2] (row, column) of the stroke's line.
      reach: half the stroke's width.
      room: how many pixels may become hole.
    """
    for start, end in zip(vertices, vertices[1:], strict=False):
        top, left = np.ceil(np.maximum(np.minimum(start, end) - reach, 0)).astype(int)
        low, right = np.floor(np.maximum(start, end) + reach).astype(int) + 1
        window = distance2[top:low, left:right]
        y = np.arange(top, top + window.shape[0])[:, None] - start[0]
        x = np.arange(left, left + window.shape[1]) - start[1]
        way_y, way_x = end - start
        length2 = way_y**2 + way_x**2
        along = np.clip((y * way_y + x * way_x) / (length2 or 1.0), 0, 1)
        off_y, off_x = y - along * way_y, x - along * way_x
        np.minimum(window, off_y * off_y + off_x * off_x, out=window)
    (top, left), (low, right) = (
        np.ceil(np.maximum(vertices.min(axis=0) - reach, 0)).astype(int),
        np.floor(vertices.max(axis=0) + reach).astype(int) + 1,
    )
    window, known = distance2[top:low, left:right], hole[top:low, left:right]
    new = (window <= reach * reach) & ~known
    count = int(np.count_nonzero(new))
    if count > room:
        nearest = np.argsort(window[new], kind="stable")[:room]  # ties: raster order
        at = np.flatnonzero(new)[nearest]
        new[...] = False
        new[np.unravel_index(at, new.shape)] = True
    known |= new
    window[...] = np.inf
    return min(count, room)


def rectangle_mask(
    rng: np.random.Generator, height: int, width: int, *, ratio: float
) -> np.ndarray:
    """One rectangle in the middle, its height random, its area nearly that asked for.

    The height is an integer, uniform in a range that belongs to the ratio; the width
    follows from the area, rounded down; both are halved, rounded down, around the
    centre. In an image of 256 x 256 that is 9.7 to 10.0, 29.4 to 30.0 or 49.2 to
    50.0 % of the pixels.

    Args:
      rng: source of the height.
      height: rows.
      width: columns.
      ratio: 0.1, 0.3 or 0.5.

    Raises:
      ValueError: another ratio, or an image too small for its rectangle.

    Source: FlowInpaint section 6.3, of the released loaders; 10 % is the project's.
    """
    if ratio not in RECTANGLE_HEIGHTS:
        raise ValueError(
            f"rectangle_mask: ratio is {ratio}; it is one of {list(RECTANGLE_HEIGHTS)}."
        )
    least, largest = RECTANGLE_HEIGHTS[ratio]
    first, last = -(-least * height // 100), largest * height // 100
    if first > last or first < 2:
        raise ValueError(
            f"rectangle_mask: an image of {height} x {width} is too small for "
            f"rectangles of {100 * ratio:g}%."
        )
    rows = int(rng.integers(first, last, endpoint=True))
    columns = round(100 * ratio) * height * width // (100 * rows)
    return box_mask(
        height,
        width,
        top=height // 2 - rows // 2,
        left=width // 2 - columns // 2,
        box_height=rows // 2 * 2,
        box_width=columns // 2 * 2,
    )
