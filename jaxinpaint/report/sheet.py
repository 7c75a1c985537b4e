"""One picture of what was given and what was invented: whole, and the hole enlarged."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxinpaint.report.panels import OUTLINE, hole_box, outline

SIDE = 320  # longer one of each frame, in pixels
LINE = 18  # of a caption
GAP = 8


def sheet(
    images: Mapping[str, np.ndarray], hole: np.ndarray, invented: np.ndarray
) -> bytes:
    """Draws frames side by side, and below them what lies around the hole, or a part.

    A yellow line runs along the hole, outside of it, in all but the first image and
    the mask.

    Args:
      images: caption -> uint8 or uint16 [H, W, 1 or 3], as given first; 16 bits are
        shown by their upper 8.
      hole: [H, W] bool, which a line is drawn along.
      invented: [H, W] bool, drawn as a frame of its own: white is invented.

    Returns:
      Bytes of a PNG.

    Raises:
      ValueError: there is no hole.
    """
    if not hole.any():
        raise ValueError("a sheet needs a hole, which its lower row enlarges.")
    top, left, bottom, right = _closer(hole)
    window = (slice(top, bottom), slice(left, right))
    names = list(images)
    mask = np.where(invented, 255, 0).astype(np.uint8)[..., None]
    frames = {**images, "invented": mask}
    rows = []
    for part in ((slice(None), slice(None)), window):
        ring = hole[part]
        row = [
            _frame(name, image[part], None if name in (names[0], "invented") else ring)
            for name, image in frames.items()
        ]
        rows.append(np.concatenate(row, axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "PNG")
    return buffer.getvalue()


def _closer(hole: np.ndarray) -> tuple[int, int, int, int]:
    """What the lower row enlarges: top, left, bottom, right in pixels, end exclusive.

    All of the hole, or, if it lies all over the image, the third of it where there is
    most hole.
    """
    box = hole_box(hole)
    third = max(1, max(hole.shape) // 3)
    if max(box[2] - box[0], box[3] - box[1]) <= max(hole.shape) // 2:
        return box
    rows, columns = (min(third, n) for n in hole.shape)
    sums = np.pad(hole.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        sums[rows:, columns:]
        - sums[:-rows, columns:]
        - sums[rows:, :-columns]
        + sums[:-rows, :-columns]
    )
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left), int(top) + rows, int(left) + columns


def _frame(caption: str, image: np.ndarray, ring: np.ndarray | None) -> np.ndarray:
    """A captioned picture, uint8 [h + LINE + GAP, w + GAP, 3], its longer side SIDE."""
    shown = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    flat = shown[..., 0] if shown.shape[-1] == 1 else shown
    height, width = flat.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    pixels = np.array(Image.fromarray(flat).convert("RGB").resize(size, way))
    if ring is not None:
        marks = Image.fromarray(ring).resize(size, Image.Resampling.NEAREST)
        pixels[outline(np.asarray(marks))] = OUTLINE
    frame = Image.new("RGB", (size[0] + GAP, size[1] + LINE + GAP), "white")
    ImageDraw.Draw(frame).text((2, 2), caption, "black", ImageFont.load_default(12))
    frame.paste(Image.fromarray(pixels), (0, LINE))
    return np.asarray(frame)
