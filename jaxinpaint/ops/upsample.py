"""Nearest-neighbour enlargement joined to the convolution that follows it."""

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Enlarges x twice by nearest neighbour and convolves with a 3 x 3 kernel.

    Equal to `conv(repeat(x, 2), kernel)` with zero padding, at 4/9 of its cost: an
    output pixel sees only 2 x 2 different input pixels, so each of the four output
    phases is one 2 x 2 convolution at the small size.

    Args:
      x: [B, H, W, C] float.
      kernel: [3, 3, C, D], dtype of x.

    Returns:
      [B, 2 H, 2 W, D].

    Raises:
      ShapeMismatchError: the kernel does not fit.

    Source: nearest x2 plus convolution of CCPGAN and DeepFill v1 decoders.
    """
    b, h, w, c = expect_shape("upsample_conv", "x", x, "B H W C")
    *_, d = expect_shape("upsample_conv", "kernel", kernel, f"3 3 {c} D")

    def fold(taps: jax.Array, axis: int, phase: int) -> jax.Array:
        first, middle, last = jnp.split(taps, 3, axis)
        pair = (first, middle + last) if phase == 0 else (first + middle, last)
        return jnp.concatenate(pair, axis)

    def phase(row: int, column: int) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            fold(fold(kernel, 0, row), 1, column),
            (1, 1),
            ((1 - row, row), (1 - column, column)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    rows = [jnp.stack([phase(row, 0), phase(row, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, d)
