"""Feature similarity: phase congruency and gradient, with colour as FSIMc.

L. Zhang, L. Zhang, X. Mou, D. Zhang, "FSIM: A feature similarity index for image
quality assessment", IEEE TIP 2011; phase congruency after P. Kovesi, 1999.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import ShapeMismatchError
from jaxinpaint.metrics.pixel import check_pair
from jaxinpaint.ops.filters import block_mean, separable

T_CONGRUENCY, T_GRADIENT, T_COLOUR = 0.85, 160.0, 200.0
COLOUR_POWER = 0.03
YIQ = (
    (0.299, 0.587, 0.114),
    (0.5959, -0.2746, -0.3213),
    (0.2115, -0.5227, 0.3112),
)
SCALES, ORIENTATIONS = 4, 4
SMALLEST_WAVELENGTH, WAVELENGTH_FACTOR = 6.0, 2.0
BANDWIDTH, ANGULAR_RATIO = 0.55, 1.2
NOISE_DEVIATIONS, NOISE_DIVISOR = 2.0, 1.7
CUT_OFF, CUT_OFF_ORDER = 0.45, 15
# Grey levels (of 255) below which a filter's answer is rounding, not structure.
SILENCE = 1e-4
# Weight that a pixel without any structure keeps, so that a flat region has a score.
FLAT_WEIGHT = 1e-7


@jax.jit
def fsim(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Feature similarity of the brightness; colours count through their luma.

        sum(S_pc * S_g * PC_max) / sum(PC_max),  S = (2 a b + T) / (a^2 + b^2 + T)

    with phase congruency (T1 = 0.85), Scharr gradient (T2 = 160) and PC_max the
    larger congruency of the two images, all on levels 0..255 after block means of
    side max(1, round(min(H, W) / 256)) (Python's round: half to even). Both sums run
    over the region, reduced by the same block means, so that a block partly in the
    region counts with that part; the filters themselves see the whole image.

    Args:
      truth: [B, H, W, C] float32 in 0..data_range, C = 1 or 3 (RGB).
      prediction: shaped and ranged like `truth`.
      region: [B, H, W, 1] of 0 and 1, 1 = counts.
      data_range: largest grey level, 255 or 65535.

    Returns:
      [B] in 0..1, 1 for equal images; NaN where the region is empty.

    Raises:
      ValueError: a shape or dtype does not fit, or C is neither 1 nor 3.

    Source: CCPGAN Eq. 9 and specification 5.3. Deviation (7.17): the denominators
    are sums; the printed products would not give equal images a score of 1.
    """
    truth, prediction, region = _reduced("fsim", truth, prediction, region, data_range)
    similarity, weight = _structure(_luma(truth), _luma(prediction))
    return _pool(similarity, weight, region)


@jax.jit
def fsimc(
    truth: jax.Array, prediction: jax.Array, region: jax.Array, *, data_range: float
) -> jax.Array:
    """Feature similarity with colour: `fsim`, its map times |S_I * S_Q|^0.03.

    S_I and S_Q compare the chroma channels of YIQ with T3 = T4 = 200. A grey image
    has no chroma, so with C = 1 this is `fsim`. Arguments, result and errors are
    those of `fsim`.

    Source: CCPGAN Eq. 9 and specification 5.3.
    """
    if truth.ndim == 4 and truth.shape[3] == 1:
        return fsim(truth, prediction, region, data_range=data_range)
    truth, prediction, region = _reduced("fsimc", truth, prediction, region, data_range)
    similarity, weight = _structure(_luma(truth), _luma(prediction))
    for row in YIQ[1:]:
        chroma = _similarity(_mix(truth, row), _mix(prediction, row), T_COLOUR)
        similarity = similarity * jnp.abs(chroma) ** COLOUR_POWER
    return _pool(similarity, weight, region)


def _reduced(
    where: str,
    truth: jax.Array,
    prediction: jax.Array,
    region: jax.Array,
    data_range: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    shape = check_pair(where, truth, prediction, region)
    if shape[3] not in (1, 3):
        raise ShapeMismatchError(
            f"{where}: truth must have 1 or 3 channels, got {shape[3]}; score the "
            "channels of other images one at a time."
        )
    size = max(1, round(min(shape[1:3]) / 256))
    levels = (image * (255.0 / data_range) for image in (truth, prediction))
    first, second = (block_mean(image, size) for image in levels)
    return first, second, block_mean(region, size)


def _mix(image: jax.Array, row: tuple[float, float, float]) -> jax.Array:
    return sum(
        (row[c] * image[..., c : c + 1] for c in (1, 2)),
        start=row[0] * image[..., :1],
    )


def _luma(image: jax.Array) -> jax.Array:
    return image if image.shape[3] == 1 else _mix(image, YIQ[0])


def _similarity(a: jax.Array, b: jax.Array, constant: float) -> jax.Array:
    return (2.0 * a * b + constant) / (a**2 + b**2 + constant)


def _structure(truth: jax.Array, prediction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Similarity map and its weight, both [B, H, W, 1], of images [B, H, W, 1]."""
    congruency_t, congruency_p = (
        phase_congruency(image[..., 0])[..., None] for image in (truth, prediction)
    )
    similarity = _similarity(congruency_t, congruency_p, T_CONGRUENCY) * _similarity(
        _gradient(truth), _gradient(prediction), T_GRADIENT
    )
    return similarity, jnp.maximum(congruency_t, congruency_p)


def _pool(similarity: jax.Array, weight: jax.Array, region: jax.Array) -> jax.Array:
    weight = (weight + FLAT_WEIGHT) * region
    axes = (1, 2, 3)
    return jnp.sum(similarity * weight, axis=axes) / jnp.sum(weight, axis=axes)


def _gradient(image: jax.Array) -> jax.Array:
    """Length of the Scharr gradient; outside the image is black."""
    image = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    smooth, slope = (3 / 16, 10 / 16, 3 / 16), (1.0, 0.0, -1.0)
    return jnp.sqrt(
        separable(image, slope, smooth) ** 2 + separable(image, smooth, slope) ** 2
    )


def _log_gabor(height: int, width: int) -> jax.Array:
    """Filters in the frequency plane, [orientation, scale, H, W], zero frequency first.

    The plane of an odd side runs from -1/2 to 1/2 inclusive, as in Kovesi's code.
    """

    def axis(length: int) -> jax.Array:
        middle = length // 2
        steps = jnp.arange(length, dtype=jnp.float32) - middle
        return jnp.roll(steps / (length - length % 2), -middle)

    y, x = jnp.meshgrid(axis(height), axis(width), indexing="ij")
    radius = jnp.hypot(x, y).at[0, 0].set(1.0)
    angle = jnp.arctan2(-y, x)
    low_pass = 1.0 / (1.0 + (radius / CUT_OFF) ** (2 * CUT_OFF_ORDER))
    radial = []
    for scale in range(SCALES):
        wavelength = SMALLEST_WAVELENGTH * WAVELENGTH_FACTOR**scale
        octaves = jnp.log(radius * wavelength) / math.log(BANDWIDTH)
        radial.append((low_pass * jnp.exp(-0.5 * octaves**2)).at[0, 0].set(0.0))
    angular = []
    sigma = math.pi / ORIENTATIONS / ANGULAR_RATIO
    for orientation in range(ORIENTATIONS):
        turned = angle - orientation * math.pi / ORIENTATIONS
        distance = jnp.arctan2(jnp.sin(turned), jnp.cos(turned))
        angular.append(jnp.exp(-0.5 * (distance / sigma) ** 2))
    return jnp.stack(angular)[:, None] * jnp.stack(radial)[None]


def _noise_gain(filters: jax.Array) -> jax.Array:
    """How white noise of unit power comes through all scales, [orientation].

    The sum over scales of the real parts of the filters in space, squared and summed
    over pixels. By Parseval this needs no transform: the real part of a filter in
    space is its even part in frequency.
    """
    mirrored = jnp.roll(jnp.flip(filters, axis=(2, 3)), 1, axis=(2, 3))
    even = 0.5 * (filters + mirrored)
    return jnp.sum(jnp.sum(even, axis=1) ** 2, axis=(1, 2))


def _median(values: jax.Array) -> jax.Array:
    """Median over the last two axes of values >= 0; the lower of two middle ones.

    Floats >= 0 are ordered like their bits read as integers, so 31 halvings of that
    range find the value exactly. Sorting takes 40 times as long on a CPU.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    rank = (values.shape[-2] * values.shape[-1] + 1) // 2

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple:
        low, high = bounds
        middle = low + (high - low) // 2
        below = jnp.sum(bits <= middle[..., None, None], axis=(-2, -1)) >= rank
        return jnp.where(below, low, middle + 1), jnp.where(below, middle, high)

    low = jnp.zeros(values.shape[:-2], jnp.int32)
    largest = jnp.full_like(low, np.float32(np.inf).view(np.int32))
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, largest))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


@jax.jit
def phase_congruency(image: jax.Array) -> jax.Array:
    """Phase congruency of [B, H, W] in grey levels 0..255.

    4 scales from wavelength 6 by factors of 2, 4 orientations, noise threshold
    (mean + 2 deviations of the Rayleigh noise estimated at the smallest scale) / 1.7.

    Returns:
      [B, H, W] in 0..1.
    """
    _, height, width = image.shape
    filters = _log_gabor(height, width)
    spectrum = jnp.fft.fft2(image)[:, None, None]
    # [B, orientation, scale, H, W] from here on.
    answers = jnp.fft.ifft2(spectrum * filters[None].astype(spectrum.dtype))
    even, odd = answers.real, answers.imag
    amplitude = jnp.sqrt(even**2 + odd**2)

    sum_even = jnp.sum(even, axis=2, keepdims=True)
    sum_odd = jnp.sum(odd, axis=2, keepdims=True)
    length = jnp.sqrt(sum_even**2 + sum_odd**2) + SILENCE
    cosine, sine = sum_even / length, sum_odd / length
    energy = jnp.sum(
        even * cosine + odd * sine - jnp.abs(even * sine - odd * cosine), axis=2
    )

    # The smallest scale is mostly noise: from the median of its energy, the power of
    # the noise; from that, the mean and deviation of its length over all scales.
    median = _median(amplitude[:, :, 0] ** 2)
    power = median / math.log(2.0) / jnp.sum(filters[:, 0] ** 2, axis=(1, 2))[None]
    rayleigh = jnp.sqrt(power * _noise_gain(filters)[None])
    mean = rayleigh * math.sqrt(math.pi / 2)
    deviation = rayleigh * math.sqrt(2 - math.pi / 2)
    threshold = (mean + NOISE_DEVIATIONS * deviation) / NOISE_DIVISOR

    energy = jnp.sum(jnp.maximum(energy - threshold[..., None, None], 0.0), axis=1)
    return energy / (jnp.sum(amplitude, axis=(1, 2)) + SILENCE)
