"""Partial convolutions that make their own parameters."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.ops.partial_conv import partial_conv, partial_upsample_conv

# Assumption: He's initialisation, as PConv's. What RNON cites for its own is no
# method of initialisation; flax's `he_normal` cuts the normal at two deviations.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PartialConv(nn.Module):
    """A partial convolution.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel, odd.
      stride: of the rows and columns.
      use_bias: whether there is a bias; not before a norm.
      dtype: of the convolution; parameters, masks and ratios are float32.
    """

    features: int
    kernel: int
    stride: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], valids: Sequence[jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Sources [B, H, W, C_s] and masks [B, H, W, 1], 1 = valid.

        Returns:
          [B, H', W', features] in `dtype`, and its mask [B, H', W', 1] float32, with
          H' = ceil(H / stride).
        """
        kernel, bias = _parameters(self, self.kernel, features)
        features = [x.astype(self.dtype) for x in features]
        return partial_conv(features, valids, kernel, bias, stride=self.stride)


class PartialUpsampleConv(nn.Module):
    """A 3 x 3 partial convolution of an enlarged source and others.

    Attributes:
      features: channels of the result.
      use_bias: whether there is a bias; not before a norm.
      dtype: of the convolution; parameters, masks and ratios are float32.
    """

    features: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], valids: Sequence[jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """A source [B, H, W, C_1], then others [B, 2 H, 2 W, C_s], and their masks.

        Returns:
          [B, 2 H, 2 W, features] in `dtype`, and its mask [B, 2 H, 2 W, 1] float32.
        """
        kernel, bias = _parameters(self, 3, features)
        features = [x.astype(self.dtype) for x in features]
        return partial_upsample_conv(features, valids, kernel, bias)


def _parameters(
    layer: PartialConv | PartialUpsampleConv, size: int, features: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
    """The kernel in the layer's dtype, He normal, and the bias, zeros."""
    shape = (size, size, sum(x.shape[-1] for x in features), layer.features)
    kernel = layer.param("kernel", HE, shape).astype(layer.dtype)
    if not layer.use_bias:
        return kernel, None
    return kernel, layer.param("bias", nn.initializers.zeros_init(), (layer.features,))
