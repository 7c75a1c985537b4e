"""Sets of hole masks: training samplers, evaluation sets and their manifest.

All are uint8, 1 = HOLE, 0 = valid; the shapes are those of `masks` and `coverage`.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data import mask_samplers
from jaxinpaint.data.coverage import exact_mask, rectangle_mask
from jaxinpaint.data.mask_banks import Bank, folder_banks, range_label, walk_banks
from jaxinpaint.data.mask_samplers import VERSION, Fill
from jaxinpaint.data.masks import (
    centre_mask,
    expect_binary,
    half_mask,
    irregular_mask,
    square_mask,
)
from jaxinpaint.data.walks import expect_range, walk_mask

GENERATOR = "jaxinpaint.data.mask_sets"
PAPER_SIDE = 512
PAPER_RANDOM = (32, 48, 64, 96, 128, 256)  # CCPGAN specification, table 5.2
PAPER_CENTRE = (384, 448)
EVALUATED = (  # what `evaluation_masks` reads; a set may lack all but the first five
    *("squares", "centre", "half", "irregular_ratios", "stroke_width"),
    *("exact_ratios", "rectangle_ratios"),
    *("walk_ranges", "walk_bank", "walk_widths", "walk_start"),
    *("folder", "folder_polarity", "folder_ranges"),
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
      walk: RNON 5.2, ipA-MedGAN 5.2. A range, one of the `bank` masks of `walk_mask`
        kept for it, and, if `symmetries`, one of its 8 turned and mirrored positions,
        each as likely.
      folder: likewise, of the masks of `folder` whose share of hole lies in the range.
      square: ipA-MedGAN 5.2. One square of `side` pixels, anywhere in the image.

    Args:
      mask_config: sampler, and what it reads: box, max_delta in pixels; ratio_range
        as (lowest, highest) in (0, 1), stroke_width as (lowest, highest) in pixels,
        ratios as a sequence; of "walk" ranges ((lowest, highest), ...), bank,
        bank_seed, widths, start and symmetries, of "folder" folder, polarity,
        ranges and symmetries, as `mask_banks` takes them; side in pixels.
      size: height and width of the masks.
      seed: of the stroke canvases.

    Returns:
      draw(rng, count) -> uint8 [count, size, size, 1], 1 = hole, pure given `rng`;
      every mask has a hole pixel and a valid pixel.

    Raises:
      ValueError: an unknown sampler, or figures that would leave a mask without hole
        or without valid pixel.
      RuntimeError: a range is too narrow for the strokes of "walk".
      OSError: the folder is not there.
    """
    sampler = mask_config["sampler"]
    makers: dict[str, Callable[[], Fill]] = {
        "deepfill_box": lambda: mask_samplers.deepfill_boxes(
            mask_config["box"], mask_config["max_delta"], size
        ),
        "paper_sizes": lambda: mask_samplers.squares(
            [_scaled(s, size) for s in sorted(PAPER_RANDOM + PAPER_CENTRE)], size
        ),
        "irregular": lambda: mask_samplers.strokes(
            mask_config["ratio_range"], mask_config["stroke_width"], size, seed
        ),
        "mixed": lambda: mask_samplers.mixed(
            makers["deepfill_box"](),
            mask_samplers.squares(range(max(1, size // 16), 3 * size // 4 + 1), size),
            makers["irregular"](),
        ),
        "exact": lambda: mask_samplers.of_ratios(
            exact_mask, mask_config["ratios"], size
        ),
        "rectangle": lambda: mask_samplers.of_ratios(
            rectangle_mask, mask_config["ratios"], size
        ),
        "walk": lambda: mask_samplers.banked(
            walk_banks(
                size,
                size,
                ranges=mask_config["ranges"],
                count=mask_config["bank"],
                widths=mask_config["widths"],
                start=mask_config["start"],
                seed=mask_config["bank_seed"],
            ),
            mask_config["symmetries"],
        ),
        "square": lambda: mask_samplers.squares([mask_config["side"]], size),
        "folder": lambda: mask_samplers.banked(
            folder_banks(
                mask_config["folder"],
                size,
                size,
                polarity=mask_config["polarity"],
                ranges=mask_config["ranges"],
            ),
            mask_config["symmetries"],
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
        rectangle_ratios: of `coverage.rectangle_mask`, labels "rectangle 30%";
        walk_ranges: open ranges of the share that strokes of `walk_mask` hole, labels
        such as "1-25%", with walk_widths, walk_start and walk_bank, how many masks
        there are of each: image i has mask i % walk_bank; folder: a folder of masks,
        "" for none, with folder_polarity and folder_ranges, labels likewise: image i
        has mask i % n of the n in the range, in the order of their names.
      height: rows.
      width: columns.
      count: masks of each label.
      seed: of the whole set.

    Yields:
      (label, index, mask), index 0 to count - 1, mask uint8 [height, width, 1].

    Raises:
      ValueError: two entries have one label, a mask does not fit the image, the set
        holds a key that nothing reads, or both walks and a folder.
      RuntimeError: one of walk_ranges is too narrow for the strokes.
      OSError: the folder is not there.
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
    kinds: list[tuple[str, _Make]]
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
    banks = _evaluated_banks(mask_set, height, width)
    labels = [*(label for label, _ in kinds), *banks]
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"evaluation_masks: the labels are {labels}; give every size and ratio "
            "once."
        )
    for label, make in kinds:
        for index in range(count):
            yield label, index, make(_generator(seed, label, index))
    for label, (bank, of_bank) in banks.items():
        for index in range(count):
            at = index % bank
            yield label, index, of_bank(_generator(seed, label, at), at)


_Make = Callable[[np.random.Generator], np.ndarray]
_MakeOfBank = Callable[[np.random.Generator, int], np.ndarray]


def _evaluated_banks(
    mask_set: Mapping[str, Any], height: int, width: int
) -> dict[str, tuple[int, _MakeOfBank]]:
    """Label -> how many masks a bank has, and what makes one of them."""
    ranges, folder = mask_set.get("walk_ranges", ()), mask_set.get("folder", "")
    if ranges and folder:
        raise ValueError(
            f"evaluation_masks: the set has walk_ranges {list(ranges)} and the folder "
            f"'{folder}', whose labels are alike; leave one of them empty."
        )
    if folder:
        return {
            bank.label: (bank.total, partial(_of_bank, bank))
            for bank in folder_banks(
                folder,
                height,
                width,
                polarity=mask_set["folder_polarity"],
                ranges=mask_set["folder_ranges"],
            )
        }
    found: dict[str, tuple[int, _MakeOfBank]] = {}
    for low, high in ranges:
        expect_range(low, high)
        if mask_set["walk_bank"] < 1:
            raise ValueError("evaluation_masks: walk_bank must be 1 or more.")
        walk = partial(
            walk_mask,
            height=height,
            width=width,
            low=low,
            high=high,
            widths=mask_set["walk_widths"],
            start=mask_set["walk_start"],
        )
        found[range_label(low, high)] = (
            mask_set["walk_bank"],
            partial(_of_walk, walk),
        )
    return found


def _of_bank(bank: Bank, rng: np.random.Generator, at: int) -> np.ndarray:
    return bank.mask(at)


def _of_walk(make: _Make, rng: np.random.Generator, at: int) -> np.ndarray:
    return make(rng)


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
