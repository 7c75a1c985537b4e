"""Samplers of training masks: each fills arrays of zeros, [S, S], with holes of 1.

What each of them draws, `mask_sets.training_masks` says.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxinpaint.data.mask_banks import Bank
from jaxinpaint.data.masks import irregular_mask

VERSION = 1  # grows whenever one seed would give other bits
POOL = 64  # canvases behind the irregular training masks
POOL_STEPS = 32  # crop positions along one side of a canvas, less one

Fill = Callable[[np.random.Generator, list[np.ndarray]], None]  # into zeros [S, S]


def deepfill_boxes(box: int, max_delta: int, size: int) -> Fill:
    """The sampler "deepfill_box" (CCPGAN R36).

    Raises:
      ValueError: the box does not fit, or may vanish.
    """
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


def squares(sides: Sequence[int], size: int) -> Fill:
    """Squares anywhere, each side as likely.

    Raises:
      ValueError: one is empty or covers the image.
    """
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


def strokes(
    ratio_range: tuple[float, float],
    stroke_width: tuple[int, int],
    size: int,
    seed: int,
) -> Fill:
    """The sampler "irregular": crops of 64 canvases, by their share of hole.

    Raises:
      ValueError: a range outside (0, 1), or one that no crop meets.
    """
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


def mixed(*fills: Fill) -> Fill:
    """One of several samplers for each mask, each as likely."""

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        kinds = rng.integers(0, len(fills), len(masks))
        for kind, one in enumerate(fills):
            chosen = np.flatnonzero(kinds == kind)
            if len(chosen):
                one(rng, [masks[i] for i in chosen])

    return fill


def of_ratios(
    make: Callable[..., np.ndarray], ratios: Sequence[float], size: int
) -> Fill:
    """Masks of `make(rng, height, width, ratio=)`, each ratio as likely.

    Raises:
      ValueError: no ratio, or as `make` raises it.
    """
    if not len(ratios):
        raise ValueError("training_masks: ratios is empty; give one or more.")
    for ratio in ratios:
        make(np.random.default_rng(0), size, size, ratio=ratio)  # its errors, now

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        picks = rng.integers(len(ratios), size=len(masks)).tolist()
        for mask, pick in zip(masks, picks, strict=True):
            mask[...] = make(rng, size, size, ratio=ratios[pick])[..., 0]

    return fill


def banked(banks: Sequence[Bank], symmetries: bool) -> Fill:
    """A bank for each mask, each as likely, then one of its masks, then its position.

    Args:
      banks: of square masks.
      symmetries: whether a mask is laid in one of its 8 positions: turned by quarters,
        mirrored or not.
    """

    def fill(rng: np.random.Generator, masks: list[np.ndarray]) -> None:
        kinds = rng.integers(len(banks), size=len(masks))
        indices = rng.integers([banks[kind].total for kind in kinds.tolist()])
        turns = rng.integers(8, size=len(masks)) * symmetries
        rows = zip(kinds.tolist(), indices.tolist(), turns.tolist(), strict=True)
        for mask, (kind, index, turn) in zip(masks, rows, strict=True):
            one = banks[kind].mask(index)[..., 0]
            if turn & 4:
                one = one.T
            mask[...] = one[:: 1 - (turn & 2), :: 1 - 2 * (turn & 1)]

    return fill
