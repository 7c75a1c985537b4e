"""Sets of hole masks: training samplers, evaluation sets and their manifest.

All are uint8, 1 = HOLE, 0 = valid; the shapes are those of `masks` and `coverage`.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.coverage import exact_mask, rectangle_mask
from jaxinpaint.data.masks import (
    centre_mask,
    expect_binary,
    half_mask,
    irregular_mask,
    square_mask,
)

GENERATOR = "jaxinpaint.data.mask_sets"
VERSION = 1  # grows whenever one seed would give other bits

PAPER_SIDE = 512
PAPER_RANDOM = (32, 48, 64, 96, 128, 256)  # CCPGAN specification, table 5.2
PAPER_CENTRE = (384, 448)
POOL = 64  # canvases behind the irregular training masks
POOL_STEPS = 32  # crop positions along one side of a canvas, less one
EVALUATED = (  # what `evaluation_masks` reads; a set need not have the last two
    *("squares", "centre", "half", "irregular_ratios", "stroke_width"),
    *("exact_ratios", "rectangle_ratios"),
)


class PaperMask(NamedTuple):
    """One row of table 5.2: the paper's label, hole pixels / all pixels, the mask."""

    label: str
    coverage: float
    mask: np.ndarray


def training_masks(
    mask_config: Mapping[str, Any], size: int, seed: int
) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Builds a sampler of square training masks.

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
      exact: FlowInpaint R43. Strokes as of `coverage.exact_mask`, each drawn afresh,
        with a ratio that is uniform over `ratios`.
      rectangle: FlowInpaint 6.3. As `coverage.rectangle_mask`, with such a ratio.

    Args:
      mask_config: sampler, and what it reads: box, max_delta in pixels; ratio_range
        as (lowest, highest) in (0, 1), stroke_width as (lowest, highest) in pixels,
        ratios as a sequence.
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
        "exact": lambda: _of_ratios(exact_mask, mask_config["ratios"], size),
        "rectangle": lambda: _of_ratios(rectangle_mask, mask_config["ratios"], size),
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


def _of_ratios(
    make: Callable[..., np.ndarray], ratios: Sequence[float], size: int
) -> _Fill:
    if not len(ratios):
        raise ValueError("training_masks: ratios is empty; give one or more.")
    for ratio in ratios:
        make(np.random.default_rng(0), size, size, ratio=ratio)  # its errors, now

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        picks = rng.integers(len(ratios), size=len(masks)).tolist()
        for mask, pick in zip(masks, picks, strict=True):
            mask[...] = make(rng, size, size, ratio=ratios[pick])[..., 0]

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
        highest) width. All lengths are pixels of this image. Where a set offers them,
        exact_ratios: of the strokes of `coverage.exact_mask`, labels such as "30%";
        rectangle_ratios: of `coverage.rectangle_mask`, labels "rectangle 30%".
      height: rows.
      width: columns.
      count: masks of each label.
      seed: of the whole set.

    Yields:
      (label, index, mask), index 0 to count - 1, mask uint8 [height, width, 1].

    Raises:
      ValueError: two entries have one label, a mask does not fit the image, or the
        set holds a key that nothing reads.
    """
    unread = set(mask_set) - set(EVALUATED)
    if unread:
        raise ValueError(
            f"evaluation_masks: nothing reads {sorted(unread)}; the keys are "
            f"{list(EVALUATED)}."
        )
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
    exact = partial(exact_mask, height=height, width=width)
    rectangle = partial(rectangle_mask, height=height, width=width)
    if "exact_ratios" in mask_set:
        for ratio in mask_set["exact_ratios"]:
            kinds.append((f"{100 * ratio:g}%", partial(exact, ratio=ratio)))
    if "rectangle_ratios" in mask_set:
        for ratio in mask_set["rectangle_ratios"]:
            label = f"rectangle {100 * ratio:g}%"
            kinds.append((label, partial(rectangle, ratio=ratio)))
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
