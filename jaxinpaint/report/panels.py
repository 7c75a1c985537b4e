"""Panels of one restored image: whole frames, the hole enlarged, where it errs."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxinpaint.report import flow_colours, plots

CONTEXT = ("truth", "masked", "neighbor", "previous", "following")  # given, not made
OUTLINE = (255, 208, 0)
FRAME_SIDE = 256  # longest side of a drawn frame, in pixels of the PNG
ZOOM_SIDE = 288
LIMITS = (8, 16, 32, 64, 128, 255)  # ends of the colour scale, in grey levels


class Panel(NamedTuple):
    """One image, its hole and what every method put there.

    Attributes:
      name: of the image.
      bin: the mask's bin, such as "32x32".
      caption: why it is shown, such as "worst PSNR in the hole".
      score: the score it was chosen by.
      images: uint8 [H, W] or [H, W, 1 or 3] by name, in the order to draw: truth,
        masked, neighbor (or previous, following), completed, then the baselines.
      mask: [H, W] or [H, W, 1], 1 = hole.
      flow: float [H, W, 2] (dx, dy) in pixels that the system found, or None.
      whole: those of `images` that are not composited: what a network gave, valid
        pixels included.
    """

    name: str
    bin: str
    caption: str
    score: float
    images: Mapping[str, np.ndarray]
    mask: np.ndarray
    flow: np.ndarray | None = None
    whole: Sequence[str] = ()


class Tile(NamedTuple):
    """One picture: its name, PNG bytes, and for a made one its difference map.

    `error` is the mean of |made - truth| inside the hole, in grey levels; `longest` the
    length of the longest vector of a flow that is shown, in pixels; `whole` marks an
    image that is not composited.
    """

    name: str
    picture: bytes
    difference: bytes | None
    error: float | None
    longest: float | None = None
    whole: bool = False


class Drawing(NamedTuple):
    """A panel as pictures.

    Attributes:
      frames: whole images: what was given, the completed one, those that are not
        composited with their difference map, and the flow.
      zooms: the neighbourhood of the hole: truth, neighbours, everything made, flow.
        The difference map of what is not composited is of the valid pixels too.
      box: top, left, bottom, right of the zoom in pixels, end exclusive.
      changed: pixels outside the hole where completed differs from truth.
    """

    frames: list[Tile]
    zooms: list[Tile]
    box: tuple[int, int, int, int]
    changed: int


def choose(values: Sequence[float], k: int) -> dict[str, list[int]]:
    """Picks the k worst, median and best of a list of scores.

    Higher is better: negate an error first. Equal scores are taken in the order
    of the list; NaN counts as worst. No index appears twice: a short list fills
    worst, then best, then median.

    Args:
      values: one score an image.
      k: how many of each.

    Returns:
      Indices under "worst" (worst first), "median" (rising) and "best" (best first).

    Raises:
      ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"choose: k must be at least 1, got {k}.")

    def level(index: int) -> tuple[bool, float]:
        broken = math.isnan(values[index])
        return not broken, 0.0 if broken else float(values[index])

    rank = sorted(range(len(values)), key=level)
    worst, rest = rank[:k], rank[k:]
    best = sorted(sorted(rest), key=level, reverse=True)[:k]  # stable in reverse too
    middle = [index for index in rest if index not in best]
    start = max(0, (len(middle) - k) // 2)
    return {"worst": worst, "median": middle[start : start + k], "best": best}


def difference_map(
    truth: np.ndarray, completed: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Returns |completed - truth| inside the hole, and exactly zero outside.

    Args:
      truth: uint8 [H, W] or [H, W, C].
      completed: uint8, the shape of `truth`.
      mask: [H, W] or [H, W, 1], 1 = hole.

    Returns:
      float32 [H, W] in grey levels, 0 to 255, the mean over channels.

    Raises:
      ValueError: the shapes disagree, or an image is not uint8.
    """
    hole = _hole(mask, truth)
    _expect_image("completed", completed, truth)
    return np.where(hole, _distance(truth, completed), np.float32(0))


def changed_outside(truth: np.ndarray, completed: np.ndarray, mask: np.ndarray) -> int:
    """Counts the pixels outside the hole where an image differs from the truth."""
    hole = _hole(mask, truth)
    _expect_image("completed", completed, truth)
    return int(((_distance(truth, completed) > 0) & ~hole).sum())


def hole_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the square around the hole that a zoom shows.

    The hole's bounding box with a margin of a third of its longer side (at least 8
    pixels), made square and moved into the image.

    Args:
      mask: [H, W] bool, with at least one hole pixel.

    Returns:
      top, left, bottom, right in pixels, end exclusive.
    """
    spans = []
    for axis in (1, 0):
        (inside,) = np.nonzero(mask.any(axis=axis))
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    longest = max(stop - start for start, stop in spans)
    side = longest + 2 * max(8, round(longest / 3))
    box = []
    for (start, stop), size in zip(spans, mask.shape, strict=True):
        low = min(max(0, (start + stop - side) // 2), max(0, size - side))
        box.append((low, min(size, low + side)))
    (top, bottom), (left, right) = box
    return top, left, bottom, right


def outline(mask: np.ndarray) -> np.ndarray:
    """Returns the valid pixels that touch the hole by a side, bool [H, W].

    The ring lies outside, so that no invented pixel is painted over.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    ring = np.zeros_like(padded)
    for axis in (0, 1):
        for shift in (-1, 1):
            ring |= np.roll(padded, shift, axis)
    return (ring & ~padded)[1:-1, 1:-1]


def scale_limit(panels: Sequence[Panel]) -> int:
    """Returns the end of the colour scale that all panels of a page share.

    The least of LIMITS that 99 % of the hole pixels of every image named "completed"
    stay below; above it the colour is that of the end.
    """
    top = 0.0
    for panel in panels:
        truth = panel.images["truth"]
        hole = _hole(panel.mask, truth)
        found = difference_map(truth, panel.images["completed"], hole)[hole]
        top = max(top, float(np.percentile(found, 99)))
    return next((limit for limit in LIMITS if top <= limit), LIMITS[-1])


def draw(panel: Panel, limit: int, reach: float = 1.0) -> Drawing:
    """Draws a panel: frames and zooms with the hole outlined, and difference maps.

    Args:
      panel: the image and what was made of it.
      limit: grey levels at the end of the colour scale.
      reach: length of a flow in full colour, in pixels.

    Returns:
      Pictures as PNG bytes.

    Raises:
      ValueError: "truth" or "completed" is missing, shapes disagree, an image is not
        uint8, a flow not finite, or the mask has no hole.
    """
    for name in ("truth", "completed"):
        if name not in panel.images:
            raise ValueError(
                f"panel {panel.name!r}: images must hold {name!r}, got "
                f"{list(panel.images)}."
            )
    truth = panel.images["truth"]
    hole = _hole(panel.mask, truth)
    if not hole.any():
        raise ValueError(f"panel {panel.name!r}: the mask has no hole.")
    box = top, left, bottom, right = hole_box(hole)
    window = (slice(top, bottom), slice(left, right))
    frames, zooms = [], []
    for name, image in panel.images.items():
        _expect_image(f"panel {panel.name!r}: {name}", image, truth)
        if name in CONTEXT or name == "completed":
            picture = _picture(image, hole, FRAME_SIDE)
            frames.append(Tile(name, picture, None, None))
        if name == "masked":
            continue
        picture = _picture(image[window], hole[window], ZOOM_SIDE)
        if name in CONTEXT:
            zooms.append(Tile(name, picture, None, None))
            continue
        found = difference_map(truth, image, hole)
        error, whole = float(found[hole].mean()), name in panel.whole
        if whole:
            found = _distance(truth, image)
            frame = _picture(image, hole, FRAME_SIDE)
            errors = _picture(paint(found, limit), hole, FRAME_SIDE)
            frames.append(Tile(name, frame, errors, None, whole=True))
        painted = _picture(paint(found[window], limit), hole[window], ZOOM_SIDE)
        zooms.append(Tile(name, picture, painted, error, whole=whole))
    if panel.flow is not None:
        if panel.flow.shape[:2] != hole.shape:
            raise ValueError(
                f"panel {panel.name!r}: flow must be {[*hole.shape, 2]}, got "
                f"{list(panel.flow.shape)}."
            )
        drawn = flow_colours.paint_flow(panel.flow, reach)
        for tiles, part, side in (
            (frames, (slice(None), slice(None)), FRAME_SIDE),
            (zooms, window, ZOOM_SIDE),
        ):
            picture = _picture(drawn[part], hole[part], side)
            length = flow_colours.longest(panel.flow[part])
            tiles.append(Tile("flow", picture, None, None, length))
    changed = changed_outside(truth, panel.images["completed"], hole)
    return Drawing(frames, zooms, box, changed)


def paint(values: np.ndarray, limit: int) -> np.ndarray:
    """Colours grey levels 0 to `limit` with magma; what is above takes its end.

    Args:
      values: [H, W] float, grey levels.
      limit: the end of the scale, in grey levels.

    Returns:
      uint8 [H, W, 3].
    """
    table = plots.extra("matplotlib").colormaps["magma"](np.arange(256))[:, :3]
    place = np.clip(np.rint(values * (255 / limit)), 0, 255).astype(int)
    return np.rint(table * 255).astype(np.uint8)[place]


def colour_bar() -> bytes:
    """Returns the colour scale of `paint` as a PNG, 256 x 1, zero at the left."""
    return png(paint(np.arange(256, dtype=np.float32)[None], 255))


def png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 1 or 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(_squeeze(image)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _picture(image: np.ndarray, hole: np.ndarray, side: int) -> bytes:
    """Fits an image to a side, nearest when larger, area mean when smaller."""
    height, width = hole.shape
    longest = max(height, width)
    if longest <= side:
        size = (width * (side // longest), height * (side // longest))
        method = Image.Resampling.NEAREST
    else:
        size = (round(width * side / longest), round(height * side / longest))
        method = Image.Resampling.BOX
    drawn = Image.fromarray(_squeeze(image)).convert("RGB").resize(size, method)
    marks = Image.fromarray(hole).resize(size, Image.Resampling.NEAREST)
    pixels, inside = np.array(drawn), np.asarray(marks)
    ring = outline(inside)
    pixels[ring | outline(inside | ring)] = OUTLINE  # two pixels wide
    return png(pixels)


def _distance(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    gap = np.abs(other.astype(np.float32) - truth.astype(np.float32))
    return gap if gap.ndim == 2 else gap.mean(axis=-1)


def _squeeze(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _hole(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    flat = _squeeze(np.asarray(mask))
    if flat.shape != truth.shape[:2]:
        raise ValueError(
            f"panel: mask must be {list(truth.shape[:2])}, got {list(flat.shape)}."
        )
    if not np.isin(flat, (0, 1)).all():
        raise ValueError("panel: mask must hold 0 (valid) and 1 (hole) alone.")
    return flat.astype(bool)


def _expect_image(where: str, image: np.ndarray, truth: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.shape != truth.shape:
        raise ValueError(
            f"{where} must be uint8 {list(truth.shape)} as the truth, got "
            f"{image.dtype} {list(image.shape)}."
        )
