"""Scores of single pixels: PSNR, mean squared and mean absolute error.

All take grey levels as float32, which holds every 8- and 16-bit level exactly, and
divide by `data_range` before squaring, so that 16-bit sums stay as accurate as 8-bit
ones. All return one score an image. Where `region` holds no pixel the score is NaN:
there is nothing to score, and `evaluate` counts such images apart.
"""

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_dtype, expect_shape


def check_pair(
    where: str, truth: jax.Array, prediction: jax.Array, region: jax.Array
) -> tuple[int, ...]:
    """Checks shapes and dtypes of what every score of an image takes.

    Returns:
      The shape of `truth`.

    Raises:
      ShapeMismatchError: not [B, H, W, C] twice and [B, H, W, 1].
      DTypeError: not float32.
    """
    shape = expect_shape(where, "truth", truth, "B H W C")
    batch, height, width, channels = shape
    frame = f"{batch} {height} {width}"
    expect_shape(where, "prediction", prediction, f"{frame} {channels}")
    expect_shape(where, "region", region, f"{frame} 1")
    for name, array in (
        ("truth", truth),
        ("prediction", prediction),
        ("region", region),
    ):
        if str(array.dtype) != "float32":
            expect_dtype(where, name, array, "float32")
    return shape


def region_mean(values: jax.Array, region: jax.Array) -> jax.Array:
    """Averages [B, H, W, C] over the region [B, H, W, 1] and the channels.

    Returns:
      [B]; NaN where the region is empty.
    """
    total = jnp.sum(values * region, axis=(1, 2, 3))
    return total / (jnp.sum(region, axis=(1, 2, 3)) * values.shape[3])


@jax.jit
def mse(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Mean squared error in squared grey levels, over region and channels.

    Args:
      truth: [B, H, W, C] float32 in 0..data_range.
      prediction: shaped and ranged like `truth`.
      region: [B, H, W, 1] of 0 and 1, 1 = counts.
      data_range: largest grey level, 255 or 65535.

    Returns:
      [B]; NaN where the region is empty.

    Raises:
      ValueError: a shape or a dtype does not fit.
    """
    check_pair("mse", truth, prediction, region)
    error = (truth - prediction) / data_range
    return region_mean(error**2, region) * data_range**2


@jax.jit
def mae(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Mean absolute error in grey levels, over region and channels.

    Arguments, result and errors are those of `mse`. Divide by `data_range` to
    compare with papers that print it for images in [0, 1].
    """
    check_pair("mae", truth, prediction, region)
    error = jnp.abs(truth - prediction) / data_range
    return region_mean(error, region) * data_range


@jax.jit
def psnr(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / mse), in decibels.

    Arguments and errors are those of `mse`.

    Returns:
      [B]; +inf where the region is identical, which callers count and never
      average, and NaN where it is empty.

    Source: CCPGAN Eq. 10, divided by H * W * 3 rather than by H * W (R40);
    FlowInpaint, IPA-MedGAN and RNON print the same score. Deviation (IPA-MedGAN
    specification 5.4, RNON 5.3): not capped at 100 dB. A cap makes a mean depend on
    the number chosen for it as soon as one image is perfect.
    """
    check_pair("psnr", truth, prediction, region)
    error = (truth - prediction) / data_range
    return -10.0 * jnp.log10(region_mean(error**2, region))
