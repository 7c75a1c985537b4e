"""Losses of segmenters whose classes may overlap: one sigmoid a class."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape


def _plain(x: jax.Array) -> jax.Array:
    return x


# What the denominator of Dice adds up, by the form of the loss.
FORMS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "sample": _plain,
    "vnet": jnp.square,
}


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Mean cross-entropy of independent sigmoids.

        mean max(z, 0) - z t + log(1 + exp(-|z|))

    Args:
      logits: z, [B, H, W, classes] float.
      target: t, like logits, 0 or 1.

    Returns:
      Scalar, float32, at least 0; finite for every finite logit.

    Raises:
      ShapeMismatchError: shapes disagree.

    Source: glomeruli Eq. 14, first term; specification 3.3.
    """
    z, t = _pair("binary_cross_entropy", logits, target)
    return jnp.mean(jax.nn.softplus(z) - z * t)


def dice_loss(
    logits: jax.Array, target: jax.Array, *, form: str, smooth: float
) -> jax.Array:
    """One minus the soft Dice of each sample, all classes summed together.

        1 - mean_b (2 sum(p t) + smooth) / (sum q(p) + sum q(t) + smooth)

    with p = sigmoid(logits), and q(x) = x, or x^2 as V-Net has it.

    Args:
      logits: [B, H, W, classes] float.
      target: t, like logits, 0 or 1.
      form: "sample" (q(x) = x) or "vnet".
      smooth: above 0; makes the Dice of two empty maps 1.

    Returns:
      Scalar, float32, in [0, 1].

    Raises:
      ShapeMismatchError: shapes disagree.
      ValueError: another form.

    Source: glomeruli Eq. 14, second term; specification 3.3. V-Net (Milletari et al.
      2016), Eq. 3.
    """
    if form not in FORMS:
        raise ValueError(f"dice_loss: form is {form!r}; it is one of {list(FORMS)}.")
    z, t = _pair("dice_loss", logits, target)
    q, p = FORMS[form], jax.nn.sigmoid(z)
    total = lambda x: jnp.sum(x, axis=(1, 2, 3))
    both, each = total(p * t), total(q(p)) + total(q(t))
    return 1.0 - jnp.mean((2.0 * both + smooth) / (each + smooth))


def _pair(
    where: str, logits: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    b, h, w, c = expect_shape(where, "logits", logits, "B H W C")
    expect_shape(where, "target", target, f"{b} {h} {w} {c}")
    wide = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return logits.astype(wide), target.astype(wide)
