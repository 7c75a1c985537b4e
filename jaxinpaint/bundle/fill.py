"""Restores images with a bundle: padded, composited, in the dtype they came in."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxinpaint.bundle.load import Bundle, Program
from jaxinpaint.core.checks import (
    DTypeError,
    MaskCoverageError,
    MaskValueError,
    ShapeMismatchError,
    UnalignedSizeError,
    check_image,
    check_mask_values,
)
from jaxinpaint.core.levels import HALF, scale_batch, to_levels

LARGE = 0.95  # of an image; a larger hole is usually a mask of the other polarity


class Filled(NamedTuple):
    """A restored image.

    Attributes:
      image: shape and dtype of what was given; valid pixels bit for bit.
      invented: bool, shape of the image with one channel, or none where it had no axis
        of channels; true where the pixel is the network's.
    """

    image: np.ndarray
    invented: np.ndarray


def fill(
    bundle: Bundle,
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    protect: np.ndarray | None = None,
    allow_large_holes: bool = False,
    **neighbors: np.ndarray,
) -> Filled:
    """Restores the hole of an image, or of a batch of them.

    The same as the Python path of the run: what lies in the hole is set to the lowest
    level first, the image is padded at the bottom and right with its edge pixels to a
    size that the bundle knows, and the result is cropped and put into the hole.

    Args:
      bundle: from `load`.
      image: [H, W] (grey), [H, W, C] or [B, H, W, C]; uint8, uint16 of the full range,
        or any float dtype in [-1, 1].
      mask: [H, W], [H, W, 1], [B, H, W] or [B, H, W, 1], 1 = hole: 0 and 1, or bool.
        None for a bundle that needs none (`bundle.model["mask"]["required"]`); then
        every pixel may change.
      protect: like mask; pixels where it is 1 never change.
      allow_large_holes: take masks that mark more than 95 % of an image.
      **neighbors: `bundle.model["inputs"]` says which, by name; shaped like image, of
        uint8, uint16 or float like it.

    Returns:
      The image, and where it was invented. Where there is no hole, no network runs.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.
      TypeError: an input that the bundle does not know.
      ValueError: the bundle restores no images, or its network gave NaN.
    """
    where = "fill"
    model = bundle.model
    if "completed" not in model["outputs"]:
        raise ValueError(
            f"{where}: this bundle makes {sorted(model['outputs'])} and restores no "
            "image; call its programs themselves."
        )
    channels, given = model["image"]["channels"], np.asarray(image)
    axes = given.ndim
    whole = _images(where, "image", given, channels)
    batch: dict[str, np.ndarray] = {"image": whole}
    batch |= _sections(where, model, neighbors, axes, whole.shape)
    free = np.ones((*whole.shape[:3], 1), bool)
    if mask is not None:
        hole = _mask(where, "mask", mask, axes, whole.shape)
        _check_holes(where, hole, model["mask"]["may_cover_all"], allow_large_holes)
        batch["mask"] = hole
        free = hole > 0
    elif model["mask"]["required"]:
        raise ShapeMismatchError(
            f"{where}: mask is missing; {model['system']} needs one (1 = hole)."
        )
    if np.issubdtype(whole.dtype, np.floating):
        check_image(where, "image", whole, None if mask is None else ~free)
    if mask is not None:
        lowest = 0 if str(whole.dtype) in HALF else -1.0
        batch["image"] = np.where(free, np.asarray(lowest, whole.dtype), whole)
    if protect is not None:
        free &= _mask(where, "protect", protect, axes, whole.shape) == 0
    filled = whole.copy()
    if free.any():
        filled = np.where(free, _run(where, bundle, batch, str(whole.dtype)), whole)
    return Filled(filled.reshape(given.shape), _like(free, axes))


def _run(
    where: str, bundle: Bundle, batch: Mapping[str, np.ndarray], dtype: str
) -> np.ndarray:
    """`completed` of a batch [B, H, W, C], in a dtype."""
    count, height, width, _ = batch["image"].shape
    program, sides = choose(where, bundle, set(batch), height, width)
    pads = ((0, 0), (0, sides[0] - height), (0, sides[1] - width), (0, 0))
    padded = {name: np.pad(array, pads, mode="edge") for name, array in batch.items()}
    step = program.batch or count
    rows = []
    for first in range(0, count, step):
        inputs = scale_batch(
            {n: jnp.asarray(_small(x[first : first + step])) for n, x in padded.items()}
        )
        rows.append(np.asarray(program.call(bundle.variables, inputs)["completed"]))
    made = np.concatenate(rows)[:, :height, :width]
    if not np.isfinite(made).all():
        raise ValueError(
            f"{where}: the network gave NaN or infinity; its training diverged, so "
            "export an earlier step."
        )
    return to_levels(made, dtype) if dtype in HALF else made.astype(dtype)


def choose(
    where: str, bundle: Bundle, names: set[str], height: int, width: int
) -> tuple[Program, tuple[int, int]]:
    """The program for images of a size, and the height and width to pad them to.

    Raises:
      UnalignedSizeError: the bundle was exported for fixed sizes, and none is as large.
    """
    programs = [one for one in bundle.programs if set(one.inputs) == names]
    assert programs, f"no program takes {sorted(names)}"
    stride = bundle.model["stride"]
    of, least = stride["multiple"], stride["least"]
    for one in programs:
        if one.height is None or one.width is None:
            fit = [max(least, math.ceil(n / of) * of) for n in (height, width)]
            return one, (fit[0], fit[1])
        if one.height >= height and one.width >= width:
            return one, (one.height, one.width)
    sizes = ", ".join(f"{one.height} x {one.width}" for one in programs)
    raise UnalignedSizeError(
        f"{where}: image is {height} x {width}, and this bundle was exported for "
        f"{sizes} at most; export it with --sizes {max(height, width)}, or cut the "
        "image around its hole."
    )


def _small(array: np.ndarray) -> np.ndarray:
    """float32 of any other float, which jax would turn into it with a warning."""
    return array if array.dtype.kind in "iu" else array.astype(np.float32)


def _images(where: str, name: str, array: np.ndarray, channels: int) -> np.ndarray:
    """[B, H, W, C] of [H, W], [H, W, C] or itself."""
    if str(array.dtype) not in HALF and not np.issubdtype(array.dtype, np.floating):
        raise DTypeError(
            f"{where}: {name} must be uint8, uint16 or float in [-1, 1], got "
            f"{array.dtype}."
        )
    whole = array
    if whole.ndim == 2:
        whole = whole[..., None]
    if whole.ndim == 3:
        whole = whole[None]
    if whole.ndim != 4 or whole.shape[-1] != channels or 0 in whole.shape:
        grey = "[H, W], " if channels == 1 else ""
        raise ShapeMismatchError(
            f"{where}: {name} must be {grey}[H, W, {channels}] or [B, H, W, "
            f"{channels}], got {list(array.shape)}."
        )
    return whole


def _sections(
    where: str,
    model: Mapping[str, Any],
    given: Mapping[str, np.ndarray],
    axes: int,
    shape: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """The further inputs that the bundle names, each shaped like the image."""
    asked = {
        told["name"]: told
        for told in model["inputs"]
        if told["name"] not in ("image", "mask")
    }
    for name in given:
        if name not in asked:
            raise TypeError(
                f"{where}: {name} is no input of this bundle; it takes image, mask"
                f"{''.join(f', {n}' for n in asked)}."
            )
    found = {}
    for name, told in asked.items():
        if given.get(name) is None:
            raise ShapeMismatchError(f"{where}: {name} is missing; it is {told['is']}.")
        array = np.asarray(given[name])
        found[name] = _images(where, name, array, shape[-1])
        if array.ndim != axes or found[name].shape != shape:
            raise ShapeMismatchError(
                f"{where}: {name} must be shaped like image, {list(shape)}, got "
                f"{list(array.shape)}."
            )
        if np.issubdtype(array.dtype, np.floating):
            check_image(where, name, found[name])
    return found


def _mask(
    where: str, name: str, given: np.ndarray, axes: int, shape: tuple[int, ...]
) -> np.ndarray:
    """[B, H, W, 1] uint8 of a mask with or without an axis of channels."""
    array = np.asarray(given)
    want = {  # without and with the axis, as the image has it
        2: (shape[1:3],),
        3: (shape[1:3], (*shape[1:3], 1)),
        4: (shape[:3], (*shape[:3], 1)),
    }[axes]
    if array.shape not in want:
        told = " or ".join(str(list(one)) for one in want)
        raise ShapeMismatchError(
            f"{where}: {name} must be {told}, got {list(array.shape)}."
        )
    whole = array.reshape(*shape[:3], 1)
    check_mask_values(where, whole)
    return whole.astype(np.uint8)


def _check_holes(
    where: str, mask: np.ndarray, may_cover_all: bool, large: bool
) -> None:
    """Refuses what leaves nothing to restore from, or looks inverted."""
    # float64, because float32 cannot tell one valid pixel in 2**25 from none.
    ratios = mask.mean(axis=(1, 2, 3), dtype=np.float64)
    worst = int(ratios.argmax())
    if ratios[worst] == 1.0:
        if not may_cover_all:
            raise MaskCoverageError(
                f"{where}: sample {worst} of mask is all hole; no valid pixel is left."
            )
    elif ratios[worst] > LARGE and not large:
        raise MaskValueError(
            f"{where}: sample {worst} of mask is {ratios[worst]:.1%} hole; 1 marks the "
            "hole, so it may be inverted. Pass allow_large_holes=True if not."
        )


def _like(free: np.ndarray, axes: int) -> np.ndarray:
    """The invention mask [B, H, W, 1] with the axes of the image."""
    if axes == 4:
        return free
    return free[0] if axes == 3 else free[0, ..., 0]
