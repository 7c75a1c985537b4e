"""Shapes of holes: uint8 [H, W, 1], 1 = HOLE, 0 = valid.

Every random shape takes a `np.random.Generator`; nothing here is global. Shapes are
decided by pixel centres (i, j) with integer arithmetic wherever a mask is scored, so
that one seed gives the same bits, hence the same digest, on every machine.
"""

from collections.abc import Sequence

import numpy as np


def expect_binary(where: str, mask: np.ndarray) -> None:
    """Checks that a mask is [H, W, 1] and holds 0 and 1 alone.

    Raises:
      ValueError: another shape, or a value such as 255 or 0.5.
    """
    if mask.ndim != 3 or mask.shape[-1] != 1:
        raise ValueError(f"{where}: mask must be [H, W, 1], got {list(mask.shape)}.")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{where}: mask must hold 0 (valid) and 1 (hole) alone, got {mask[at]} "
            f"at {at}; divide a 0-255 mask by 255, threshold soft edges."
        )


def box_mask(
    height: int, width: int, *, top: int, left: int, box_height: int, box_width: int
) -> np.ndarray:
    """One rectangle at a given place.

    Raises:
      ValueError: the rectangle is empty or leaves the image.
    """
    if not (
        0 <= top < top + box_height <= height and 0 <= left < left + box_width <= width
    ):
        raise ValueError(
            f"box_mask: a box of {box_height} x {box_width} at ({top}, {left}) does "
            f"not lie in an image of {height} x {width}."
        )
    mask = np.zeros((height, width, 1), np.uint8)
    mask[top : top + box_height, left : left + box_width] = 1
    return mask


def square_mask(
    rng: np.random.Generator, height: int, width: int, *, side: int
) -> np.ndarray:
    """One square, its place uniform over all that fit, both ends included.

    Raises:
      ValueError: the square is empty or larger than the image.
    """
    return disjoint_boxes(rng, height, width, boxes=[(side, side)])


def disjoint_boxes(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    boxes: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Boxes that share no pixel, uniform over all such placements.

    CCPGAN's picture of four masks at once (R39) is four times (114, 114) in an image
    of 512 x 512, which is 19.83 %.

    Args:
      rng: source of the places.
      height: rows of the image.
      width: columns of the image.
      boxes: (rows, columns) of every box.

    Raises:
      ValueError: a box does not fit, or 10000 random placements all overlapped.
    """
    sides = np.asarray(boxes)
    room = np.array([height, width]) - sides
    if (sides < 1).any() or (room < 0).any():
        raise ValueError(
            f"disjoint_boxes: boxes {list(boxes)} must have 1 to {height} rows and 1 "
            f"to {width} columns."
        )
    for _ in range(10000):
        starts = rng.integers(0, room, endpoint=True)
        mask = np.zeros((height, width, 1), np.uint8)
        for (top, left), (rows, columns) in zip(starts, sides, strict=True):
            mask[top : top + rows, left : left + columns] = 1
        if np.count_nonzero(mask) == sides.prod(axis=1).sum():
            return mask
    raise ValueError(
        f"disjoint_boxes: found no room for {list(boxes)} in {height} x {width}; "
        "take fewer or smaller boxes."
    )


def centre_mask(height: int, width: int, *, side: int) -> np.ndarray:
    """One square in the middle; an odd remainder leaves one row more below."""
    return box_mask(
        height,
        width,
        top=(height - side) // 2,
        left=(width - side) // 2,
        box_height=side,
        box_width=side,
    )


def half_mask(height: int, width: int) -> np.ndarray:
    """The left block: all rows of columns 0 to width // 2 - 1 (R38)."""
    return box_mask(
        height, width, top=0, left=0, box_height=height, box_width=width // 2
    )


def circle_mask(
    height: int, width: int, *, centre: tuple[float, float], radius: float
) -> np.ndarray:
    """The pixels whose centre is at most `radius` from `centre` (row, column)."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    return inside[..., None].astype(np.uint8)


def polygon_mask(
    height: int, width: int, *, vertices: Sequence[tuple[float, float]]
) -> np.ndarray:
    """The pixels whose centre lies in a polygon of (row, column) vertices.

    A line from the centre to the right crosses the outline an odd number of times;
    where the outline crosses itself, this leaves the doubly enclosed part valid.
    """
    rows, columns = np.ogrid[:height, :width]
    inside = np.zeros((height, width), bool)
    for (y0, x0), (y1, x1) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
        if y0 == y1:
            continue
        crossing = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
        inside ^= ((y0 > rows) != (y1 > rows)) & (columns < crossing)
    return inside[..., None].astype(np.uint8)


def damage_mask(
    rng: np.random.Generator, height: int, width: int, *, ratio: float
) -> np.ndarray:
    """A torn section: one ragged hole from which cracks run and taper.

    The exact number of pixels is the level set of one field: distance from the
    middle of the hole over a ragged radius, and distance from each crack over its
    width there. For pictures; the scored masks are squares and strokes.

    Args:
      rng: source of the shape.
      height: rows.
      width: columns.
      ratio: hole pixels / all pixels, 0 < ratio < 1; round(ratio * H * W) are hole.

    Returns:
      uint8 [height, width, 1].

    Raises:
      ValueError: the ratio leaves no hole pixel or no valid pixel.
    """
    target = hole_pixels(ratio, height, width)
    middle = np.array([height, width]) * rng.uniform(0.35, 0.65, 2)
    size = np.sqrt(target / np.pi)
    rows, columns = np.ogrid[:height, :width]
    y, x = rows - middle[0], columns - middle[1]
    angle = np.arctan2(y, x)
    radius = np.full(angle.shape, 1.0)
    for wave in range(2, 14):
        phase = rng.uniform(0, 2 * np.pi)
        radius += rng.uniform(0, 0.6) / wave * np.cos(wave * angle + phase)
    field = np.hypot(y, x) / (0.8 * size * np.maximum(radius, 0.2))
    for _ in range(4):
        heading, point = rng.uniform(0, 2 * np.pi), middle
        for step in range(8):
            heading += rng.uniform(-0.7, 0.7)
            last, point = (
                point,
                point + 0.4 * size * np.array([np.sin(heading), np.cos(heading)]),
            )
            along = point - last
            part = ((rows - last[0]) * along[0] + (columns - last[1]) * along[1]) / (
                along @ along
            )
            part = np.clip(part, 0, 1)
            distance = np.hypot(
                rows - last[0] - part * along[0], columns - last[1] - part * along[1]
            )
            field = np.minimum(field, distance / max(1, size * (0.12 - step / 80)))
    mask = np.zeros(height * width, np.uint8)
    mask[np.argsort(field, axis=None, kind="stable")[:target]] = 1
    return mask.reshape(height, width, 1)


def irregular_mask(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    ratio: float,
    stroke_width: tuple[int, int],
) -> np.ndarray:
    """Free-form strokes of a round pen, with an exact number of hole pixels.

    Strokes of 4 to 12 straight pieces are laid down until round(ratio * H * W)
    pixels are hole. A piece covers the pixels whose centre is within half the
    stroke's width of it. The last piece stops short: it keeps the pixels that the
    pen reaches first on its way, so it is a shorter piece, not scattered pixels. When
    less than a pen's area is missing, the pen starts on an earlier piece, for the
    same reason; so only a hole smaller than one pen is thinner than the pen.

    Assumption: no paper names its generator. FlowInpaint R43 and RNON 5.2 have the
    same ratio and width law; the walk (turns up to 72 degrees, pieces of about an
    eighth of the diagonal) is shared by all systems here.

    Args:
      rng: source of the strokes.
      height: rows.
      width: columns.
      ratio: hole pixels / all pixels, 0 < ratio < 1.
      stroke_width: smallest and largest width in pixels, integers, both drawn.

    Returns:
      uint8 [height, width, 1].

    Raises:
      ValueError: the ratio leaves no hole pixel or no valid pixel, or the widths
        are not 1 <= lowest <= highest.
    """
    low, high = stroke_width
    if not 1 <= low <= high:
        raise ValueError(
            f"irregular_mask: stroke_width is {stroke_width}; it must be "
            "(lowest, highest) with 1 <= lowest <= highest."
        )
    room = hole_pixels(ratio, height, width)
    mask = np.zeros((height, width), bool)
    last_pixel = np.array([height, width]) - 1
    piece = float(np.hypot(height, width)) / 8
    visited: list[tuple[np.ndarray, int]] = []  # where a whole pen has been laid down
    while room:
        pen = int(rng.integers(low, high, endpoint=True))
        point = rng.integers(0, last_pixel, endpoint=True)
        if visited and room <= (pen + 2) ** 2:
            point, pen = visited[rng.integers(len(visited))]
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(4, 12, endpoint=True)):
            heading += rng.uniform(-0.4, 0.4) * np.pi
            step = rng.uniform(0.5, 1.5) * piece
            way = step * np.array([np.sin(heading), np.cos(heading)])
            end = np.rint(point + way).astype(int)
            room -= _paint(mask, point, end, pen, room)
            if not room or (end < 0).any() or (end > last_pixel).any():
                break  # done, or the stroke left the image
            visited.append((end, pen))
            point = end
    return mask[..., None].astype(np.uint8)


def hole_pixels(ratio: float, height: int, width: int) -> int:
    """The number of hole pixels that a ratio asks for.

    Raises:
      ValueError: it leaves no hole pixel or no valid pixel.
    """
    target = round(ratio * height * width)
    if not 0 < target < height * width:
        raise ValueError(
            f"ratio {ratio} makes {target} of {height * width} pixels hole; a mask "
            "needs at least one hole pixel and one valid pixel."
        )
    return target


def _paint(
    mask: np.ndarray, start: np.ndarray, end: np.ndarray, pen: int, room: int
) -> int:
    """Draws one piece of a stroke, at most `room` new pixels; returns how many."""
    reach = pen // 2
    low = np.maximum(np.minimum(start, end) - reach, 0)
    high = np.maximum(start, end) + reach + 1
    window = mask[low[0] : high[0], low[1] : high[1]]
    rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
    y, x = rows + (low[0] - start[0]), columns + (low[1] - start[1])
    way_y, way_x = (int(n) for n in end - start)
    length2 = way_y**2 + way_x**2
    along = y * way_y + x * way_x  # distance along the piece, times its length
    across2 = (y * way_x - x * way_y) ** 2  # squared distance off it, times length2
    from_start2 = y**2 + x**2
    # Compared as integers: 4 distance^2 <= pen^2.
    covered = 4 * from_start2 <= pen**2
    if length2:
        from_end2 = (y - way_y) ** 2 + (x - way_x) ** 2
        covered |= 4 * from_end2 <= pen**2
        beside = (along > 0) & (along < length2)
        covered |= beside & (4 * across2 <= pen**2 * length2)
    new = covered & ~window
    count = int(np.count_nonzero(new))
    if count <= room:
        window |= new
        return count
    way = np.sqrt(max(length2, 1))
    half_chord = np.sqrt(np.maximum(pen**2 / 4 - across2[new] / max(length2, 1), 0))
    reached = np.maximum(along[new] / way - half_chord, 0)  # the pen's first touch
    first = np.lexsort((from_start2[new], reached))[:room]
    at = np.flatnonzero(new)[first]
    window[np.unravel_index(at, new.shape)] = True
    return room
