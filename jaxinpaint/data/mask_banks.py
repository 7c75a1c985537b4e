"""Banks of hole masks: each is drawn or read once and kept as bits.

A bank holds masks of one size whose share of hole lies in one range, 1 = HOLE. Masks
that are drawn are drawn when they are first asked for, each from numbers of its own, so
a bank costs nothing before it is used and is the same in whatever order it is used.
"""

import itertools
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data import images
from jaxinpaint.data.walks import expect_range, walk_mask

POLARITIES = ("hole_is_white", "hole_is_black")
SUSPICIOUS = 0.6  # mean share of hole above which a bank looks inverted
_BANK = 4  # last word of the seeds: no mask of an evaluation, whose seeds have none

Range = tuple[float, float]


class Bank(NamedTuple):
    """Masks of one range.

    Attributes:
      label: of the range, for example "1-25%".
      total: how many there are.
      mask: index below `total` -> uint8 [H, W, 1], 1 = hole, a copy.
    """

    label: str
    total: int
    mask: Callable[[int], np.ndarray]


def range_label(low: float, high: float) -> str:
    """What masks of a range are called: "1-25%" for (0.01, 0.25)."""
    return f"{100 * low:g}-{100 * high:g}%"


def walk_banks(
    height: int,
    width: int,
    *,
    ranges: Sequence[Range],
    count: int,
    widths: Range,
    start: str,
    seed: int,
) -> tuple[Bank, ...]:
    """Banks of the strokes of `walk_mask`, one a range.

    Mask i of a range depends on (seed, label, i) and the size alone. Threads may share
    the banks.

    Args:
      height: rows.
      width: columns.
      ranges: (lowest, highest) share of hole, open.
      count: masks of each range.
      widths: as `walk_mask` takes them.
      start: likewise.
      seed: of all banks.

    Returns:
      The banks, in the order of the ranges.

    Raises:
      ValueError: no range, no mask, or as `walk_mask`, whose first mask of each range
        is drawn here.
      RuntimeError: a range is too narrow for the strokes.

    Warns:
      UserWarning: the ranges ask for more than 60 % of hole.

    Source: RNON specification 5.2, ipA-MedGAN specification 5.2.
    """
    _expect_ranges(ranges)
    if count < 1:
        raise ValueError(f"a bank of {count} masks has none; it must be 1 or more.")

    def bank(low: float, high: float) -> Bank:
        label = range_label(low, high)
        word = zlib.crc32(label.encode())
        packed = np.zeros((count, -(-height * width // 8)), np.uint8)
        ready = np.zeros(count, bool)

        def mask(index: int) -> np.ndarray:
            if not ready[index]:  # two threads that meet here draw the same
                rng = np.random.default_rng([seed, word, index, _BANK])
                drawn = walk_mask(
                    rng, height, width, low=low, high=high, widths=widths, start=start
                )
                packed[index] = np.packbits(drawn)
                ready[index] = True
            return _unpacked(packed[index], height, width)

        mask(0)  # its errors, now
        return Bank(label, count, mask)

    banks = tuple(bank(*one) for one in ranges)
    _warn_of_holes(float(np.mean([sum(one) / 2 for one in ranges])), "the mask ranges")
    return banks


def folder_banks(
    folder: str | Path,
    height: int,
    width: int,
    *,
    polarity: str,
    ranges: Sequence[Range],
) -> tuple[Bank, ...]:
    """Banks of a folder of 8-bit mask images, one a range.

    Images are taken to the size asked for by the nearest pixel, and put into the ranges
    by the share of hole that they have then; those in no range are left out. In a bank
    they follow each other as their names do.

    Args:
      folder: the images; other files are passed over.
      height: rows.
      width: columns.
      polarity: "hole_is_white" (above 127 is hole) or "hole_is_black" (all others are).
      ranges: (lowest, highest) share of hole, open.

    Returns:
      The banks, in the order of the ranges.

    Raises:
      ValueError: another polarity, no range, an image that is coloured or has no 8
        bits, or a range without images.
      OSError: the folder is not there.

    Warns:
      UserWarning: the images are hole in more than 60 % of their pixels on average.

    Source: RNON specification 5.2.
    """
    _expect_ranges(ranges)
    if polarity not in POLARITIES:
        raise ValueError(
            f"mask polarity is '{polarity}'; it is one of {list(POLARITIES)}."
        )
    shares, rows = [], []
    for mask in _read_folder(Path(folder), height, width, polarity):
        shares.append(np.count_nonzero(mask) / mask.size)
        rows.append(np.packbits(mask))
    if not rows:
        raise ValueError(f"{folder}: holds no mask ({', '.join(images.SUFFIXES)}).")
    share, packed = np.array(shares), np.stack(rows)
    _warn_of_holes(float(share.mean()), str(folder))

    def bank(low: float, high: float) -> Bank:
        label = range_label(low, high)
        chosen = np.flatnonzero((share > low) & (share < high))
        if not len(chosen):
            raise ValueError(
                f"{folder}: none of its {len(share)} masks is {label} hole, they are "
                f"{100 * share.min():.3g} to {100 * share.max():.3g} % hole; give other "
                "ranges, or the other polarity."
            )
        own = packed[chosen]
        return Bank(label, len(own), lambda i: _unpacked(own[i], height, width))

    return tuple(bank(*one) for one in ranges)


def _read_folder(
    folder: Path, height: int, width: int, polarity: str
) -> Iterator[np.ndarray]:
    """Yields bool [H, W], in the order of the names."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in images.SUFFIXES or path.name.startswith("."):
            continue
        pixels = images.read_image(path)
        if pixels.dtype != np.uint8 or (pixels != pixels[..., :1]).any():
            raise ValueError(f"{path}: a mask is an 8-bit image without colour.")
        rows, columns = (
            (2 * np.arange(n) + 1) * own // (2 * n)  # the pixel under each centre
            for n, own in zip((height, width), pixels.shape, strict=False)
        )
        white = pixels[..., 0][np.ix_(rows, columns)] > 127
        yield white if polarity == "hole_is_white" else ~white


def _unpacked(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bits to uint8 [H, W, 1]."""
    return np.unpackbits(bits, count=height * width).reshape(height, width, 1)


def _expect_ranges(ranges: Sequence[Range]) -> None:
    """Checks ranges of a share."""
    if not len(ranges):
        raise ValueError("masks in ranges need one range or more, got none.")
    for low, high in ranges:
        expect_range(low, high)
    labels = [range_label(*one) for one in ranges]
    for one, other in itertools.combinations(labels, 2):
        if one == other:
            raise ValueError(f"two mask ranges are called {one}; give it once.")


def _warn_of_holes(share: float, what: str) -> None:
    if share > SUSPICIOUS:
        warnings.warn(
            f"{what}: more than 60 % holes: is the mask inverted? 1 means hole.",
            stacklevel=3,
        )
