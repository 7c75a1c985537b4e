"""Which two sections guide the repair of one between them, in a stack with damage."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.neighbors import MissingNeighborError

MARGIN = 64  # pixels around a hole that a guide has to show too
LEAST_SD = 1.0  # grey levels of 8 bits


class Pair(NamedTuple):
    """The guides of one section.

    Attributes:
      previous: position of the guide before it.
      following: position of the guide after it; with `one_sided`, the same one, which
        then stands for both.
      alpha: (z - previous) / (following - previous), the weight of `following`; 0.5
        where both are the same.
    """

    previous: int
    following: int
    alpha: float

    @property
    def one_sided(self) -> bool:
        """Whether one section stands for both."""
        return self.previous == self.following


def choose_pair(
    position: int,
    usable: Callable[[int], bool | None],
    *,
    max_gap: int = 3,
    one_sided: bool = False,
) -> Pair:
    """Chooses the nearest usable section on either side.

    Args:
      position: of the section to repair.
      usable: position -> whether that section may guide it; None where the stack has
        no such section. Asked from the nearest outwards, no further than needed.
      max_gap: how many sections away a guide may be.
      one_sided: take a single guide for both where one side has none.

    Returns:
      The pair; alpha follows the true distances.

    Raises:
      MissingNeighborError: one side has no guide and `one_sided` is not set, or
        neither side has one.
      ValueError: max_gap is below 1.

    Source: FlowInpaint section 9.3 and Eq. 1 to 3.
    """
    if max_gap < 1:
        raise ValueError(f"choose_pair: max_gap is {max_gap}; it must be 1 or more.")
    before, no_previous = _nearest(position, usable, -1, max_gap)
    after, no_following = _nearest(position, usable, 1, max_gap)
    if before is not None and after is not None:
        return Pair(before, after, (position - before) / (after - before))
    only = after if before is None else before
    if only is None:
        raise MissingNeighborError(
            f"section {position} has {no_previous} previous section and {no_following} "
            "following section; it cannot be restored from its neighbours."
        )
    if not one_sided:
        side = "following" if after is None else "previous"
        why = no_following if after is None else no_previous
        raise MissingNeighborError(
            f"section {position} has {why} {side} section; pass one_sided=True to use "
            f"section {only} alone"
        )
    return Pair(only, only, 0.5)


def _nearest(
    position: int, usable: Callable[[int], bool | None], way: int, max_gap: int
) -> tuple[int | None, str]:
    """The nearest guide on one side, or what there is instead."""
    for gap in range(1, max_gap + 1):
        verdict = usable(position + way * gap)
        if verdict:
            return position + way * gap, ""
        if verdict is None:
            return None, "no" if gap == 1 else "no undamaged"
    return None, f"no undamaged (of the next {max_gap})"


def may_guide(section: np.ndarray, damage: np.ndarray | None, hole: np.ndarray) -> bool:
    """Whether a section may guide the repair of a hole in another.

    It may if it has no damage inside the hole's bounding box grown by 64 pixels, and
    if it is not blank: a standard deviation below one grey level over its undamaged
    pixels counts as damage.

    Args:
      section: uint8 or uint16 [H, W, C].
      damage: [H, W, 1], 1 = its own damage; None if it has none.
      hole: [H, W, 1], 1 = hole of the section to repair, with one pixel or more.

    Raises:
      ValueError: shapes disagree, a dtype is not an image's, or there is no hole.

    Source: FlowInpaint sections 9.3 and 9.4.
    """
    size = section.shape[:2]
    for name, mask in (("hole", hole), ("damage", damage)):
        if mask is not None and mask.shape != (*size, 1):
            raise ValueError(
                f"may_guide: {name} must be {[*size, 1]}, got {list(mask.shape)}."
            )
    if section.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"may_guide: a section must be uint8 or uint16, got {section.dtype}."
        )
    rows, columns = (np.flatnonzero(hole.any(axis=(axis, 2))) for axis in (1, 0))
    if not len(rows):
        raise ValueError("may_guide: there is no hole, so nothing to guide.")
    shown = section
    if damage is not None and damage.any():
        box = damage[
            max(rows[0] - MARGIN, 0) : rows[-1] + 1 + MARGIN,
            max(columns[0] - MARGIN, 0) : columns[-1] + 1 + MARGIN,
        ]
        if box.any():
            return False
        shown = section[damage[..., 0] == 0]
    level = 1.0 if section.dtype == np.uint8 else 257.0
    return bool(shown.std(dtype=np.float64) >= LEAST_SD * level)
