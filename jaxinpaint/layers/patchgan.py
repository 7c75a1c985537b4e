"""The stack of convolutions that judges an image patch by patch.

Source: Image-to-Image Translation with Conditional Adversarial Networks (pix2pix),
layers "Ck" of its appendix and of its released code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

NARROW = nn.initializers.normal(0.02)


def around_one(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """N(1, 0.02^2), where the scales of the norms begin."""
    return 1.0 + NARROW(key, shape, dtype)


class Ck(nn.Module):
    """Convolution 4 x 4 with one row of zeros around, batch norm, LeakyReLU.

    Attributes:
      width: channels of the result.
      stride: 1 or 2.
      normalised: False gives a bias and no norm.
      dtype: of compute; parameters and statistics are float32.
    """

    width: int
    stride: int
    normalised: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H // 2, W // 2, width]; at stride 1 [B, H-1, W-1, ]."""
        x = convolve(
            x, self.width, self.stride, not self.normalised, self.dtype, "conv"
        )
        if self.normalised:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=around_one,
                dtype=self.dtype,
                name="bn",
            )(x)
        return nn.leaky_relu(x, 0.2)


def convolve(
    x: jax.Array, width: int, stride: int, bias: bool, dtype: jnp.dtype, name: str
) -> jax.Array:
    """The 4 x 4 convolution of all layers, in the module that calls it."""
    return nn.Conv(
        width,
        (4, 4),
        strides=stride,
        padding=((1, 1), (1, 1)),  # "SAME" would pad (1, 2) at stride 1
        use_bias=bias,
        kernel_init=NARROW,
        dtype=dtype,
        name=name,
    )(x)


def patch_gan(
    x: jax.Array, widths: tuple[int, ...], dtype: jnp.dtype, *, train: bool
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Judges images; the layers c1, c2, ... and out belong to the module that calls.

    All layers but the last two have stride 2, the first has no norm. With n widths a
    logit sees 9 * 2^(n - 1) - 2 pixels a side: 70 with four, 286 with six.

    Args:
      x: [B, H, W, C], at least 3 * 2^(n - 1) pixels a side.
      widths: of the layers before the logits.
      dtype: of compute; the logits' convolution is float32.
      train: normalise by the batch, and update the running statistics, which needs
        `mutable=["batch_stats"]`; otherwise by these.

    Returns:
      Logits [B, h, w, 1] and each layer's features after LeakyReLU, float32.
    """
    features = []
    for i, width in enumerate(widths, 1):
        stride = 1 if i == len(widths) else 2
        x = Ck(width, stride, i > 1, dtype, name=f"c{i}")(x, train=train)
        features.append(x.astype(jnp.float32))
    logits = convolve(features[-1], 1, 1, True, jnp.dtype("float32"), "out")
    return logits, tuple(features)
