"""Which section beside a damaged one guides its repair."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class MissingNeighborError(ValueError):
    """No section may serve as neighbour; nothing else is put in its place."""


class NeighborLeakError(ValueError):
    """The neighbour is the target itself, so the hole would be copied, not restored."""


class Candidate(NamedTuple):
    """A section that may serve as neighbour.

    Attributes:
      position: its place in the stack.
      image: uint8 or uint16 [H, W, C], the same window as the target.
      damage: uint8 [H, W, 1], 1 = its own damage; None if it has none.
    """

    position: int
    image: np.ndarray
    damage: np.ndarray | None


class Choice(NamedTuple):
    """The chosen neighbour.

    Attributes:
      position: its place in the stack.
      distance: how many sections away, 1 for an adjacent one.
      psnr: dB to the target over the pixels that counted; inf if they are equal.
    """

    position: int
    distance: int
    psnr: float


def psnr(
    image: np.ndarray, other: np.ndarray, counts: np.ndarray | None = None
) -> float:
    """PSNR on the 8-bit scale.

        10 log10(255^2 / mean((image - other)^2))

    Args:
      image: uint8 or uint16 [H, W, C]; 16-bit values are divided by 257.
      other: the same shape and dtype.
      counts: bool [H, W, 1], the pixels that count; all of them if None.

    Returns:
      dB; inf for equal pixels, nan if no pixel counts.

    Raises:
      ValueError: shapes or dtypes disagree, or a dtype is not an image's.

    Source: CCPGAN Eq. 10, with the mean over channels too (R40).
    """
    if image.shape != other.shape or image.dtype != other.dtype:
        raise ValueError(
            f"psnr: a section is {image.dtype} {list(image.shape)}, its neighbour "
            f"{other.dtype} {list(other.shape)}."
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"psnr: sections must be uint8 or uint16, got {image.dtype}.")
    if counts is not None:
        image, other = image[counts[..., 0]], other[counts[..., 0]]
    if image.size == 0:
        return math.nan
    error = np.subtract(image, other, dtype=np.float32).ravel()
    scale = 1.0 if image.dtype == np.uint8 else 257.0
    mse = float(np.square(error / np.float32(scale)).mean(dtype=np.float64))
    return math.inf if mse == 0.0 else 10.0 * math.log10(255.0**2 / mse)


def choose_neighbor(
    position: int,
    image: np.ndarray,
    candidates: Sequence[Candidate],
    *,
    mask: np.ndarray | None,
    allow_distant_neighbor: bool,
    spacing: int = 1,
) -> Choice:
    """Chooses the neighbour with the larger PSNR to the target.

    A tie goes to the lower position, which is the previous section. A candidate
    whose damage overlaps the target's hole is not eligible.

    Args:
      position: the target's place in the stack.
      image: uint8 or uint16 [H, W, C], the target.
      candidates: the sections to choose from, in any order.
      mask: [H, W, 1], 1 = hole. Only pixels valid in both sections count, so the
        choice never reads what the hole hides. None for an undamaged target in
        training: the whole image counts.
      allow_distant_neighbor: also take candidates that are farther away than
        `spacing`.
      spacing: how many sections away the neighbours are, 1 for adjacent ones.

    Returns:
      The choice.

    Raises:
      MissingNeighborError: no candidate is near enough and eligible.
      NeighborLeakError: an eligible candidate is the target, or equal to it in
        every pixel. A constant window (blank resin) holds nothing to leak.
      ValueError: shapes or dtypes disagree.

    Warns:
      UserWarning: the chosen neighbour is farther away than `spacing`.

    Source: CCPGAN section III, R35.
    """
    best = None
    why = "there is no other section"
    for other in sorted(candidates, key=lambda one: one.position):
        distance = abs(other.position - position)
        if distance > spacing and not allow_distant_neighbor:
            why = f"section {other.position} is {distance} sections away"
            continue
        counts = None if mask is None else mask == 0
        if other.damage is not None and other.damage.any():
            if mask is None or (other.damage.astype(bool) & (mask != 0)).any():
                why = f"section {other.position} is damaged inside the hole"
                continue
            counts = (mask == 0) & (other.damage == 0)
        score = psnr(image, other.image, counts)
        same = np.array_equal(image, other.image) and image.min() != image.max()
        if distance == 0 or same:
            raise NeighborLeakError(
                f"section {other.position} equals section {position} in every pixel; "
                "remove the duplicate from the stack."
            )
        if math.isnan(score):
            why = f"no pixel is valid in both it and section {other.position}"
        elif best is None or score > best.psnr:
            best = Choice(other.position, distance, score)
    if best is None:
        raise MissingNeighborError(f"section {position} has no neighbour: {why}.")
    if best.distance > spacing:
        warnings.warn(
            f"section {position} is guided by section {best.position}, "
            f"{best.distance} sections away.",
            stacklevel=2,
        )
    return best
