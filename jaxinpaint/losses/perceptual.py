"""Perceptual and style losses, over features that the caller has extracted once."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape

Features = Mapping[str, jax.Array]
Divisor = Callable[[int, int, int], int]


def absolute(x: jax.Array) -> jax.Array:
    """|x| with gradient 0 at 0; that of `jnp.abs` is 1 there, which pulls on equals."""
    return x * jnp.sign(x)


def positions(height: int, width: int, channels: int) -> int:
    """Divisor of `gram`: its entries become means over positions (ipA-MedGAN)."""
    return height * width


def elements(height: int, width: int, channels: int) -> int:
    """Divisor of `gram`: means over positions, over channels (RNON, glomeruli)."""
    return height * width * channels


def perceptual(
    truth: Features,
    prediction: Features,
    weights: Mapping[str, float],
    distance: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Weighted sum over layers of the mean distance between features.

        sum_n weights[n] * mean distance(truth_n - prediction_n)

    The mean is over batch, rows, columns and channels. The papers' terms:

    - FlowInpaint Eq. 17 (R36), glomeruli Eq. 10: `absolute`, weights of 1.
    - ipA-MedGAN Eq. 3: `absolute`, weights of 1, over the discriminator's blocks and
      the images themselves, as one more entry.
    - RNON Eq. 4 and 6: `absolute`, once for the raw result and once for the composite;
      weights of 1 for VGG16, of 30 for DenseNet (Eq. 13: 1.25 and 50).

    Args:
      truth: name to [B, H, W, C], any float dtype.
      prediction: the same names and shapes.
      weights: of the layers that count; others may be there for other losses.
      distance: elementwise, of a difference: `absolute` or `jnp.square`.

    Returns:
      Scalar, float32 at the least. Its gradient is 0 where features are equal.

    Raises:
      ShapeMismatchError: shapes disagree.
      ValueError: no weights, or one of a name that the features lack.
    """
    _expect_names("perceptual", truth, prediction, weights)
    terms = []
    for name, weight in weights.items():
        _expect_pair("perceptual", name, truth[name], prediction[name])
        apart = _wide(truth[name]) - _wide(prediction[name])
        terms.append(weight * jnp.mean(distance(apart)))
    return jnp.sum(jnp.stack(terms))


def gram(features: jax.Array, divisor: Divisor) -> jax.Array:
    """Products of the channels with each other, summed over positions.

        gram[b, c, d] = sum_{y, x} f[b, y, x, c] * f[b, y, x, d] / divisor(H, W, C)

    Args:
      features: [B, H, W, C], any float dtype.
      divisor: `positions` or `elements`.

    Returns:
      [B, C, C], float32 at the least, whatever precision matrix products have.

    Raises:
      ShapeMismatchError: no four axes.

    Source: Gatys et al. 2016; ipA-MedGAN Eq. 4, RNON Eq. 7, glomeruli Eq. 11.
    """
    b, h, w, c = expect_shape("gram", "features", features, "B H W C")
    flat = _wide(features).reshape(b, h * w, c)
    products = jnp.einsum(
        "bnc,bnd->bcd", flat, flat, precision=jax.lax.Precision.HIGHEST
    )
    return products / float(divisor(h, w, c))


def style(
    truth: Features,
    prediction: Features,
    weights: Mapping[str, float],
    divisor: Divisor,
    distance: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Weighted sum over layers of the mean distance between Gram matrices.

        sum_n weights[n] * mean distance(gram(truth_n) - gram(prediction_n))

    The mean is over the batch and the C * C entries. The papers' terms:

    - glomeruli Eq. 11: `elements`, `absolute`, weights of 1.
    - RNON Eq. 7 and 8: the same, for the raw result and for the composite.
    - ipA-MedGAN Eq. 4, squared Frobenius norm / (4 C^2): `positions`, `jnp.square`,
      weights of lambda / 4, since the mean divides by C^2.

    Args:
      truth: name to [B, H, W, C], any float dtype.
      prediction: the same names and shapes.
      weights: of the layers that count; others may be there for other losses.
      divisor: `positions` or `elements`.
      distance: elementwise, of a difference: `absolute` or `jnp.square`.

    Returns:
      Scalar, float32 at the least. Where features are equal it is 0 up to
      the rounding of the products, and its gradient is finite.

    Raises:
      ShapeMismatchError: shapes disagree.
      ValueError: no weights, or one of a name that the features lack.
    """
    _expect_names("style", truth, prediction, weights)
    terms = []
    for name, weight in weights.items():
        _expect_pair("style", name, truth[name], prediction[name])
        apart = gram(truth[name], divisor) - gram(prediction[name], divisor)
        terms.append(weight * jnp.mean(distance(apart)))
    return jnp.sum(jnp.stack(terms))


def _wide(x: jax.Array) -> jax.Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _expect_names(
    where: str, truth: Features, prediction: Features, weights: Mapping[str, float]
) -> None:
    shared = [name for name in truth if name in prediction]
    unknown = [name for name in weights if name not in shared]
    if unknown or not weights:
        raise ValueError(
            f"{where}: weights must be of some of {', '.join(shared)}; got "
            f"{', '.join(unknown) or 'none'}."
        )


def _expect_pair(
    where: str, name: str, truth: jax.Array, prediction: jax.Array
) -> None:
    b, h, w, c = expect_shape(where, f"truth[{name!r}]", truth, "B H W C")
    want = f"{b} {h} {w} {c}"
    expect_shape(where, f"prediction[{name!r}]", prediction, want)
