"""Dense optical flow by polynomial expansion, and the section between two others."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import ShapeMismatchError, expect_dtype, expect_shape
from jaxinpaint.ops.expansion import correlate, expand, resample
from jaxinpaint.ops.filters import gaussian_taps
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
    levels = jnp.concatenate([previous, following])[..., 0]
    return _flow(_expansions(levels, options), np.arange(b, 2 * b), options)


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
    flow = _flow(_expansions(levels, options), np.roll(np.arange(2 * b), b), options)
    onto_previous, onto_following = jnp.split(flow, 2)
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


def _expansions(images: jax.Array, options: FarnebackOptions) -> list[jax.Array]:
    """Polynomial coefficients [5, N, h, w] of images [N, H, W], coarsest scale first."""
    _, height, width = images.shape
    coefficients = []
    for scale in _scales(height, width, options):
        sigma = (1 / scale - 1) / 2
        length = max(round(5 * sigma) | 1, 3)
        taps = gaussian_taps(length, sigma) if sigma > 0 else (0.25, 0.5, 0.25)
        size = (round(height * scale), round(width * scale))
        planes = resample(images, size, taps)
        coefficients.append(expand(planes, options.poly_n, options.poly_sigma))
    return coefficients


def _flow(
    expansions: list[jax.Array], partners: np.ndarray, options: FarnebackOptions
) -> jax.Array:
    """Flow from the first images of a batch to their partners, coarse to fine.

    Args:
      expansions: [5, N, h, w] a scale, coarsest first.
      partners: M <= N positions in the batch: the flow of image m leads to image
        partners[m].
      options: as the caller's.

    Returns:
      [M, H, W, 2].
    """
    radius = options.winsize // 2
    if options.window == "gaussian":
        taps = jnp.asarray(gaussian_taps(options.winsize, 0.3 * radius), jnp.float32)
    else:
        taps = jnp.full(options.winsize, 1 / options.winsize, jnp.float32)
    average = lambda plane: correlate(plane, taps, taps)
    flow = jnp.zeros((2, len(partners), *expansions[0].shape[2:]), jnp.float32)
    for q in expansions:
        _, _, h, w = q.shape
        if flow.shape[2:] != (h, w):
            flow = resample(flow, (h, w), (1.0,)) * (1 / options.pyr_scale)

        def improve(_: jax.Array, flow: jax.Array, q: jax.Array = q) -> jax.Array:
            # One plane at a time: what is averaged then stays in the cache.
            return _solve(jax.lax.map(average, _equations(q, partners, flow)))

        flow = jax.lax.fori_loop(0, options.iterations, improve, flow)
    return jnp.moveaxis(flow, 0, -1)


def _equations(q: jax.Array, partners: np.ndarray, flow: jax.Array) -> jax.Array:
    """What each pixel says about its own displacement.

    Args:
      q: [5, N, H, W] expansions of all images of the batch.
      partners: M positions in it, as in `_flow`.
      flow: [2, M, H, W], (dx, dy) of the solution before.

    Returns:
      [5, M, H, W]: g11, g12, g22, h1, h2 of the 2 x 2 normal equations.
    """
    _, _, h, w = q.shape
    q0 = q[:, : len(partners)]
    dx, dy = flow
    x = dx + jnp.arange(w, dtype=flow.dtype)[None, None]
    y = dy + jnp.arange(h, dtype=flow.dtype)[None, :, None]
    left, top = jnp.floor(x), jnp.floor(y)
    inside = (left >= 0) & (left <= w - 2) & (top >= 0) & (top <= h - 2)
    column = jnp.clip(left, 0, w - 2).astype(jnp.int32)
    row = jnp.clip(top, 0, h - 2).astype(jnp.int32)
    at = (jnp.asarray(partners, jnp.int32)[:, None, None] * h + row) * w + column
    planes = q.reshape(5, -1)
    near, right, below, far = (
        planes.at[:, at + step].get(mode="clip") for step in (0, 1, w, w + 1)
    )
    wx, wy = (x - left)[None], (y - top)[None]
    upper = near * (1 - wx) + right * wx
    lower = below * (1 - wx) + far * wx
    moved = upper * (1 - wy) + lower * wy
    slope = 0.5 * jnp.where(inside, q0[:2] - moved[:2], q0[:2])
    curve = jnp.where(inside, 0.5 * (q0[2:] + moved[2:]), q0[2:])
    trust = _trust(h)[None, :, None] * _trust(w)[None, None]
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


def _trust(length: int) -> jax.Array:
    middle = (1.0,) * (length - 2 * len(_BORDER))
    return jnp.array(_BORDER + middle + _BORDER[::-1], jnp.float32)


def _solve(equations: jax.Array) -> jax.Array:
    """Displacements [2, B, H, W] (dx, dy) of averaged normal equations."""
    g11, g12, g22, h1, h2 = equations
    # An average of squares has no negative determinant; rounding makes one where
    # the image varies along one direction alone.
    scale = 1 / (jnp.maximum(g11 * g22 - g12 * g12, 0) + 1e-3)
    return jnp.stack([(g11 * h2 - g12 * h1) * scale, (g22 * h1 - g12 * h2) * scale])
