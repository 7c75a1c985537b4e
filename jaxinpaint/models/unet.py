"""A plain U-Net between two neighbours: what the papers' networks are measured by.

Source: Ronneberger et al. 2015, without normalisation and with padding, so that the
result has the size of the input.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_multiple, expect_shape
from jaxinpaint.layers.conv import UpsampleConv

HE = nn.initializers.he_normal()


class UNet(nn.Module):
    """Two convolutions a level, max pooling down, nearest x2 up, skip connections.

    Attributes:
      widths: channels of each level, the finest first.
      channels: of an image.
      dtype: of compute; parameters are float32.
    """

    widths: tuple[int, ...]
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, image: jax.Array, mask: jax.Array, neighbors: jax.Array
    ) -> jax.Array:
        """Restores a batch of sections.

        Args:
          image: [B, H, W, channels] in [-1, 1], sides multiples of 2**(levels - 1);
            what lies in the hole is not read.
          mask: [B, H, W, 1], 1 = hole.
          neighbors: [B, H, W, N], the adjacent sections.

        Returns:
          raw [B, H, W, channels], float32, in no fixed range.

        Raises:
          ValueError: shapes disagree.
          UnalignedSizeError: a side is no multiple.
        """
        b, h, w, _ = expect_shape("UNet", "image", image, f"B H W {self.channels}")
        expect_shape("UNet", "mask", mask, f"{b} {h} {w} 1")
        expect_shape("UNet", "neighbors", neighbors, f"{b} {h} {w} N")
        expect_multiple("UNet", image.shape, 2 ** (len(self.widths) - 1), 1)
        masked = jnp.where(mask > 0, 0.0, image)
        x = jnp.concatenate([masked, mask, neighbors], axis=-1)
        skips = []
        for level, width in enumerate(self.widths):
            x = nn.max_pool(x, (2, 2), (2, 2)) if level else x
            x = self.pair(x, width, f"down{level}")
            skips.append(x)
        for level in reversed(range(len(self.widths) - 1)):
            width = self.widths[level]
            x = nn.relu(UpsampleConv(width, HE, self.dtype, name=f"rise{level}")(x))
            x = jnp.concatenate([skips[level], x], axis=-1)
            x = self.pair(x, width, f"up{level}")
        return self.conv(x, self.channels, "out").astype(jnp.float32)

    def pair(self, x: jax.Array, width: int, name: str) -> jax.Array:
        """Two convolutions, each with its ReLU."""
        for i in (0, 1):
            x = nn.relu(self.conv(x, width, f"{name}_conv{i}"))
        return x

    def conv(self, x: jax.Array, width: int, name: str) -> jax.Array:
        """A 3 x 3 convolution with zero padding and bias."""
        return nn.Conv(width, (3, 3), kernel_init=HE, dtype=self.dtype, name=name)(x)
