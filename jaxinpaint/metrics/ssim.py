"""Structural similarity: in small and large windows, at five scales, over an image."""

import dm_pix
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import UnalignedSizeError
from jaxinpaint.metrics.pixel import check_pair, region_mean
from jaxinpaint.ops.filters import block_mean, gaussian_taps, separable

SIDE = 11  # of the Gaussian window, sigma 1.5
TAPS = gaussian_taps(SIDE, 1.5)
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LARGE_SIDE = 51  # of the uniform window
SMALLEST_SIDE = SIDE * 2 ** (len(SCALE_WEIGHTS) - 1)


def _blur(image: jax.Array) -> jax.Array:
    return separable(image, TAPS, TAPS)


def _ssim_map(truth: jax.Array, prediction: jax.Array, data_range: float) -> jax.Array:
    # Our filter in place of dm-pix's own: the same weights, half the time on a CPU,
    # and no dtype promotion.
    return dm_pix.ssim(
        truth,
        prediction,
        max_val=data_range,
        k1=K1,
        k2=K2,
        return_map=True,
        filter_fn=_blur,
    )


@jax.jit
def ssim(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Structural similarity, the headline form.

    11 x 11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, biased moments. Windows
    lie wholly inside the image, so the map is 5 pixels smaller on each side; a
    window counts when its middle pixel is in the region. With a region of ones this
    is `dm_pix.ssim(truth, prediction, max_val=data_range)`.

    Args:
      truth: [B, H, W, C] float32 in 0..data_range.
      prediction: shaped and ranged like `truth`.
      region: [B, H, W, 1] of 0 and 1, 1 = counts.
      data_range: largest grey level, 255 or 65535.

    Returns:
      [B], 1 for equal images, mean over counted windows and channels; NaN where the
      region has no pixel at least 5 away from every side.

    Raises:
      ValueError: a shape or dtype does not fit, or a side is below 11.

    Source: CCPGAN specification 5.3 and 7.15.
    """
    check_pair("ssim", truth, prediction, region)
    half = SIDE // 2
    inner = region[:, half:-half, half:-half]
    return region_mean(_ssim_map(truth, prediction, data_range), inner)


@jax.jit
def ssim_51(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Structural similarity in uniform 51 x 51 windows, to compare with tables.

    Means, and variances and covariance with the divisor n - 1 = 2600, over all 51 x 51
    pixels alike; K1 0.01, K2 0.03. Windows lie wholly inside the image, so the map is
    25 pixels smaller on each side; a window counts when its middle pixel is in the
    region.

    Arguments and errors are those of `ssim`, but for the smallest side, 51.

    Returns:
      [B], 1 for equal images, mean over counted windows and channels; NaN where the
      region has no pixel at least 25 away from every side.

    Source: FlowInpaint specification 6.5: the tables of FlowInpaint and PEN-Net are
    taken with scikit-image's `structural_similarity(win_size=51)`.
    """
    shape = check_pair("ssim_51", truth, prediction, region)
    if min(shape[1:3]) < LARGE_SIDE:
        raise UnalignedSizeError(
            f"ssim_51: a {LARGE_SIDE} x {LARGE_SIDE} window needs sides of at least "
            f"{LARGE_SIDE}, got {shape[1]} x {shape[2]}; use ssim."
        )
    # The variance is a small difference of large sums, and c2 does not hide what
    # float32 drops of it: levels are counted from the truth's mean.
    zero = jnp.mean(truth / data_range, axis=(1, 2), keepdims=True)
    first, second = (image / data_range - zero for image in (truth, prediction))
    count = float(LARGE_SIDE**2)
    maps = jnp.concatenate(
        [first, second, first**2 + second**2, first * second], axis=3
    )
    means = _box_sum(_box_sum(maps, 1), 2) / count
    mean_t, mean_p, mean_squares, mean_product = jnp.split(means, 4, axis=3)
    unbiased = count / (count - 1.0)
    power = (mean_squares - mean_t**2 - mean_p**2) * unbiased
    product = (mean_product - mean_t * mean_p) * unbiased
    mean_t, mean_p = mean_t + zero, mean_p + zero
    c1, c2 = K1**2, K2**2
    luminance = (2.0 * mean_t * mean_p + c1) / (mean_t**2 + mean_p**2 + c1)
    structure = (2.0 * product + c2) / (power + c2)
    half = LARGE_SIDE // 2
    inner = region[:, half:-half, half:-half]
    return region_mean(luminance * structure, inner)


def _box_sum(image: jax.Array, axis: int) -> jax.Array:
    """Sums 51 = 1 + 2 + 16 + 32 neighbours along an axis, in 8 additions, not 50."""
    length = image.shape[axis] - LARGE_SIDE + 1
    total, start, side, sums = jnp.zeros(()), 0, 1, image
    while True:
        if LARGE_SIDE & side:
            total = total + jax.lax.slice_in_dim(sums, start, start + length, axis=axis)
            start += side
        if start == LARGE_SIDE:
            return total
        sums = jax.lax.slice_in_dim(sums, 0, -side, axis=axis) + jax.lax.slice_in_dim(
            sums, side, None, axis=axis
        )
        side *= 2


@jax.jit
def ssim_eq7(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """CCPGAN's Eq. 7 to the letter: one window, the whole region.

    Means, variances and covariance over the region (divisor n - 1), c1 = (K1 L)^2
    and c2 = (K2 L)^2 with the printed L = 100 for 8-bit images, which is
    100 / 255 * data_range here; per channel, then averaged.

    Arguments and errors are those of `ssim`, but for the smallest side.

    Returns:
      [B]; NaN where the region has fewer than 2 pixels.

    Source: CCPGAN Eq. 7 and specification 7.15.
    """
    check_pair("ssim_eq7", truth, prediction, region)
    axes = (1, 2)
    count = jnp.sum(region, axis=axes, keepdims=True)

    def centred(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = image / data_range
        mean = jnp.sum(scaled * region, axis=axes, keepdims=True) / count
        return mean, (scaled - mean) * region

    def moment(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, axis=axes, keepdims=True) / (count - 1.0)

    mean_t, truth_0 = centred(truth)
    mean_p, prediction_0 = centred(prediction)
    c1, c2 = ((k * 100.0 / 255.0) ** 2 for k in (K1, K2))
    luminance = (2.0 * mean_t * mean_p + c1) / (mean_t**2 + mean_p**2 + c1)
    structure = (2.0 * moment(truth_0, prediction_0) + c2) / (
        moment(truth_0, truth_0) + moment(prediction_0, prediction_0) + c2
    )
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


@jax.jit
def ms_ssim(truth: jax.Array, prediction: jax.Array, *, data_range: float) -> jax.Array:
    """Structural similarity at five scales, of the whole image.

        prod_{s=1..4} max(mean cs_s, 0)^w_s * max(mean ssim_5, 0)^w_5

    with the window of `ssim`, cs its contrast-structure factor, and 2 x 2 block means
    between scales (an odd last row or column is dropped); a channel at a time, then
    averaged. It takes no region: at the fifth scale a window is 176 pixels wide.

    Args:
      truth: [B, H, W, C] float32 in 0..data_range.
      prediction: shaped and ranged like `truth`.
      data_range: largest grey level, 255 or 65535.

    Returns:
      [B] in 0..1, 1 for equal images.

    Raises:
      ValueError: a shape or dtype does not fit, or a side is below 176.

    Source: CCPGAN Eq. 8 and specification 5.3 and 7.16.
    """
    shape = check_pair("ms_ssim", truth, prediction, truth[..., :1])
    if min(shape[1:3]) < SMALLEST_SIDE:
        raise UnalignedSizeError(
            f"ms_ssim: five scales of an {SIDE} x {SIDE} window need sides of at "
            f"least {SMALLEST_SIDE}, got {shape[1]} x {shape[2]}; use ssim."
        )
    score = jnp.ones((shape[0], shape[3]), jnp.float32)
    for scale, weight in enumerate(SCALE_WEIGHTS, start=1):
        similarity = _ssim_map(truth, prediction, data_range)
        if scale < len(SCALE_WEIGHTS):
            mean_t, mean_p = _blur(truth), _blur(prediction)
            c1 = (K1 * data_range) ** 2
            luminance = (2.0 * mean_t * mean_p + c1) / (mean_t**2 + mean_p**2 + c1)
            similarity = similarity / luminance
            truth, prediction = block_mean(truth, 2), block_mean(prediction, 2)
        factor = jnp.mean(similarity, axis=(1, 2))
        score = score * jnp.maximum(factor, 0.0) ** weight
    return jnp.mean(score, axis=1)
