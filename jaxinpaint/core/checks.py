"""Checks at the doors of public functions, and the errors they raise.

Shapes and dtypes are checked while tracing, values on the host before a batch goes
to a device. Nothing is clipped, cropped, resized or filled to make an input fit.
"""

import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


class InpaintInputError(ValueError):
    """Base of all errors about the arrays a caller hands in."""


class ShapeMismatchError(InpaintInputError):
    """A rank, an axis or a channel count differs from what is asked for."""


class UnalignedSizeError(InpaintInputError):
    """Height or width does not fit the network's stride; padding would help."""


class DTypeError(InpaintInputError):
    """A dtype other than the one asked for, usually integers not normalised."""


class NonFiniteInputError(InpaintInputError):
    """NaN or infinity where a value counts."""


class RangeError(InpaintInputError):
    """Values outside [-1, 1], usually a forgotten normalisation."""


class MaskValueError(InpaintInputError):
    """A mask that is not exactly 0 and 1, or looks inverted."""


class MaskCoverageError(InpaintInputError):
    """A mask with no hole, or with nothing but hole, where that is no use."""


class NoValidKeyError(InpaintInputError):
    """Neither the image nor the neighbour has a patch that may be copied."""


def expect_shape(where: str, name: str, array: Any, axes: str) -> tuple[int, ...]:
    """Checks a shape against words such as "B H W 3": numbers match, letters are free.

    Returns:
      The shape.

    Raises:
      ShapeMismatchError: the rank or a numbered axis differs.
    """
    want = axes.split()
    fits = array.ndim == len(want) and all(
        not w.isdigit() or int(w) == n for w, n in zip(want, array.shape, strict=True)
    )
    if not fits:
        raise ShapeMismatchError(
            f"{where}: {name} must be [{', '.join(want)}], got {list(array.shape)}."
        )
    return array.shape


def expect_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Checks a value against the choices there are.

    Args:
      name: of the value and where it stands: "config.loss.form", "Generator: norm".
      value: what was given.
      choices: what may be given.

    Raises:
      ValueError: it is none of them.
    """
    if value not in choices:
        last = re.split(r"[. ]", name)[-1]
        raise ValueError(f"{name} is {value!r}; {last} must be one of {list(choices)}.")


def expect_multiple(where: str, shape: tuple[int, ...], of: int, least: int) -> None:
    """Checks height and width of [B, H, W, C] against a network's stride.

    Raises:
      UnalignedSizeError: not a multiple of `of`, or below `least`.
    """
    height, width = shape[1:3]
    if height % of or width % of or height < least or width < least:
        fit = [max(least, math.ceil(n / of) * of) for n in (height, width)]
        raise UnalignedSizeError(
            f"{where}: height and width must be multiples of {of} and at least "
            f"{least}, got {height} x {width}; pad to {fit[0]} x {fit[1]} with "
            "pad_to_multiple and crop the result."
        )


def expect_dtype(where: str, name: str, array: Any, *allowed: str) -> None:
    """Checks a dtype by name.

    Raises:
      DTypeError: it is none of `allowed`.
    """
    if str(array.dtype) not in allowed:
        raise DTypeError(
            f"{where}: {name} must be {' or '.join(allowed)}, got {array.dtype}; "
            "integer images are scaled to [-1, 1] first."
        )


def check_mask_values(where: str, mask: np.ndarray) -> None:
    """Checks on the host that a mask [B, H, W, 1] holds 0 and 1 alone.

    Raises:
      MaskValueError: another value.
    """
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise MaskValueError(
            f"{where}: mask must hold 0 (valid) and 1 (hole) alone, got "
            f"{mask[at]} at {at}; divide a 0-255 mask by 255, threshold soft edges."
        )


def check_mask(where: str, mask: np.ndarray, *, allow_large_holes: bool) -> None:
    """Checks the values of a mask [B, H, W, 1] (1 = hole) on the host.

    Raises:
      MaskValueError: a value other than 0 and 1, or a hole above 95 %, which is
        usually a mask of the other polarity.
      MaskCoverageError: an image with nothing but hole.

    Warns:
      UserWarning: a hole above 76.6 %, the largest that CCPGAN evaluates.
    """
    check_mask_values(where, mask)
    # float64, because float32 cannot tell one valid pixel in 2**25 from none.
    ratios = mask.mean(axis=(1, 2, 3), dtype=np.float64)
    worst = int(ratios.argmax())
    if ratios[worst] == 1.0:
        raise MaskCoverageError(
            f"{where}: sample {worst} of mask is all hole; no valid pixel is left."
        )
    if ratios[worst] > 0.95 and not allow_large_holes:
        raise MaskValueError(
            f"{where}: sample {worst} of mask is {ratios[worst]:.1%} hole; 1 marks "
            "the hole, so it may be inverted. Pass allow_large_holes=True if not."
        )
    if ratios[worst] > 0.766:
        warnings.warn(
            f"{where}: sample {worst} of mask is {ratios[worst]:.1%} hole, outside "
            "the evaluated range (up to 76.6 %).",
            stacklevel=2,
        )


def check_image(
    where: str, name: str, image: np.ndarray, counts: np.ndarray | None = None
) -> None:
    """Checks the values of an image [B, H, W, C] on the host.

    Args:
      where: the caller, for the message.
      name: the tensor, for the message.
      image: float values that should be finite and in [-1, 1] (tolerance 1e-3).
      counts: [B, H, W, 1] bool, the pixels that count; all of them if None.

    Raises:
      NonFiniteInputError: NaN or infinity at a pixel that counts.
      RangeError: a value outside the range at a pixel that counts.
    """
    values = np.asarray(image, np.float32)
    inside = np.ones_like(values, bool) if counts is None else counts
    broken = ~np.isfinite(values) & inside
    if broken.any():
        at = tuple(int(i) for i in np.argwhere(broken)[0])
        raise NonFiniteInputError(f"{where}: {name} is {values[at]} at {at}.")
    outside = (np.abs(values) > 1.0 + 1e-3) & inside
    if outside.any():
        at = tuple(int(i) for i in np.argwhere(outside)[0])
        raise RangeError(
            f"{where}: {name} must lie in [-1, 1], got {values[at]} at {at}; "
            "scale an 8-bit image with v / 127.5 - 1."
        )


def check_training_batch(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it goes to the devices.

    Integer images need no check; all others, bfloat16 too, must be finite and in
    range everywhere, since the hole is ground truth in training.

    Raises:
      InpaintInputError: as `check_mask` and `check_image`; also MaskCoverageError
        for a mask without a hole, which leaves the losses nothing to learn from.
    """
    for name, array in batch.items():
        if name == "mask":
            check_mask(where, array, allow_large_holes=True)
            empty = ~np.asarray(array, bool).any(axis=(1, 2, 3))
            if empty.any():
                raise MaskCoverageError(
                    f"{where}: sample {int(empty.argmax())} of mask has no hole."
                )
        elif array.dtype.kind not in "iub":
            check_image(where, name, array)


def pad_to_multiple(array: np.ndarray, of: int, least: int) -> np.ndarray:
    """Pads [B, H, W, C] at the bottom and right until height and width fit.

    Edge pixels repeat, those of a mask too: next to a hole at the border the padding
    is hole, so that nothing which lay in the hole is ever read. Crop the result back
    with `[:, :H, :W]`.
    """
    _, height, width, _ = array.shape
    pad = [max(least, math.ceil(n / of) * of) - n for n in (height, width)]
    return np.pad(array, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
