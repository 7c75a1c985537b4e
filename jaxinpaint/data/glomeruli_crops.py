"""Windows about sclerosed glomeruli, with the masks of what is sclerosed in them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from jaxinpaint.data.contours import components, enclosing_circle
from jaxinpaint.data.gathering import LIMIT, Item, gather
from jaxinpaint.data.positions import origin
from jaxinpaint.data.slides import Slide


class Rules(NamedTuple):
    """Which glomeruli are cut out, and how.

    Attributes:
      size: side of the windows in pixels.
      min_area: pixels; smaller pieces of a mask are dropped.
      max_radius: pixels; what has a larger enclosing circle does not fit the window.
      max_cover: share of a window that may be sclerosed.
    """

    size: int
    min_area: int
    max_radius: float
    max_cover: float


class Crops(NamedTuple):
    """Windows of several slides.

    Attributes:
      images: uint8 [N, S, S, 3].
      masks: uint8 [N, S, S], 1 = hole = all that is sclerosed in the window.
      meta: of each slide, group, top, left, and of the glomerulus in its middle cy, cx, r
        (of the enclosing circle, in the slide's pixels), area; cover of the window.
      report: slides, components, crops, and `rejected`: how many by reason.
    """

    images: np.ndarray
    masks: np.ndarray
    meta: list[dict[str, Any]]
    report: dict[str, Any]


def crops_of(slide: Slide, rules: Rules) -> Iterator[Item]:
    """Cuts the windows of a slide.

    Args:
      slide: the slide.
      rules: which glomeruli and how.

    Yields:
      For each 8-connected piece of the sclerosed mask, in raster order, image uint8
      [S, S, 3] and mask uint8 [S, S] with their facts; or None with facts and a `reason`:
      "area", "radius" or "cover".

    Raises:
      ValueError: the slide is smaller than a window; with its size and id.

    Source: glomeruli specification 5.5.
    """
    size = rules.size
    if min(slide.height, slide.width) < size:
        raise ValueError(
            f"slide {slide.id} is {slide.height} x {slide.width} at working resolution; "
            f"windows of {size} x {size} need a larger one. Leave it out."
        )
    sclerosed = np.ascontiguousarray(slide.label()[..., 1])
    numbers, count = components(sclerosed)
    boxes = ndimage.find_objects(numbers)
    for number, (rows, columns) in enumerate(boxes, 1):
        own = np.argwhere(numbers[rows, columns] == number)
        facts: dict[str, Any] = {"slide": slide.id, "group": slide.group}
        facts["area"] = len(own)
        if len(own) < rules.min_area:
            yield None, facts | {"reason": "area"}
            continue
        cy, cx, radius = enclosing_circle(own + (rows.start, columns.start))
        facts |= {"cy": cy, "cx": cx, "r": radius}
        if radius > rules.max_radius:
            yield None, facts | {"reason": "radius"}
            continue
        top = min(max(origin(cy, size), 0), slide.height - size)
        left = min(max(origin(cx, size), 0), slide.width - size)
        mask = sclerosed[top : top + size, left : left + size].copy()
        facts |= {"top": top, "left": left, "cover": float(mask.mean())}
        if facts["cover"] > rules.max_cover:
            yield None, facts | {"reason": "cover"}
            continue
        yield {"images": slide.region(top, left, size, size), "masks": mask}, facts
    assert len(boxes) == count


def gather_crops(
    slides: Sequence[Slide], rules: Rules, home: Path, limit: int = LIMIT
) -> Crops:
    """Cuts the windows of several slides.

    Args:
      slides: to be trained on, in order.
      rules: which glomeruli and how.
      home: where they are kept if they are many, as of `gathering.gather`.
      limit: bytes that stay in memory.

    Returns:
      The windows; from files if they are many.

    Raises:
      ValueError: no slide, no window at all, or as `crops_of`.
    """
    found = gather(home, lambda: (i for s in slides for i in crops_of(s, rules)), limit)
    rejected = Counter(facts["reason"] for facts in found.left_out)
    if not found.meta:
        large = rejected["radius"] + rejected["cover"]
        raise ValueError(
            f"no sclerosed glomerulus of at least {rules.min_area} px in {len(slides)} "
            "slides: nothing to train the inpainting network on."
            if not large
            else f"all {large} sclerosed glomeruli of {len(slides)} slides are too large "
            f"for windows of {rules.size} px ({dict(rejected)}); see config.data."
            "max_radius and max_cover."
        )
    masks = found.arrays["masks"]
    expect_holes(masks)
    return Crops(
        images=found.arrays["images"],
        masks=masks,
        meta=found.meta,
        report={
            "slides": len(slides),
            "components": len(found.meta) + len(found.left_out),
            "crops": len(found.meta),
            "rejected": {r: rejected[r] for r in ("area", "radius", "cover")},
        },
    )


def expect_holes(masks: np.ndarray) -> None:
    """Checks that every mask has a hole and something around it.

    Args:
      masks: uint8 [N, S, S].

    Raises:
      ValueError: a mask that is empty or full; with its index.
    """
    for index, mask in enumerate(masks):
        if not mask.any() or mask.all():
            raise ValueError(
                f"the mask of crop {index} is {'full' if mask.any() else 'empty'}; it "
                "marks a glomerulus in a window that is larger."
            )


def mask_pictures(masks: np.ndarray, side: int) -> np.ndarray:
    """Masks as the pictures that the mask network learns.

    Args:
      masks: uint8 [N, S, S] of 0 and 1.
      side: of the pictures; a divisor of S.

    Returns:
      uint8 [N, side, side, 3]: grey, 255 times the mean of each block, rounded half up.

    Raises:
      ValueError: the side does not divide S.

    Source: glomeruli specification 8.2.
    """
    count, size, _ = masks.shape
    block = size // side
    if block * side != size:
        raise ValueError(
            f"config.data.crop_size is {size}; pictures of {side} pixels need a multiple "
            "of that."
        )
    sums = masks.reshape(count, side, block, side, block).sum(
        axis=(2, 4), dtype=np.int64
    )
    # Deviation (8.2): batches of the host are 8-bit levels, so that a block half inside
    # is 128, 0.004 above the 0 of 2 m - 1.
    levels = (2 * 255 * sums + block**2) // (2 * block**2)
    return np.repeat(levels[..., None].astype(np.uint8), 3, axis=-1)
