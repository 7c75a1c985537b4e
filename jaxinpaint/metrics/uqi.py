"""The universal quality index: correlation, brightness and contrast in 8 x 8 windows.

Z. Wang, A. C. Bovik, "A universal image quality index", IEEE Signal Processing
Letters, 2002.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import UnalignedSizeError
from jaxinpaint.metrics.pixel import check_pair, region_mean

SIDE = 8


class _Moments(NamedTuple):
    """Sums over the pixels of a window, each [B, H', W', C].

    Attributes:
      sums: of both images' levels.
      power: of the squared deviations from the window's mean, both images together.
      product: of the products of the two images' deviations.
    """

    sums: tuple[jax.Array, jax.Array]
    power: jax.Array
    product: jax.Array


@jax.jit
def uqi(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Universal quality index, mean over 8 x 8 windows one pixel apart.

        q = (2 cov / (var_t + var_p)) * (2 mean_t mean_p / (mean_t^2 + mean_p^2))

    A factor 0 / 0 is 1: the first where both windows are constant, the second where
    both are black. Windows lie wholly inside the image; a window counts when the
    pixel in its row 4 and column 4 (of 0..7; below and right of its middle) is in
    the region. Zeros are found exactly at 8 and at 16 bits.

    The index has no constants, so a window that is constant in one image alone scores
    0 however little the other one varies. It belongs on the levels of the written
    file: a dark background with noise of a fifth of a level scores far lower before
    rounding than after, and 16-bit files keep noise that 8 bits round away. Compare
    files of one depth.

    Args:
      truth: [B, H, W, C] float32, whole grey levels in 0..data_range.
      prediction: shaped and ranged like `truth`.
      region: [B, H, W, 1] of 0 and 1, 1 = counts.
      data_range: largest grey level, 255 or 65535; it changes nothing, scaling both
        images scales no window's score.

    Returns:
      [B] in -1..1, 1 for equal images, mean over counted windows and channels; NaN
      where no window counts.

    Raises:
      ValueError: a shape or dtype does not fit, or a side is below 8.

    Source: IPA-MedGAN specification 5.4. Deviation (the same place asks for float64):
    float32, without raw sums of squares, so that 0 is exact here too (`_folded`).
    """
    shape = check_pair("uqi", truth, prediction, region)
    if min(shape[1:3]) < SIDE:
        raise UnalignedSizeError(
            f"uqi: an {SIDE} x {SIDE} window needs sides of at least {SIDE}, got "
            f"{shape[1]} x {shape[2]}."
        )
    nothing = jnp.zeros_like(truth)
    rows = _folded(_Moments((truth, prediction), nothing, nothing), 1, 1)
    window = _folded(rows, 2, SIDE)
    sum_t, sum_p = (total / (SIDE * SIDE) for total in window.sums)
    structure = _ratio(2.0 * window.product, window.power)
    brightness = _ratio(2.0 * sum_t * sum_p, sum_t**2 + sum_p**2)
    above, below = SIDE // 2, SIDE // 2 - 1
    inner = region[:, above : shape[1] - below, above : shape[2] - below]
    return region_mean(structure * brightness, inner)


def _folded(parts: _Moments, axis: int, count: int) -> _Moments:
    """Joins 8 neighbours along an axis, each of `count` pixels, into one.

        M = sum_k M_k + sum_k (8 S_k - S)^2 / (64 count)

    The mean goes before anything is squared, and 8 S_k - S is a whole number below
    2^24 even at 16 bits, so float32 has it exactly: nothing cancels, and a constant
    window has exactly no power.
    """
    length = parts.power.shape[axis] - SIDE + 1

    def part(array: jax.Array, start: jax.Array | int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis)

    first, second = (
        jax.lax.fori_loop(
            1,
            SIDE,
            lambda k, total, array=array: total + part(array, k),
            part(array, 0),
        )
        for array in parts.sums
    )

    def add(k: jax.Array, moments: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        power, product = moments
        one = SIDE * part(parts.sums[0], k) - first
        other = SIDE * part(parts.sums[1], k) - second
        scale = 1.0 / (SIDE * SIDE * count)  # a power of two: exact
        return (
            power + part(parts.power, k) + (one**2 + other**2) * scale,
            product + part(parts.product, k) + one * other * scale,
        )

    zero = jnp.zeros_like(first)
    power, product = jax.lax.fori_loop(0, SIDE, add, (zero, zero))
    return _Moments((first, second), power, product)


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """The quotient; 1 where the denominator, a sum of squares, is 0."""
    nothing = below == 0.0
    return jnp.where(nothing, 1.0, above / jnp.where(nothing, 1.0, below))
