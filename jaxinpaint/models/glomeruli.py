"""The networks that paint a sclerosed glomerulus into a hole, and those that judge it.

`Generator` fills the hole of a window of kidney tissue; the paper has two networks of
the class `Discriminator`, one for the whole window, one for the glomerulus on white.
Images are in [-1, 1], masks are 1 in the hole.

Source: An image inpainting-based data augmentation method for improved sclerosed
glomerular identification performance with the segmentation model EfficientNetB3-Unet.
Widths, padding and the aggregated transformations are those of the AOT-GAN that it
builds on, the attention is SAGAN's; sections are those of this project's specification.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.layers.patchgan import NARROW, convolve
from jaxinpaint.ops.self_attention import self_attention

STRIDE = 4  # of the generator: two layers of half size
LEAST_SIDE = 64  # the six-layer discriminators leave one score of it
QUERY_SHARE = 8  # queries and keys have an eighth of the channels


def batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """Batch norm as both networks have it; its statistics are float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


def mirror(x: jax.Array, width: int) -> jax.Array:
    """Pads [B, H, W, C] by mirroring; the pixel at the edge is not repeated."""
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")


def gate(features: jax.Array) -> jax.Array:
    """How much of what a block computed is taken over, from 0 to 1.

        beta = sigmoid(5 (2 (g - mean) / deviation - 1))

    Mean and deviation are over the pixels of one sample and channel, the latter
    with one pixel fewer in the denominator.

    Args:
      features: g, [B, H, W, C] float, any range; at least two pixels.

    Returns:
      beta, [B, H, W, C], float32 at least.

    Source: AOT-GAN's released code; the paper has the sigmoid alone. Section 2.2.
    """
    x = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    pixels = x.shape[1] * x.shape[2]
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    variance = jnp.square(centred).sum(axis=(1, 2), keepdims=True) / (pixels - 1)
    # Deviation (AOT-GAN): a floor below the root. Without it a constant map divides
    # rounding by rounding, and the gradient of the root is infinite.
    deviation = jnp.sqrt(jnp.maximum(variance, 1e-12)) + 1e-9
    return nn.sigmoid(5.0 * (2.0 * centred / deviation - 1.0))


class AOTBlock(nn.Module):
    """Aggregated contextual transformations: dilations side by side, joined, gated.

    Attributes:
      rates: dilations, (1, 2, 4, 8) as published; the channels are split among them.
      dtype: of the convolutions; the gate is float32.
    """

    rates: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same; sides above the largest rate.

        Source: section 2.2.
        """
        width = x.shape[-1]
        conv = functools.partial(
            nn.Conv,
            kernel_size=(3, 3),
            padding="VALID",
            kernel_init=NARROW,
            dtype=self.dtype,
        )
        parts = []
        for rate in self.rates:
            share = width // len(self.rates)
            branch = conv(share, kernel_dilation=rate, name=f"branch_{rate}")
            parts.append(nn.relu(branch(mirror(x, rate))))
        fused = conv(width, name="fuse")(mirror(jnp.concatenate(parts, axis=-1), 1))
        beta = gate(conv(width, name="gate")(mirror(x, 1))).astype(x.dtype)
        return x * (1.0 - beta) + fused * beta


class SelfAttention(nn.Module):
    """SAGAN's attention of every position to all, on a residual path.

    Attributes:
      chunk: queries at a time; 0 for all.
      dtype: of the products; the softmax is float32.
    """

    chunk: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same, at first exactly x.

        Source: section 2.3.
        """
        b, h, w, c = x.shape

        def project(name: str, features: int) -> jax.Array:
            conv = nn.Conv(
                features, (1, 1), kernel_init=NARROW, dtype=self.dtype, name=name
            )
            return conv(x).reshape(b, h * w, features)

        mixed = self_attention(
            project("query", c // QUERY_SHARE),
            project("key", c // QUERY_SHARE),
            project("value", c),
            chunk=self.chunk,
        )
        gamma = self.param("gamma", nn.initializers.zeros, (1,)).reshape(1, 1, 1, 1)
        return gamma.astype(x.dtype) * mixed.reshape(b, h, w, c) + x


class Generator(nn.Module):
    """G: two layers down, AOT blocks, self-attention, two layers up with skips.

    Attributes:
      width: channels at full size, 64 as published; 2 and 4 times as many below.
      aot_blocks: how many, 8.
      rates: dilations side by side in a block, (1, 2, 4, 8).
      attention_chunk: queries at a time in the attention, 512; 0 for all.
      remat: recompute every AOT block in the backward pass instead of keeping its
        maps; values are the same.
      dtype: of compute; parameters, statistics, the softmax, the gates, the last
        convolution and the image that is returned are float32.
    """

    width: int
    aot_blocks: int
    rates: tuple[int, ...]
    attention_chunk: int
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """Paints windows with a glomerulus in the hole.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1], X_ori; what lies in the hole is
            never read, NaN included, and is 0 to the network. H and W multiples of
            4, at least 64 and above 4 * the largest rate.
          mask: [B, H, W, 1] float32, exactly 0 or 1, 1 = hole.
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`; otherwise by these, each image alone.

        Returns:
          X_rec, [B, H, W, 3] float32 in [-1, 1], the whole window painted anew.

        Raises:
          ShapeMismatchError: shapes disagree.
          UnalignedSizeError: H or W does not fit.
          DTypeError: an array is not float32.
          ValueError: a field does not fit.

        Source: Eq. 1, 2 and 5; section 2.1.
        """
        where = "glomeruli.Generator"
        self._check_fields(where)
        shape = expect_shape(where, "image", image, "B H W 3")
        b, h, w, _ = shape
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        least = max(LEAST_SIDE, STRIDE * (max(self.rates) + 1))
        expect_multiple(where, shape, STRIDE, least)
        for name, array in (("image", image), ("mask", mask)):
            expect_dtype(where, name, array, "float32")

        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=NARROW, dtype=self.dtype
        )

        def settle(x: jax.Array, name: str) -> jax.Array:
            return nn.leaky_relu(batch_norm(f"{name}_bn", self.dtype, train)(x), 0.2)

        def halve(x: jax.Array, features: int, name: str) -> jax.Array:
            pads = ((1, 1), (1, 1))
            layer = conv(features, (4, 4), strides=2, padding=pads, name=name)
            return settle(layer(x), name)

        def double(x: jax.Array, features: int, name: str) -> jax.Array:
            layer = nn.ConvTranspose(
                features,
                (4, 4),
                strides=(2, 2),
                padding="SAME",
                use_bias=False,
                kernel_init=NARROW,
                dtype=self.dtype,
                name=name,
            )
            return settle(layer(x), name)

        gap = jnp.where(mask > 0, 0.0, image)
        x = mirror(jnp.concatenate([gap, mask], axis=-1), 3)
        whole = settle(
            conv(self.width, (7, 7), padding="VALID", name="encode1")(x), "encode1"
        )
        half = halve(whole, 2 * self.width, "encode2")
        x = halve(half, 4 * self.width, "encode3")
        block = nn.remat(AOTBlock) if self.remat else AOTBlock
        for i in range(1, self.aot_blocks + 1):
            x = block(self.rates, self.dtype, name=f"aot_{i}")(x)
        x = SelfAttention(self.attention_chunk, self.dtype, name="attention")(x)
        # Assumption (section 2.1): skips by concatenation at full and half size.
        x = jnp.concatenate([double(x, 2 * self.width, "decode1"), half], axis=-1)
        x = jnp.concatenate([double(x, self.width, "decode2"), whole], axis=-1)
        # In bfloat16 the image would be half a grey level off.
        last = nn.Conv(3, (7, 7), padding="VALID", kernel_init=NARROW, name="decode3")
        return jnp.tanh(last(mirror(x.astype(jnp.float32), 3)))

    def _check_fields(self, where: str) -> None:
        if self.width < 2:
            raise ValueError(
                f"{where}: width is {self.width}; the attention needs 2 at least."
            )
        if not self.rates or min(self.rates) < 1 or 4 * self.width % len(self.rates):
            raise ValueError(
                f"{where}: rates is {self.rates}; give positive dilations, as many as "
                f"divide the {4 * self.width} channels of a block."
            )
        if len(set(self.rates)) < len(self.rates):
            raise ValueError(f"{where}: rates is {self.rates}; give each only once.")
        if self.aot_blocks < 0:
            raise ValueError(
                f"{where}: aot_blocks is {self.aot_blocks}; give 0 or more."
            )


class Discriminator(nn.Module):
    """D and D_l: convolutions of stride 2 that judge an image patch by patch.

    Attributes:
      channels: of every layer, (64, 128, 256, 512, 512, 1) here; the last is 1, the
        scores.
      dtype: of compute; parameters, statistics and the last layer are float32.
    """

    channels: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Judges images.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1]; H and W multiples of 4 and at least
            2^(number of layers).
          train: as in `Generator`. The paper's training never has it False.

        Returns:
          Raw scores [B, h, w, 1] float32, for least squares: real is 1, fake 0; h is
          H halved, rounded down, once a layer.

        Raises:
          ShapeMismatchError: not three channels.
          UnalignedSizeError: H or W does not fit.
          DTypeError: not float32.
          ValueError: `channels` does not fit.

        Source: section 2.4.
        """
        where = "glomeruli.Discriminator"
        # Assumption (section 2.4): the paper lists five widths for six layers; the
        # widest is there twice.
        channels = self.channels
        if len(channels) < 2 or min(channels) < 1 or channels[-1] != 1:
            raise ValueError(
                f"{where}: channels is {channels}; give two or more, positive, the last "
                "of them 1."
            )
        shape = expect_shape(where, "image", image, "B H W 3")
        expect_multiple(where, shape, STRIDE, 2 ** len(channels))
        expect_dtype(where, "image", image, "float32")

        x = convolve(image, channels[0], 2, True, self.dtype, "conv1")
        x = nn.leaky_relu(x, 0.2)
        for i, width in enumerate(channels[1:-1], start=2):
            x = convolve(x, width, 2, False, self.dtype, f"conv{i}")
            x = nn.leaky_relu(batch_norm(f"bn{i}", self.dtype, train)(x), 0.2)
        x = x.astype(jnp.float32)
        return convolve(x, 1, 2, True, jnp.dtype("float32"), f"conv{len(channels)}")
