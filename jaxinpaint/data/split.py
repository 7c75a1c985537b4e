"""Which sections are trained on, which are held out, and which may guide which."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

_SPLIT = 1  # third word of the seed; training batches have two words


class Split(NamedTuple):
    """Positions of undamaged sections, each in one part, in axial order."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


class Sample(NamedTuple):
    """A target's position and those of the sections beside it that may guide it."""

    target: int
    candidates: tuple[int, ...]


def split_sections(
    positions: Sequence[int],
    how: str,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Split:
    """Splits undamaged sections into training, validation and test.

    Args:
      positions: the sections to split, in axial order.
      how: "random", seeded, or "block": test at the end of the stack, validation
        before it, the rest training.
      validation_fraction: of the sections, rounded, at least one unless 0.
      test_fraction: of the sections, likewise.
      seed: of the random split.

    Returns:
      The split; disjoint, and together all of `positions`.

    Raises:
      ValueError: another word, a fraction outside [0, 1), or fewer than two training
        sections left.

    Source: CCPGAN section IV, R37.
    """
    if how not in ("random", "block"):
        raise ValueError(f"config.data.split is '{how}'; it is 'random' or 'block'.")
    fractions = (validation_fraction, test_fraction)
    if not all(0.0 <= f < 1.0 for f in fractions):
        raise ValueError(f"split: fractions must be in [0, 1), got {fractions}.")
    held = [max(round(f * len(positions)), 1 if f else 0) for f in fractions]
    keep = len(positions) - sum(held)
    if keep < 2:
        raise ValueError(
            f"split: {len(positions)} undamaged sections less {held[0]} for "
            f"validation and {held[1]} for test leave {max(keep, 0)} for training; "
            "at least 2 are needed."
        )
    order = [int(z) for z in positions]
    if how == "random":
        rng = np.random.default_rng([seed, 0, _SPLIT])
        order = rng.permutation(order).tolist()
    parts = order[:keep], order[keep : keep + held[0]], order[keep + held[0] :]
    return Split(*(tuple(sorted(part)) for part in parts))


def list_samples(
    targets: Collection[int],
    allowed: Collection[int],
    damaged: Collection[int],
    both: bool,
    spacing: int = 1,
) -> tuple[Sample, ...]:
    """Lists the targets that have guides.

    Args:
      targets: positions of undamaged sections.
      allowed: positions of the sections that may guide.
      damaged: positions of damaged sections. One of them may guide where its damage
        misses the hole, so a target needs an undamaged one beside it too.
      both: whether a target needs the previous and the following section, undamaged.
      spacing: how many sections away both are.

    Returns:
      One sample for each target that has what it needs.
    """
    samples = []
    for z in targets:
        near = tuple(n for n in (z - spacing, z + spacing) if n in allowed)
        if sum(n not in damaged for n in near) >= (2 if both else 1):
            samples.append(Sample(z, near))
    return tuple(samples)


class Parts(NamedTuple):
    """Positions of items that are kept for training and that are held out.

    Attributes:
      kept: in order.
      held: likewise.
      kept_groups: the groups of what is kept, sorted.
      held_groups: of what is held out.
    """

    kept: tuple[int, ...]
    held: tuple[int, ...]
    kept_groups: list[str]
    held_groups: list[str]


def hold_out(
    groups: Sequence[str], unit: str, fraction: float, seed: int, what: str
) -> Parts:
    """Holds out a share of items, by whole groups or one by one.

    The groups are sorted and permuted by the seed; the first ones are held out.

    Args:
      groups: of each item.
      unit: "group", or "tile" for single items.
      fraction: of the groups or items, rounded, at least one unless 0.
      seed: of the permutation.
      what: "validation" or "test", for messages.

    Returns:
      The parts; disjoint, and together all items.

    Raises:
      ValueError: another unit, a fraction outside [0, 1), or nothing left to train on.

    Source: glomeruli specification 5.4.
    """
    if unit not in ("group", "tile"):
        raise ValueError(
            f"config.data.split_unit is '{unit}'; it is 'group' or 'tile'."
        )
    if not 0.0 <= fraction < 1.0:
        raise ValueError(
            f"config.data.{what}_fraction is {fraction}; it must be in [0, 1)."
        )
    owners: Sequence[str | int] = groups if unit == "group" else range(len(groups))
    names = sorted(set(owners))
    count = max(1, round(fraction * len(names))) if fraction else 0
    order = np.random.default_rng(seed).permutation(len(names))
    held = {names[at] for at in order[:count]}
    if names and len(held) == len(names):
        raise ValueError(
            f"{len(names)} {unit}(s) less {count} for {what} leave none for training; set "
            f"config.data.{what}_fraction to 0, or config.data.split_unit to 'tile'."
        )
    kept, out = (
        tuple(at for at, owner in enumerate(owners) if (owner in held) == is_held)
        for is_held in (False, True)
    )
    return Parts(
        kept,
        out,
        sorted({groups[at] for at in kept}),
        sorted({groups[at] for at in out}),
    )
