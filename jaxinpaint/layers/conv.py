"""Convolutions that make their own parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.ops.upsample import upsample_conv


class UpsampleConv(nn.Module):
    """Nearest x2 enlargement and a 3 x 3 convolution with bias, computed as one.

    Attributes:
      features: channels of the result.
      kernel_init: of the kernel [3, 3, C, features]; biases begin at zero.
      dtype: of compute; parameters are float32.
    """

    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upsample_conv(x, kernel) + bias.reshape(1, 1, 1, -1)
