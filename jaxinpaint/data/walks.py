"""Holes of RNON and ipA-MedGAN: strokes that walk at random, of a share in a range.

uint8 [H, W, 1], 1 = HOLE, 0 = valid. The papers print ranges of the hole's share and no
generator; both specifications give one, which differ in the widths of the strokes and
in where strokes begin.
"""

import math

import numpy as np

STARTS = ("anywhere", "centre")
TRIES = 20  # whole masks
SEGMENTS = 400  # of one try, rejected ones among them


def expect_range(low: float, high: float) -> None:
    """Checks a range of hole pixels / all pixels.

    Raises:
      ValueError: not 0 < low < high < 1.
    """
    if not 0 < low < high < 1:
        raise ValueError(
            f"hole ratio range must satisfy 0 < lo < hi < 1, got ({low:g}, {high:g})."
        )


def walk_mask(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    low: float,
    high: float,
    widths: tuple[float, float],
    start: str,
) -> np.ndarray:
    """Strokes of straight segments that turn at random.

    A stroke has 4 to 12 segments and one width; from one to the next it turns by a
    normal angle of 45 degrees. Strokes are added until the share of the hole reaches
    one that is uniform in the range; a segment that would take it to `high` is left
    out, and ends its stroke. A segment covers the pixels whose centre is within half
    the stroke's width of it; pixel (i, j) has its centre at (i, j). All lengths are
    pixels of an image of 256 rows and scale with the rows.

    Args:
      rng: source of the strokes, drawn from in the order that the specifications
        print.
      height: rows.
      width: columns.
      low: hole pixels / all pixels are above it.
      high: and below this.
      widths: least and largest width of a stroke.
      start: where a stroke begins. "anywhere" in the image (RNON), or at the "centre"
        (ipA-MedGAN): the first in its central half, later ones at an end of an earlier
        segment, so that the hole is one connected region.

    Returns:
      uint8 [height, width, 1].

    Raises:
      ValueError: another range, width or start.
      RuntimeError: 20 masks in a row missed the range, which is too narrow for the
        strokes.

    Source: RNON specification 5.2, ipA-MedGAN specification 5.2.
    """
    expect_range(low, high)
    if not 0 < widths[0] <= widths[1]:
        raise ValueError(
            f"walk_mask: widths are {tuple(widths)}; they must be 0 < least <= largest."
        )
    if start not in STARTS:
        raise ValueError(f"walk_mask: start is '{start}'; it is one of {list(STARTS)}.")
    for _ in range(TRIES):
        hole = _walk(rng, height, width, low, high, widths, start == "centre")
        if low < np.count_nonzero(hole) / hole.size < high:
            return hole[..., None].view(np.uint8)
    raise RuntimeError(
        f"could not draw a mask in ({low:g}, {high:g}): {TRIES} of {height} x {width} "
        "missed it; widen the range or take thinner strokes."
    )


def _walk(
    rng: np.random.Generator,
    height: int,
    width: int,
    low: float,
    high: float,
    widths: tuple[float, float],
    centred: bool,
) -> np.ndarray:
    """One try, bool [H, W], whose share may miss the range."""
    scale = height / 256
    hole = np.zeros((height, width), bool)
    ends: list[tuple[float, float]] = []
    count = left = 0
    reach = angle = 0.0
    here = (0.0, 0.0)
    enough = rng.uniform(low, high)
    for _ in range(SEGMENTS):
        if not left:
            left = int(rng.integers(4, 12, endpoint=True))
            reach = scale * rng.uniform(*widths) / 2
            angle = rng.uniform(0, 2 * math.pi)
            if not centred:
                # Assumption: pixel units, the first row's centre to a row past the last.
                here = rng.uniform(0, height), rng.uniform(0, width)
            elif ends:
                here = ends[rng.integers(len(ends))]
            else:  # Assumption: also where the very first segment was left out
                here = (
                    rng.uniform(height / 4, 3 * height / 4),
                    rng.uniform(width / 4, 3 * width / 4),
                )
        angle += rng.normal(0, math.pi / 4)
        length = scale * min(max(rng.normal(45.25, 22.6), 4.0), 90.5)
        there = (
            min(max(here[0] + length * math.sin(angle), 0.0), height - 1.0),
            min(max(here[1] + length * math.cos(angle), 0.0), width - 1.0),
        )
        window, inside = _segment(here, there, reach, height, width)
        known = hole[window]
        more = int(np.count_nonzero(inside > known))
        if (count + more) / hole.size >= high:
            left = 0
            continue
        known |= inside
        count += more
        here = there
        ends.append(there)
        left -= 1
        if count / hole.size >= enough:
            break
    return hole


def _segment(
    start: tuple[float, float],
    end: tuple[float, float],
    reach: float,
    height: int,
    width: int,
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A window around a segment, and bool [rows, columns]: what is within reach."""
    top = math.ceil(max(min(start[0], end[0]) - reach, 0.0))
    left = math.ceil(max(min(start[1], end[1]) - reach, 0.0))
    low = min(math.floor(max(start[0], end[0]) + reach) + 1, height)
    right = min(math.floor(max(start[1], end[1]) + reach) + 1, width)
    y = np.arange(top, low)[:, None] - start[0]
    x = np.arange(left, right) - start[1]
    way_y, way_x = end[0] - start[0], end[1] - start[1]
    length2 = way_y * way_y + way_x * way_x or 1.0  # 0 in a corner of the image
    along = y * (way_y / length2) + x * (way_x / length2)
    np.maximum(along, 0.0, out=along)
    np.minimum(along, 1.0, out=along)
    off_y, off_x = along * way_y, along
    off_x *= way_x
    np.subtract(y, off_y, out=off_y)
    np.subtract(x, off_x, out=off_x)
    off_y *= off_y
    off_x *= off_x
    off_y += off_x
    return (slice(top, max(low, top)), slice(left, max(right, left))), (
        off_y <= reach * reach
    )
