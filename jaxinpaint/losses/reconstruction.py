"""Distances between a restored image and the truth."""

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape


def masked_l1(truth: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean absolute difference over the pixels that count.

        sum(weight * |truth - prediction|) / (C * max(sum(weight), 1))

    Args:
      truth: [B, H, W, C] float.
      prediction: like truth.
      weight: [B, H, W, 1], 0 to 1; a batch's pixels are summed together, so that
        every hole pixel of the batch weighs the same.

    Returns:
      Scalar; 0 where nothing counts.

    Raises:
      ShapeMismatchError: shapes disagree.

    Source: CCPGAN Eq. 4, as an L1 distance over the hole (R23, R24); FlowInpaint
      Eq. 15 (its R34).
    """
    b, h, w, c = expect_shape("masked_l1", "truth", truth, "B H W C")
    expect_shape("masked_l1", "prediction", prediction, f"{b} {h} {w} {c}")
    expect_shape("masked_l1", "weight", weight, f"{b} {h} {w} 1")
    total = jnp.sum(weight * jnp.abs(truth - prediction))
    return total / (c * jnp.maximum(jnp.sum(weight), 1.0))


def spatial_discount(size: int, base: float) -> jax.Array:
    """Weights [size, size, 1] that fall with the distance to the box's border.

        w[i, j] = max(base ** min(i, size - i), base ** min(j, size - j))

    Source: DeepFill v1's discounted reconstruction loss (R25).
    """
    index = jnp.arange(size)
    near = base ** jnp.minimum(index, size - index).astype(jnp.float32)
    return jnp.maximum(near[:, None], near[None, :])[..., None]
