"""Checks of what is asked of a feature network: which tensors, of how small an image."""

import jax

from jaxinpaint.core.checks import UnalignedSizeError, expect_shape


def last_tap(where: str, taps: tuple[str, ...], known: tuple[str, ...]) -> int:
    """Position in `known` of the last tensor asked for.

    Raises:
      ValueError: no taps, or an unknown one.
    """
    unknown = [tap for tap in taps if tap not in known]
    if unknown or not taps:
        raise ValueError(
            f"{where}: taps must be some of {', '.join(known)}; got "
            f"{', '.join(unknown) or 'none'}."
        )
    return max(known.index(tap) for tap in taps)


def expect_least(where: str, image: jax.Array, least: int, tap: str) -> None:
    """Checks that an image [B, H, W, C] is no smaller than a tap needs.

    Raises:
      ShapeMismatchError: no four axes.
      UnalignedSizeError: a side below `least`.
    """
    _, height, width, _ = expect_shape(where, "image", image, "B H W C")
    if min(height, width) < least:
        raise UnalignedSizeError(
            f"{where}: {tap} needs sides of at least {least}, got {height} x {width}; "
            "give a larger image or ask for an earlier tap."
        )
