"""Planes [..., H, W]: resampling, separable filters and polynomial expansion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.ops.filters import gaussian_taps


def resample(
    planes: jax.Array, size: tuple[int, int], taps: tuple[float, ...]
) -> jax.Array:
    """Blurs with mirrored borders, then samples bilinearly at another size.

    Both are one linear map a side, so that the blur is computed at the samples alone.

    Args:
      planes: [..., H, W] float, any range.
      size: height and width of the result; pixel centres lie at halves, as in
        `jax.image.resize(..., "linear", antialias=False)`.
      taps: an odd number of weights along either side, at most 2 * side - 1; (1.0,)
        does not blur. The pixel at the edge is not repeated.

    Returns:
      [..., h, w].
    """
    for length in size:
        planes = jnp.swapaxes(_resample_rows(planes, length, taps), -1, -2)
    return planes


def _resample_rows(
    planes: jax.Array, length: int, taps: tuple[float, ...]
) -> jax.Array:
    full, radius = planes.shape[-2], len(taps) // 2
    at = np.clip((np.arange(length) + 0.5) * (full / length) - 0.5, 0, full - 1)
    low = at.astype(int)
    share = (at - low)[:, None]
    weights = (1 - share) * np.append(taps, 0) + share * np.append(0, taps)
    rows = np.abs(low[:, None] + np.arange(-radius, radius + 2))
    rows = np.where(rows < full, rows, 2 * full - 2 - rows)
    used = weights.any(axis=0)
    at_rows = jnp.asarray(rows[:, used].T, jnp.int32)
    of_rows = jnp.asarray(weights[:, used].T, planes.dtype)

    def add(n: jax.Array, total: jax.Array) -> jax.Array:
        weight = of_rows[n].reshape((1,) * (planes.ndim - 2) + (length, 1))
        return total + weight * jnp.take(planes, at_rows[n], axis=-2, mode="clip")

    empty = jnp.zeros((*planes.shape[:-2], length, planes.shape[-1]), planes.dtype)
    return jax.lax.fori_loop(0, len(of_rows), add, empty)


def correlate(planes: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Correlates planes with an outer product, edge pixels repeated outside.

        out[y, x] = sum_ij rows[i] * columns[j] * planes[y + i - R, x + j - R]

    Unrolled, one pass over the planes a side: on a CPU that takes a half to a third
    of the time of one pass a tap, and a convolution of one channel takes a hundred
    times as long. Products stay in float32 on every device.

    Args:
      planes: [B, H, W] float, any range.
      rows: 2 R + 1 weights along the height.
      columns: 2 R + 1 weights along the width.

    Returns:
      [B, H, W].
    """
    for axis, taps in ((1, rows), (2, columns)):
        radius, length = len(taps) // 2, planes.shape[axis]
        pad = [(radius, radius) if n == axis else (0, 0) for n in range(3)]
        padded = jnp.pad(planes, pad, mode="edge")
        parts = (
            taps[n] * jax.lax.slice_in_dim(padded, n, n + length, axis=axis)
            for n in range(len(taps))
        )
        planes = functools.reduce(jnp.add, parts)
    return planes


def expand(planes: jax.Array, radius: int, sigma: float) -> jax.Array:
    """Fits a + b y + c x + d y^2 + e x^2 + f x y around every pixel.

    Least squares under Gaussian weights. Their moments are products, so that the 6 x 6
    matrix of the paper falls apart into filters of one dimension each.

    Args:
      planes: [B, H, W] float; edge pixels are repeated outside.
      radius: the neighbourhood has 2 * radius + 1 pixels a side.
      sigma: standard deviation of the weights, px.

    Returns:
      [5, B, H, W]: b, c, d, e, f, in units of `planes` over px or px^2.

    Source: Farneback 2003, section 2; FlowInpaint section 2.2, step 3.
    """
    offsets = np.arange(-radius, radius + 1)
    level = np.array(gaussian_taps(2 * radius + 1, sigma))
    m2, m4 = (offsets**2 * level).sum(), (offsets**4 * level).sum()
    slope = offsets * level / m2
    curve = (offsets**2 - m2) * level / (m4 - m2**2)
    pairs = [(slope, level), (level, slope), (curve, level), (level, curve)]
    taps = jnp.asarray(np.array([*pairs, (slope, slope)]), planes.dtype)
    return jax.lax.map(lambda pair: correlate(planes, pair[0], pair[1]), taps)
