"""Hole masks for training and evaluation: uint8 [H, W, 1], 1 = HOLE, 0 = valid.

Every random shape takes a `np.random.Generator`; nothing here is global. Shapes are
decided by pixel centres (i, j) with integer arithmetic wherever a mask is scored, so
that one seed gives the same bits, hence the same digest, on every machine.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

GENERATOR = "jaxinpaint.data.masks"
VERSION = 1  # grows whenever one seed would give other bits

PAPER_SIDE = 512
PAPER_RANDOM = (32, 48, 64, 96, 128, 256)  # CCPGAN specification, table 5.2
PAPER_CENTRE = (384, 448)
POOL = 64  # canvases behind the irregular training masks
POOL_STEPS = 32  # crop positions along one side of a canvas, less one


class PaperMask(NamedTuple):
    """One row of table 5.2: the paper's label, hole pixels / all pixels, the mask."""

    label: str
    coverage: float
    mask: np.ndarray


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
    target = _hole_pixels(ratio, height, width)
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
    room = _hole_pixels(ratio, height, width)
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


def _hole_pixels(ratio: float, height: int, width: int) -> int:
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


def training_masks(
    mask_config: Mapping[str, Any], size: int, seed: int
) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Builds a fast sampler of square training masks.

    Samplers (`mask_config["sampler"]`):
      deepfill_box: CCPGAN R36. A box of side `box` lies anywhere in the image; each
        of its top and left, and bottom and right, sides moves in by a and b, uniform
        in 0 to `max_delta` // 2, all ranges inclusive.
      paper_sizes: CCPGAN 4.6. The side is one of the paper's eight, scaled.
      irregular: strokes of `stroke_width` with a ratio uniform in `ratio_range`. They
        are cut from 64 canvases a quarter larger than the image, drawn here from
        `seed`, at 33 x 33 places (fewer below size 128) and in 8 orientations:
        557568 masks, of which those in the range serve. A draw takes one of the 64
        whose ratio is nearest to a uniform one.
      mixed: a third each of deepfill_box, irregular, and squares of a side uniform
        in size // 16 to 3 * size // 4.

    Args:
      mask_config: sampler, and what it reads: box, max_delta in pixels; ratio_range
        as (lowest, highest) in (0, 1), stroke_width as (lowest, highest) in pixels.
      size: height and width of the masks.
      seed: of the stroke canvases.

    Returns:
      draw(rng, count) -> uint8 [count, size, size, 1], 1 = hole, pure given `rng`;
      every mask has a hole pixel and a valid pixel.

    Raises:
      ValueError: an unknown sampler, or figures that would leave a mask without hole
        or without valid pixel.
    """
    sampler = mask_config["sampler"]
    makers: dict[str, Callable[[], _Fill]] = {
        "deepfill_box": lambda: _deepfill_boxes(
            mask_config["box"], mask_config["max_delta"], size
        ),
        "paper_sizes": lambda: _squares(
            [_scaled(s, size) for s in sorted(PAPER_RANDOM + PAPER_CENTRE)], size
        ),
        "irregular": lambda: _strokes(
            mask_config["ratio_range"], mask_config["stroke_width"], size, seed
        ),
        "mixed": lambda: _mixed(
            makers["deepfill_box"](),
            _squares(range(max(1, size // 16), 3 * size // 4 + 1), size),
            makers["irregular"](),
        ),
    }
    if sampler not in makers:
        raise ValueError(
            f"training_masks: sampler is '{sampler}'; the samplers here are "
            f"{sorted(makers)}."
        )
    fill = makers[sampler]()

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        masks = np.zeros((count, size, size, 1), np.uint8)
        fill(rng, list(masks[..., 0]))
        return masks

    return draw


_Fill = Callable[[np.random.Generator, list[np.ndarray]], None]  # into zeros [S, S]


def _deepfill_boxes(box: int, max_delta: int, size: int) -> _Fill:
    if not (0 <= max_delta and max_delta // 2 * 2 < box < size):
        raise ValueError(
            f"training_masks: box is {box}, max_delta {max_delta}, size {size}; box "
            "must be below size and above max_delta."
        )
    high = np.array([size - box, size - box, max_delta // 2, max_delta // 2])

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        draws = rng.integers(0, high, (len(masks), 4), endpoint=True).tolist()
        for mask, (t, l, a, b) in zip(masks, draws, strict=True):  # noqa: E741
            mask[t + a : t + box - a, l + b : l + box - b] = 1

    return fill


def _squares(sides: Sequence[int], size: int) -> _Fill:
    if not 1 <= min(sides) <= max(sides) < size:
        raise ValueError(
            f"training_masks: squares of {min(sides)} to {max(sides)} pixels need a "
            f"larger image than size {size}."
        )
    choices = np.asarray(sides)

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        side = choices[rng.integers(0, len(choices), len(masks))]
        place = rng.integers(0, (size - side)[:, None], (len(masks), 2), endpoint=True)
        rows = np.column_stack((place, side)).tolist()
        for mask, (top, left, s) in zip(masks, rows, strict=True):
            mask[top : top + s, left : left + s] = 1

    return fill


def _strokes(
    ratio_range: tuple[float, float],
    stroke_width: tuple[int, int],
    size: int,
    seed: int,
) -> _Fill:
    low, high = ratio_range
    if not 0 < low <= high < 1:
        raise ValueError(
            f"training_masks: ratio_range is {tuple(ratio_range)}; it must hold "
            "0 < lowest <= highest < 1."
        )
    margin = max(1, size // 4)
    rng = np.random.default_rng([seed, VERSION])
    canvases = np.empty((2, POOL, size + margin, size + margin), np.uint8)
    steps = np.unique(np.linspace(0, margin, POOL_STEPS + 1).astype(int))
    counts = np.empty((POOL, len(steps), len(steps)), np.int64)
    for k in range(POOL):
        canvases[0, k] = irregular_mask(
            rng,
            size + margin,
            size + margin,
            ratio=low + (high - low) * (k + 0.5) / POOL,
            stroke_width=(stroke_width[0], stroke_width[1]),
        )[..., 0]
        table = np.zeros((size + margin + 1,) * 2, np.int64)
        table[1:, 1:] = canvases[0, k].cumsum(0, np.int64).cumsum(1)
        a, b = np.ix_(steps, steps)
        c, d = a + size, b + size
        counts[k] = table[c, d] - table[a, d] - table[c, b] + table[a, b]
    # A second set, turned over the diagonal: copying a transposed crop is slow.
    canvases[1] = canvases[0].swapaxes(1, 2)
    order = np.argsort(counts, axis=None, kind="stable")
    ranked = counts.ravel()[order]
    pixels = size * size
    floor, ceiling = max(1, low * pixels - 0.5), min(pixels - 1, high * pixels + 0.5)
    first = int(np.searchsorted(ranked, floor, "left"))
    last = int(np.searchsorted(ranked, ceiling, "right"))
    if first == last:
        raise ValueError(
            f"training_masks: no stroke mask of {size} x {size} has a ratio in "
            f"{tuple(ratio_range)}; widen ratio_range."
        )
    order, ranked = order[first:last], ranked[first:last]

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        draws = rng.random((len(masks), 2))
        wanted = (low + (high - low) * draws[:, 0]) * pixels
        nearest = min(64, len(order))
        start = np.searchsorted(ranked, wanted) - nearest // 2
        start = np.clip(start, 0, len(order) - nearest)
        picks = order[start + (nearest * draws[:, 1]).astype(int)]
        ks, tops, lefts = np.unravel_index(picks, counts.shape)
        turns = rng.integers(0, 8, len(masks)).tolist()
        rows = zip(
            ks.tolist(), steps[tops].tolist(), steps[lefts].tolist(), strict=True
        )
        for mask, (k, top, left), turn in zip(masks, rows, turns, strict=True):
            if turn & 4:
                top, left = left, top
            crop = canvases[turn >> 2, k, top : top + size, left : left + size]
            mask[...] = crop[:: 1 - (turn & 2), :: 1 - 2 * (turn & 1)]

    return fill


def _mixed(*fills: _Fill) -> _Fill:
    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        kinds = rng.integers(0, len(fills), len(masks))
        for kind, one in enumerate(fills):
            chosen = np.flatnonzero(kinds == kind)
            if len(chosen):
                one(rng, [masks[i] for i in chosen])

    return fill


def evaluation_masks(
    mask_set: Mapping[str, Any], height: int, width: int, count: int, seed: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yields the masks of an evaluation, label by label, `count` of each.

    A mask depends on (seed, label, index) and the image size alone: adding a label,
    or images, changes no other mask.

    Args:
      mask_set: squares: sides of squares at a random place, labels such as "32x32";
        centre: sides of centred squares, labels likewise; half: whether the left
        block (R38) is one, label "256x512" as columns x rows; irregular_ratios: hole
        ratios of strokes, labels such as "30%"; stroke_width: their (lowest,
        highest) width. All lengths are pixels of this image.
      height: rows.
      width: columns.
      count: masks of each label.
      seed: of the whole set.

    Yields:
      (label, index, mask), index 0 to count - 1, mask uint8 [height, width, 1].

    Raises:
      ValueError: two entries have one label, or a mask does not fit the image.
    """
    square = partial(square_mask, height=height, width=width)
    strokes = partial(
        irregular_mask,
        height=height,
        width=width,
        stroke_width=mask_set["stroke_width"],
    )
    kinds: list[tuple[str, Callable[[np.random.Generator], np.ndarray]]]
    kinds = [(f"{n}x{n}", partial(square, side=n)) for n in mask_set["squares"]]
    if mask_set["half"]:
        kinds.append((f"{width // 2}x{height}", _always(half_mask(height, width))))
    for n in mask_set["centre"]:
        kinds.append((f"{n}x{n}", _always(centre_mask(height, width, side=n))))
    for ratio in mask_set["irregular_ratios"]:
        kinds.append((f"{100 * ratio:g}%", partial(strokes, ratio=ratio)))
    labels = [label for label, _ in kinds]
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"evaluation_masks: the labels are {labels}; give every size and ratio "
            "once."
        )
    for label, make in kinds:
        for index in range(count):
            yield label, index, make(_generator(seed, label, index))


def paper_mask_set(
    size: int, *, index: int = 0, seed: int = 0
) -> tuple[PaperMask, ...]:
    """The nine masks of CCPGAN's comparison, scaled from 512 pixels to `size`.

    Labels are the paper's, at every size; `coverage` is that of the mask returned,
    which is the paper's where `size` is a multiple of 32. At 512 the masks are those
    of `evaluation_masks` for the same labels, index and seed.

    Args:
      size: height and width, at least 16.
      index: image whose random places are drawn.
      seed: of the whole set.

    Returns:
      In the order of the table: six squares at a random place (32 to 256), the left
      block, two centred squares (384 and 448).

    Raises:
      ValueError: `size` is below 16, where the smallest hole vanishes.

    Source: CCPGAN specification 5.2, R38.
    """
    if size < 16:
        raise ValueError(f"paper_mask_set: size is {size}; it must be at least 16.")
    masks = {}
    for side in PAPER_RANDOM:
        label = f"{side}x{side}"
        rng = _generator(seed, label, index)
        masks[label] = square_mask(rng, size, size, side=_scaled(side, size))
    masks[f"{PAPER_SIDE // 2}x{PAPER_SIDE}"] = half_mask(size, size)
    for side in PAPER_CENTRE:
        masks[f"{side}x{side}"] = centre_mask(size, size, side=_scaled(side, size))
    return tuple(
        PaperMask(label, np.count_nonzero(mask) / size**2, mask)
        for label, mask in masks.items()
    )


def manifest(
    entries: Iterable[tuple[str, int, np.ndarray]], seed: int
) -> dict[str, Any]:
    """Describes a mask set so that a result can name it and anybody can check it.

    Args:
      entries: (label, index, mask [H, W, 1]), as `evaluation_masks` yields them.
      seed: what they were drawn from.

    Returns:
      generator, version, seed, masks and sha256, all of JSON's types. Each mask has
      label, index, height, width, hole_pixels, ratio and the sha256 of its bits, row
      by row, eight to a byte, first bit highest. The sha256 of the set is over the
      masks' list as compact JSON with sorted keys.

    Raises:
      ValueError: a mask holds something other than 0 and 1.
    """
    masks = []
    for label, index, mask in entries:
        expect_binary(f"manifest: {label} {index}", mask)
        height, width, _ = mask.shape
        hole = int(np.count_nonzero(mask))
        masks.append(
            {
                "label": label,
                "index": index,
                "height": height,
                "width": width,
                "hole_pixels": hole,
                "ratio": hole / (height * width),
                "sha256": hashlib.sha256(
                    np.packbits(mask.astype(np.uint8)).tobytes()
                ).hexdigest(),
            }
        )
    text = json.dumps(masks, sort_keys=True, separators=(",", ":"))
    return {
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "masks": masks,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _scaled(side: int, size: int) -> int:
    """A length of the paper's 512-pixel image in one of `size`, rounded."""
    return (side * size + PAPER_SIDE // 2) // PAPER_SIDE


def _generator(seed: int, label: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(label.encode()), index])


def _always(mask: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: mask.copy()
