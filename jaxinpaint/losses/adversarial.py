"""Adversarial losses that several papers share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape
from jaxinpaint.core.system import Tree

FLOOR = 1e-12  # under the square root: finite gradient of a zero slope


def slopes(
    critic: Callable[[jax.Array], jax.Array], x: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Norm of a critic's gradient over the pixels that count.

    Args:
      critic: images [B, H, W, C] -> scores [B], one image's score its own affair.
      x: [B, H, W, C] where the gradient is taken.
      mask: [B, H, W, 1], 1 where it counts.

    Returns:
      The norms [B] and the masked gradient [B, H, W, C], float32.
    """
    gradient = jax.grad(lambda image: critic(image).sum())(x) * mask
    squares = jnp.sum(gradient**2, axis=(1, 2, 3))
    return jnp.sqrt(jnp.maximum(squares, FLOOR)), gradient


def masked_gradient_penalty(
    critic: Callable[[Tree, jax.Array], jax.Array],
    params: Tree,
    real: jax.Array,
    fake: jax.Array,
    mask: jax.Array,
    t: jax.Array,
) -> jax.Array:
    """Penalty on a critic whose slope in the hole is not 1, between real and fake.

        x = t * real + (1 - t) * fake
        mean_n (|mask * grad_x critic(x)|_2 - 1)^2

    The value is the penalty's and so is the gradient with respect to `params`; it is
    taken through one JVP along the slopes (the same FLOPs as reverse over reverse
    and no convolution backward of a convolution backward). With respect to `real`
    and `fake`, which are constants of a critic's update, there is none.

    Args:
      critic: (params, images [B, H, W, C]) -> scores [B].
      params: the critic's parameters.
      real: [B, H, W, C].
      fake: like real.
      mask: [B, H, W, 1], 1 = hole: the pixels whose slope counts.
      t: [B] in [0, 1], one mixing weight a sample.

    Returns:
      Scalar, float32.

    Raises:
      ShapeMismatchError: shapes disagree.

    Source: CCPGAN Eq. 6; WGAN-GP.
    """
    where = "masked_gradient_penalty"
    b, h, w, c = expect_shape(where, "real", real, "B H W C")
    expect_shape(where, "fake", fake, f"{b} {h} {w} {c}")
    expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
    expect_shape(where, "t", t, f"{b}")
    t = t.reshape(b, 1, 1, 1)
    x = jax.lax.stop_gradient(t * real + (1.0 - t) * fake)
    frozen = jax.lax.stop_gradient(params)
    norm, gradient = slopes(lambda image: critic(frozen, image), x, mask)
    value = jnp.mean((norm - 1.0) ** 2)
    # d value / d params = d/d params of <direction, grad_x critic>, which is a JVP.
    pull = jnp.where(norm**2 > FLOOR, 2.0 * (norm - 1.0) / norm / b, 0.0)
    direction = jax.lax.stop_gradient(pull.reshape(b, 1, 1, 1) * gradient)
    _, along = jax.jvp(lambda image: critic(params, image).sum(), (x,), (direction,))
    return value + along - jax.lax.stop_gradient(along)


def hinge_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Hinge loss of a discriminator.

        mean max(0, 1 - real) + mean max(0, 1 + fake)

    Args:
      real: logits of true images, any shape; every logit weighs the same.
      fake: logits of made images.

    Returns:
      Scalar, at least 0.

    Source: FlowInpaint Eq. 21 without its weight (R32).
    """
    return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake))


def hinge_generator(fake: jax.Array) -> jax.Array:
    """The generator's side of the hinge loss: -mean(fake).

    Args:
      fake: logits of made images, any shape; every logit weighs the same.

    Returns:
      Scalar, unbounded.

    Source: FlowInpaint Eq. 20.
    """
    return -jnp.mean(fake)


def softplus_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Cross-entropy of a discriminator that calls true images 1 and made ones 0.

        (mean softplus(-real) + mean softplus(fake)) / 2

    Args:
      real: logits of true images, any shape; every logit weighs the same.
      fake: logits of made images.

    Returns:
      Scalar, at least 0; log 2 where all logits are 0.

    Source: Goodfellow et al. 2014, Eq. 1; RNON specification 3.2 and 3.3.
    """
    return (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))) / 2.0


def softplus_generator(fake: jax.Array) -> jax.Array:
    """The generator's side, which does not saturate: mean softplus(-fake).

    Args:
      fake: logits of made images, any shape; every logit weighs the same.

    Returns:
      Scalar, at least 0.

    Source: Goodfellow et al. 2014, section 3; RNON specification 3.2 and 3.3.
    """
    return jnp.mean(jax.nn.softplus(-fake))


def least_squares_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Squared distances of a discriminator's scores from 1 (true) and 0 (made).

        mean (1 - real)^2 + mean fake^2

    Args:
      real: scores of true images, any shape; every score weighs the same.
      fake: scores of made images.

    Returns:
      Scalar, at least 0.

    Source: glomeruli Eq. 3 and 4, without a factor 1/2.
    """
    return jnp.mean((1.0 - real) ** 2) + jnp.mean(fake**2)


def least_squares_generator(fake: jax.Array) -> jax.Array:
    """The generator's side of the least-squares loss: mean (1 - fake)^2.

    Args:
      fake: scores of made images, any shape; every score weighs the same.

    Returns:
      Scalar, at least 0.

    Source: Mao et al. 2017, Eq. 9; glomeruli specification 3.1.
    """
    return jnp.mean((1.0 - fake) ** 2)
