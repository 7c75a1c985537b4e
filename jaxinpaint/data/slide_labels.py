"""Labels of slides, from masks or outlines."""

import warnings
from pathlib import Path

import numpy as np

from jaxinpaint.data import images, slide_readers
from jaxinpaint.data.outlines import outline_label
from jaxinpaint.data.reduction import reduced_mask, reduced_side
from jaxinpaint.data.slide_tables import Row

OVERLAP = 0.001  # of the pixels of glomeruli that may lie in both classes


def expect_sizes(row: Row, found: slide_readers.Pixels) -> None:
    """Checks the sizes of masks, from headers.

    Args:
      row: the slide's files.
      found: its image.

    Raises:
      ValueError: a mask is not of the image's size.
    """
    for path in row.masks:
        if path.suffix.lower() != ".geojson":
            height, width = slide_readers.image_size(path)
            if (height, width) != (found.height, found.width):
                raise ValueError(
                    f"{path} is {height} x {width}, image {row.image} is {found.height} "
                    f"x {found.width}; they must be alike."
                )


def read_label(
    row: Row, size: tuple[int, int], factor: float, threshold: int, max_pixels: int
) -> np.ndarray:
    """Reads the label of a slide at working resolution.

    Args:
      row: the slide's files.
      size: rows and columns of its image.
      factor: pixels of the file for one of the label.
      threshold: as of `read_mask`.
      max_pixels: height * width of a mask above which it is refused.

    Returns:
      uint8 [H, W, 2], 1 in normal and in sclerosed glomeruli, never both.

    Raises:
      ValueError: as `read_mask` or `outline_label`, or classes that overlap.

    Warns:
      UserWarning: a few pixels are in both classes.

    Source: glomeruli specification 5.3 and 5.4.
    """
    height, width = (reduced_side(side, factor) for side in size)
    if len(row.masks) == 1:
        label = outline_label(row.masks[0], height, width, factor)
        _settle(label, row)
        return label
    label = np.stack([read_mask(p, threshold, max_pixels) for p in row.masks], axis=-1)
    _settle(label, row)
    if factor != 1:
        label = np.stack([reduced_mask(label[..., k], factor) for k in (0, 1)], axis=-1)
        label[..., 0] &= 1 - label[..., 1]  # two classes may each have half a pixel
    return label


def read_mask(path: Path, threshold: int, max_pixels: int) -> np.ndarray:
    """Reads the mask of a class.

    Args:
      path: grey, of the values {0, 255} or {0, 1}.
      threshold: values of at least this are 1; 0 refuses other values.
      max_pixels: height * width above which it is refused.

    Returns:
      uint8 [H, W] of 0 and 1.

    Raises:
      ValueError: colour, other values (ten of them are listed), or all of it is 1.
    """
    pixels = slide_readers.read_channels(path, max_pixels)
    if pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise images.ImageFileError(f"{path}: a mask must be grey, this has colours.")
    plane = pixels[..., 0]
    if threshold:
        mask = plane >= threshold
    else:
        values = np.unique(plane).tolist()
        if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
            raise images.ImageFileError(
                f"{path}: a mask holds 0 and 255, or 0 and 1; found {values[:10]}. Set "
                "config.data.mask_threshold to take values of at least that as 1."
            )
        mask = plane > 0
    if mask.all():
        raise images.ImageFileError(
            f"{path}: the mask covers the whole image; is it inverted? 1 / white means "
            "glomerulus."
        )
    return mask.astype(np.uint8)


def _settle(label: np.ndarray, row: Row) -> None:
    """Gives the few pixels of both classes to the sclerosed one, in place."""
    where = " and ".join(str(path) for path in row.masks)
    both = label.all(axis=-1)
    count, marked = int(both.sum()), int(label.any(axis=-1).sum())
    if not count:
        return
    rows, columns = np.nonzero(both)
    place = (
        f"{count} pixels, within rows {rows.min()} to {rows.max()} and columns "
        f"{columns.min()} to {columns.max()}, are both normal and sclerosed"
    )
    if count > OVERLAP * marked:
        raise ValueError(
            f"{where}: {place}; that is more than {OVERLAP:.1%} of the {marked} marked."
        )
    warnings.warn(f"{where}: {place}; they are taken as sclerosed.", stacklevel=2)
    label[both, 0] = 0
