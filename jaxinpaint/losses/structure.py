"""Structural similarity as a loss."""

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape
from jaxinpaint.ops.filters import gaussian_taps, separable

SIDE, SIGMA = 7, 1.5  # of the Gaussian window
C1, C2 = 0.01**2, 0.03**2  # for levels in [0, 1]


def ssim_loss(truth: jax.Array, prediction: jax.Array) -> jax.Array:
    """1 - the mean structural similarity in small Gaussian windows.

    Levels are brought to [0, 1]. The window has the largest odd side of at most 7
    that fits into the image and sigma 1.5 * side / 7, and lies wholly inside; moments
    are biased, variances floored at 0. Where all variances are positive this is
    `1 - dm_pix.ssim(filter_size=7, filter_sigma=1.5)`.

    Args:
      truth: [B, H, W, C] float in [-1, 1].
      prediction: like truth.

    Returns:
      Scalar, the mean over batch, windows and channels: 0 for equal images, at most 2.

    Raises:
      ShapeMismatchError: shapes disagree.

    Source: FlowInpaint Eq. 16, in local windows (R35).
    """
    b, h, w, c = expect_shape("ssim_loss", "truth", truth, "B H W C")
    expect_shape("ssim_loss", "prediction", prediction, f"{b} {h} {w} {c}")
    fit = min(SIDE, h, w)
    side = fit - 1 + fit % 2
    taps = gaussian_taps(side, SIGMA * side / SIDE)
    first, second = (truth + 1.0) / 2.0, (prediction + 1.0) / 2.0
    maps = jnp.concatenate(
        [first, second, first * first, second * second, first * second], axis=-1
    )
    means = jnp.split(separable(maps, taps, taps), 5, axis=-1)
    mean_t, mean_p, square_t, square_p, product = means
    variance_t = jnp.maximum(square_t - mean_t * mean_t, 0.0)
    variance_p = jnp.maximum(square_p - mean_p * mean_p, 0.0)
    covariance = product - mean_t * mean_p
    luminance = (2.0 * mean_t * mean_p + C1) / (mean_t * mean_t + mean_p * mean_p + C1)
    structure = (2.0 * covariance + C2) / (variance_t + variance_p + C2)
    return 1.0 - jnp.mean(luminance * structure)
