"""Dense optical flow by polynomial expansion, and the section between two others."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import ShapeMismatchError, expect_dtype, expect_shape
from jaxinpaint.ops.warp import warp

WINDOWS = ("gaussian", "box")
LEAST = 32  # pixels of the shorter side at the coarsest scale, and of any input
_BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # trust in pixels next to an edge


class FarnebackOptions(NamedTuple):
    """How `farneback` estimates.

    Attributes:
      pyr_scale: size of a scale relative to the next finer one, between 0 and 1.
      levels: coarser scales beside the full one; fewer where the shorter side would
        fall below 32 pixels.
      winsize: side of the window in which motion is taken as constant, odd, px.
      iterations: solutions at each scale.
      poly_n: radius of the polynomial's neighbourhood, 5 or 7 px.
      poly_sigma: standard deviation of its weights, px.
      window: "gaussian" (standard deviation 0.3 * (winsize // 2)) or "box".
    """

    pyr_scale: float
    levels: int
    winsize: int
    iterations: int
    poly_n: int
    poly_sigma: float
    window: str


# Settings of the flow-driven interpolation that the paper cites (section 2.1).
ISOFLOW = FarnebackOptions(0.5, 3, 33, 3, 5, 1.2, "gaussian")
# Defaults of OpenCV's class FarnebackOpticalFlow.
OPENCV_CLASS = FarnebackOptions(0.5, 5, 13, 10, 5, 1.1, "box")


@functools.partial(jax.jit, static_argnums=2)
def farneback(
    previous: jax.Array, following: jax.Array, options: FarnebackOptions
) -> jax.Array:
    """Estimates the motion between two images, in OpenCV's order of arguments.

        previous(p) = following(p + flow(p)), so warp(following, flow) = previous

    Grey levels must be those of 8 bits: the solver adds 1e-3 to a determinant of
    their fourth power, so that images in [0, 1] or [-1, 1] give a flow near zero.
    No check can tell such images from dark ones; convert with `(v + 1) * 127.5`.

    Shifts up to 32 px are found with `ISOFLOW`. Next to the right and lower edge even
    two equal images get some tenths of a pixel, as in OpenCV: a sample without a
    neighbour to its right and below counts as outside.

    Args:
      previous: [B, H, W, 1] float32, 0 to 255; sides of at least 32.
      following: the same.
      options: static under jit; `ISOFLOW` or `OPENCV_CLASS`.

    Returns:
      [B, H, W, 2] displacement (dx, dy) in pixels, finite for finite images.

    Raises:
      ValueError: shapes, dtypes or options that do not fit.

    Source: Farneback, Two-frame motion estimation based on polynomial expansion,
      SCIA 2003, as OpenCV computes it; FlowInpaint section 2.2.
    """
    _check_pair("farneback", previous, following)
    _check_options("farneback", options)
    b = previous.shape[0]
    expansions = _expansions(jnp.concatenate([previous, following])[..., 0], options)
    first, second = [q[:, :b] for q in expansions], [q[:, b:] for q in expansions]
    return _flow(first, second, options)


def intermediate(
    previous: jax.Array,
    following: jax.Array,
    alpha: jax.Array | float,
    options: FarnebackOptions,
) -> jax.Array:
    """Interpolates the section between two others along the motion between them.

        first = warp(previous, alpha * farneback(following, previous))
        second = warp(following, (1 - alpha) * farneback(previous, following))
        (1 - alpha) * first + alpha * second

    Args:
      previous: [B, H, W, 1] float32 in [-1, 1]; sides of at least 32.
      following: the same.
      alpha: distance from `previous` over the distance between the two, in [0, 1];
        one number or [B]. Values under an outer jit are not seen, nor checked.
      options: `ISOFLOW` or `OPENCV_CLASS`.

    Returns:
      [B, H, W, 1] in [-1, 1], not rounded (R5).

    Raises:
      ValueError: shapes, dtypes, options or alpha that do not fit.

    Source: FlowInpaint Eq. 1-3 (R2: edge pixels repeat outside).
    """
    _check_pair("intermediate", previous, following)
    _check_options("intermediate", options)
    if np.ndim(alpha):
        expect_shape("intermediate", "alpha", alpha, f"{previous.shape[0]}")
    if not isinstance(alpha, jax.core.Tracer):
        values = np.asarray(alpha)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"intermediate: alpha must lie in [0, 1], got {alpha}; it is the "
                "distance from previous over the distance between the two sections."
            )
    batch = previous.shape[:1]
    weights = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), batch)
    return _between(previous, following, weights, options)


@functools.partial(jax.jit, static_argnums=3)
def _between(
    previous: jax.Array,
    following: jax.Array,
    alpha: jax.Array,
    options: FarnebackOptions,
) -> jax.Array:
    b = previous.shape[0]
    levels = (jnp.concatenate([previous, following])[..., 0] + 1.0) * 127.5
    # One expansion of both sections serves both directions, as one batch.
    expansions = _expansions(levels, options)
    others = [jnp.roll(q, b, axis=1) for q in expansions]
    onto_previous, onto_following = jnp.split(_flow(expansions, others, options), 2)
    alpha = alpha[:, None, None, None]
    # Deviation (R3): the flow that moves `previous` backward lives on the grid of
    # `following`; read literally, "from previous to following" moves it away.
    first = warp(previous, alpha * onto_following, border="edge")
    second = warp(following, (1 - alpha) * onto_previous, border="edge")
    # Deviation (R4): Eq. 3 prints the weights the other way round, which prefers the
    # farther section; at alpha = 0.5 both agree.
    return (1 - alpha) * first + alpha * second


def _check_pair(where: str, previous: jax.Array, following: jax.Array) -> None:
    b, h, w, _ = expect_shape(where, "previous", previous, "B H W 1")
    expect_shape(where, "following", following, f"{b} {h} {w} 1")
    expect_dtype(where, "previous", previous, "float32")
    expect_dtype(where, "following", following, "float32")
    if min(h, w) < LEAST:
        raise ShapeMismatchError(
            f"{where}: previous is {h} x {w}; the flow needs at least {LEAST} x "
            f"{LEAST} pixels."
        )


def _check_options(where: str, options: FarnebackOptions) -> None:
    wrong = {
        "pyr_scale": ("lie between 0 and 1", not 0 < options.pyr_scale < 1),
        "levels": ("be at least 0", options.levels < 0),
        "winsize": (
            "be odd and at least 3",
            options.winsize < 3 or options.winsize % 2 == 0,
        ),
        "iterations": ("be at least 1", options.iterations < 1),
        "poly_n": ("be 5 or 7", options.poly_n not in (5, 7)),
        "poly_sigma": ("be positive", not options.poly_sigma > 0),
        "window": (f"be one of {list(WINDOWS)}", options.window not in WINDOWS),
    }
    for name, (rule, broken) in wrong.items():
        if broken:
            value = getattr(options, name)
            raise ValueError(f"{where}: {name} must {rule}, got {value!r}.")


def _scales(height: int, width: int, options: FarnebackOptions) -> list[float]:
    """Sizes relative to the full one, coarsest first."""
    scales = [1.0]
    while len(scales) <= options.levels:
        scale = scales[-1] * options.pyr_scale
        if min(height, width) * scale < LEAST:
            break
        scales.append(scale)
    return scales[::-1]


def _expansions(image: jax.Array, options: FarnebackOptions) -> list[jax.Array]:
    """Polynomial coefficients [5, B, h, w] of images [B, H, W], coarsest first."""
    _, height, width = image.shape
    coefficients = []
    for scale in _scales(height, width, options):
        size = (round(height * scale), round(width * scale))
        sigma = (1 / scale - 1) / 2
        if sigma == 0:
            taps = np.array([0.25, 0.5, 0.25])
        else:
            taps = _gaussian(max(round(5 * sigma) | 1, 3) // 2, sigma)
        coefficients.append(_expand(_resample(image, size, taps), options))
    return coefficients


def _gaussian(radius: int, sigma: float) -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


def _resample(image: jax.Array, size: tuple[int, int], taps: np.ndarray) -> jax.Array:
    """Blurs [..., H, W] (borders mirrored) and samples it bilinearly at another size.

    Both are one linear map a side, so that the blur is computed at the samples alone.
    """
    for length in size:
        image = _resample_rows(image, length, taps)
        image = jnp.swapaxes(image, -1, -2)
    return image


def _resample_rows(image: jax.Array, length: int, taps: np.ndarray) -> jax.Array:
    full, radius = image.shape[-2], len(taps) // 2
    at = np.clip((np.arange(length) + 0.5) * (full / length) - 0.5, 0, full - 1)
    low = np.minimum(at.astype(int), full - 1)
    share = (at - low)[:, None]
    weights = (1 - share) * np.append(taps, 0) + share * np.append(0, taps)
    rows = np.abs(low[:, None] + np.arange(-radius, radius + 2))
    rows = np.where(rows < full, rows, 2 * full - 2 - rows)
    used = [n for n in range(weights.shape[1]) if weights[:, n].any()]
    at_rows = jnp.asarray(rows[:, used].T, jnp.int32)
    of_rows = jnp.asarray(weights[:, used].T, image.dtype)

    def add(n: jax.Array, total: jax.Array) -> jax.Array:
        part = jnp.take(image, at_rows[n], axis=-2, mode="clip")
        weight = of_rows[n].reshape((1,) * (image.ndim - 2) + (length, 1))
        return total + weight * part

    empty = jnp.zeros((*image.shape[:-2], length, image.shape[-1]), image.dtype)
    return jax.lax.fori_loop(0, len(used), add, empty)


def _correlate(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Correlates planes [B, H, W] with rows[i] * columns[j], edge pixels repeated.

    Unrolled, one pass over the planes a side: on a CPU a convolution of one channel
    takes a hundred times as long.
    """
    for axis, taps in ((1, rows), (2, columns)):
        radius, length = len(taps) // 2, image.shape[axis]
        pad = [(radius, radius) if n == axis else (0, 0) for n in range(3)]
        padded = jnp.pad(image, pad, mode="edge")
        parts = (
            taps[n] * jax.lax.slice_in_dim(padded, n, n + length, axis=axis)
            for n in range(len(taps))
        )
        image = functools.reduce(jnp.add, parts)
    return image


def _expand(image: jax.Array, options: FarnebackOptions) -> jax.Array:
    """Fits a + b y + c x + d y^2 + e x^2 + f x y around every pixel of [B, H, W].

    The moments of a separable weight are products, so that the inverse of the paper's
    6 x 6 matrix falls apart into filters of one dimension each.

    Returns:
      [5, B, H, W]: b, c, d, e, f.
    """
    offsets = np.arange(-options.poly_n, options.poly_n + 1)
    level = _gaussian(options.poly_n, options.poly_sigma)
    m2, m4 = (offsets**2 * level).sum(), (offsets**4 * level).sum()
    slope = offsets * level / m2
    curve = (offsets**2 - m2) * level / (m4 - m2**2)
    pairs = [(slope, level), (level, slope), (curve, level), (level, curve)]
    taps = jnp.asarray(np.array([*pairs, (slope, slope)]), image.dtype)
    return jax.lax.map(lambda yx: _correlate(image, yx[0], yx[1]), taps)


def _flow(
    previous: list[jax.Array], following: list[jax.Array], options: FarnebackOptions
) -> jax.Array:
    """Flow [B, H, W, 2] between two expansions, from the coarsest scale to the full."""
    radius = options.winsize // 2
    if options.window == "gaussian":
        taps = _gaussian(radius, 0.3 * radius)
    else:
        taps = np.full(options.winsize, 1 / options.winsize)
    weights = jnp.asarray(taps, jnp.float32)
    flow = jnp.zeros((2, *previous[0].shape[1:]), jnp.float32)
    for q0, q1 in zip(previous, following, strict=True):
        _, _, h, w = q0.shape
        if flow.shape[2:] != (h, w):
            flow = _resample(flow, (h, w), np.ones(1)) * (1 / options.pyr_scale)

        def improve(
            _: jax.Array, flow: jax.Array, q0: jax.Array = q0, q1: jax.Array = q1
        ) -> jax.Array:
            # One plane at a time: what is averaged then stays in the cache.
            average = lambda plane: _correlate(plane, weights, weights)
            return _solve(jax.lax.map(average, _equations(q0, q1, flow)))

        flow = jax.lax.fori_loop(0, options.iterations, improve, flow)
    return jnp.moveaxis(flow, 0, -1)


def _equations(q0: jax.Array, q1: jax.Array, flow: jax.Array) -> jax.Array:
    """What each pixel says about its own displacement.

    Args:
      q0: [5, B, H, W] expansion of the image the flow lives on.
      q1: that of the other.
      flow: [2, B, H, W], (dx, dy) of the solution before.

    Returns:
      [5, B, H, W]: g11, g12, g22, h1, h2 of the 2 x 2 normal equations.
    """
    _, b, h, w = q0.shape
    dx, dy = flow
    x = dx + jnp.arange(w, dtype=flow.dtype)[None, None]
    y = dy + jnp.arange(h, dtype=flow.dtype)[None, :, None]
    left, top = jnp.floor(x), jnp.floor(y)
    inside = (left >= 0) & (left <= w - 2) & (top >= 0) & (top <= h - 2)
    column = jnp.clip(left, 0, w - 2).astype(jnp.int32)
    row = jnp.clip(top, 0, h - 2).astype(jnp.int32)
    at = (jnp.arange(b, dtype=jnp.int32)[:, None, None] * h + row) * w + column
    planes = q1.reshape(5, -1)
    near, right, below, far = (
        planes.at[:, at + step].get(mode="clip") for step in (0, 1, w, w + 1)
    )
    wx, wy = (x - left)[None], (y - top)[None]
    upper = near * (1 - wx) + right * wx
    lower = below * (1 - wx) + far * wx
    moved = upper * (1 - wy) + lower * wy
    slope = 0.5 * jnp.where(inside, q0[:2] - moved[:2], q0[:2])
    curve = jnp.where(inside, 0.5 * (q0[2:] + moved[2:]), q0[2:])
    trust = jnp.asarray(np.outer(_trust(h), _trust(w)), flow.dtype)[None]
    yy, xx, xy = curve[0] * trust, curve[1] * trust, 0.5 * curve[2] * trust
    along_y = slope[0] * trust + yy * dy + xy * dx
    along_x = slope[1] * trust + xy * dy + xx * dx
    return jnp.stack(
        [
            yy * yy + xy * xy,
            (yy + xx) * xy,
            xx * xx + xy * xy,
            yy * along_y + xy * along_x,
            xy * along_y + xx * along_x,
        ]
    )


def _trust(length: int) -> np.ndarray:
    trust = np.ones(length)
    trust[: len(_BORDER)] *= _BORDER
    trust[-len(_BORDER) :] *= _BORDER[::-1]
    return trust


def _solve(equations: jax.Array) -> jax.Array:
    """Displacements [2, B, H, W] (dx, dy) of averaged normal equations."""
    g11, g12, g22, h1, h2 = equations
    # An average of squares has no negative determinant; rounding makes one where
    # the image varies along one direction alone.
    scale = 1 / (jnp.maximum(g11 * g22 - g12 * g12, 0) + 1e-3)
    return jnp.stack([(g11 * h2 - g12 * h1) * scale, (g22 * h1 - g12 * h2) * scale])
