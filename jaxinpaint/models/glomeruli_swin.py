"""Swin-Unet: a U-Net whose levels attend within windows of tokens.

A token is a patch of 4 x 4 pixels; maps of tokens stay [B, h, w, C] throughout.

Source: Cao et al., Swin-Unet (2021), in its released code, as the glomerulus paper
compares with it (Table 5). Section 2.8 of this project's specification; the window is 8
there, so that it divides a tile of 1024 pixels.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.features.efficientnet import drop_branch
from jaxinpaint.features.normalization import IMAGENET, normalize

CLASSES = 2
PATCH = 4  # pixels a side of a token
MLP_RATIO = 4
APART = -100.0  # added to the score of two tokens that are not neighbours

# Assumption: the paper is silent; as in the released code, whose normal distribution is
# cut off at a hundred deviations, and whose convolutions are uniform within the root of
# 1 / fan_in. All biases are 0.
NARROW = nn.initializers.normal(0.02)
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

dense = functools.partial(nn.Dense, kernel_init=NARROW)


def layer_norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """Layer norm over channels; its statistics are float32."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


def to_windows(x: jax.Array, side: int) -> jax.Array:
    """[B, h, w, C] -> [B, h w / side^2, side^2, C], both in row-major order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, side * side, c)


def from_windows(x: jax.Array, side: int, height: int, width: int) -> jax.Array:
    """The inverse of `to_windows`."""
    b, *_, c = x.shape
    x = x.reshape(b, height // side, width // side, side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)


def relative_positions(side: int) -> np.ndarray:
    """Row of the table for each pair of tokens of a window.

    Returns:
      [side^2, side^2] integers below (2 side - 1)^2: row distance, then column
      distance, query minus key.
    """
    at = np.stack(np.divmod(np.arange(side * side), side))
    apart = at[:, :, None] - at[:, None] + side - 1
    return apart[0] * (2 * side - 1) + apart[1]


def regions(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """Which tokens a shifted window holds that lie side by side in the image.

    Returns:
      [h w / side^2, side^2] integers; tokens of a window that differ came from
      opposite ends of the map.
    """
    ends = [
        (np.arange(n) >= n - side).astype(int) + (np.arange(n) >= n - shift)
        for n in (height, width)
    ]
    plane = 3 * ends[0][:, None] + ends[1]
    cells = plane.reshape(height // side, side, width // side, side)
    return cells.transpose(0, 2, 1, 3).reshape(-1, side * side)


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a bias for their distance.

    Attributes:
      heads: how many; they divide the channels.
      side: tokens a side of a window.
      dtype: of the products; scores and softmax are float32.
    """

    heads: int
    side: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, region: np.ndarray | None) -> jax.Array:
        """[B, windows, side^2, C] and [windows, side^2] or None -> [B, windows, ...]."""
        b, windows, n, c = x.shape
        size = c // self.heads
        table = self.param(
            "relative_position_bias", NARROW, ((2 * self.side - 1) ** 2, self.heads)
        )
        packed = dense(3 * c, dtype=self.dtype, name="qkv")(x)
        packed = packed.reshape(b, windows, n, 3, self.heads, size)
        query, key, value = (packed[:, :, :, i] for i in range(3))
        wide = jnp.promote_types(packed.dtype, jnp.float32)
        scores = jnp.einsum(
            "bwqhd,bwkhd->bwhqk", query * size**-0.5, key, preferred_element_type=wide
        )
        bias = table[relative_positions(self.side)].transpose(2, 0, 1)
        scores += bias.reshape(1, 1, self.heads, n, n)
        if region is not None:
            apart = region[:, :, None] != region[:, None]
            scores += jnp.where(apart, APART, 0.0).reshape(1, windows, 1, n, n)
        weights = nn.softmax(scores, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, value)
        mixed = mixed.reshape(b, windows, n, c)
        return dense(c, dtype=self.dtype, name="project")(mixed)


class SwinBlock(nn.Module):
    """Attention in windows, then two dense layers, each on a residual path.

    Attributes:
      heads: of the attention.
      side: tokens a side of a window.
      shift: tokens that the windows are moved by, to the right and down.
      drop_rate: probability that a sample's branch is dropped in training.
      dtype: of compute.
    """

    heads: int
    side: int
    shift: int
    drop_rate: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, h, w, C] -> the same; h and w multiples of `side`."""
        _, h, w, c = x.shape

        def dropped(branch: jax.Array) -> jax.Array:
            if not train or self.drop_rate == 0:
                return branch
            return drop_branch(branch, self.make_rng("drop_path"), self.drop_rate)

        y = layer_norm("norm1", self.dtype)(x)
        region = None
        if self.shift:
            y = jnp.roll(y, (-self.shift, -self.shift), axis=(1, 2))
            region = regions(h, w, self.side, self.shift)
        attention = WindowAttention(self.heads, self.side, self.dtype, name="attention")
        y = from_windows(attention(to_windows(y, self.side), region), self.side, h, w)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), axis=(1, 2))
        x = x + dropped(y)
        y = layer_norm("norm2", self.dtype)(x)
        y = dense(MLP_RATIO * c, dtype=self.dtype, name="mlp1")(y)
        y = dense(c, dtype=self.dtype, name="mlp2")(nn.gelu(y, approximate=False))
        return x + dropped(y)


class Merge(nn.Module):
    """Four tokens become one with twice the channels."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h / 2, w / 2, 2 C].

        Their order is (0, 0), (1, 0), (0, 1), (1, 1), row and column.
        """
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        x = layer_norm("norm", self.dtype)(x.reshape(b, h // 2, w // 2, 4 * c))
        return dense(2 * c, use_bias=False, dtype=self.dtype, name="reduce")(x)


class Expand(nn.Module):
    """A token becomes a square of tokens with the channels that were asked for."""

    times: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, times h, times w, features]."""
        b, h, w, _ = x.shape
        t, c = self.times, self.features
        x = dense(t * t * c, use_bias=False, dtype=self.dtype, name="expand")(x)
        x = x.reshape(b, h, w, t, t, c).transpose(0, 1, 3, 2, 4, 5)
        return layer_norm("norm", self.dtype)(x.reshape(b, t * h, t * w, c))


class SwinUnet(nn.Module):
    """Swin-Unet.

    Attributes:
      width: channels of a token, 96; twice as many a level below.
      depths: blocks of the encoder's levels, the finest first, (2, 2, 2, 2).
      decoder_depths: blocks of the decoder's levels, the coarsest first, (2, 2, 2);
        one level fewer, and in none of them more than the encoder has there.
      heads: of the levels, the finest first, (3, 6, 12, 24).
      window: tokens a side of a window, 8 here and 7 as published.
      drop_path: rate in training of the encoder's last block, 0.2; it grows by equal
        steps from 0, and the decoder has the rates of its level.
      dtype: of compute; parameters, norms' statistics, softmax and logits are float32.
    """

    width: int
    depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Finds glomeruli.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1]; H and W multiples of 256, that is of
            4 * window * 2^(levels - 1).
          train: drop branches, which needs a key `drop_path` if its rate is above 0.
            There is no batch norm.

        Returns:
          Logits [B, H, W, 2] float32: normal, sclerosed.

        Raises:
          ShapeMismatchError: not three channels.
          UnalignedSizeError: H or W does not fit.
          DTypeError: not float32.
          ValueError: a field does not fit.

        Source: section 2.8.
        """
        where = "glomeruli_swin.SwinUnet"
        self._check_fields(where)
        levels = len(self.depths)
        shape = expect_shape(where, "image", image, "B H W 3")
        unit = PATCH * self.window * 2 ** (levels - 1)
        expect_multiple(where, shape, unit, unit)
        expect_dtype(where, "image", image, "float32")

        total = sum(self.depths)
        rates = [self.drop_path * i / max(1, total - 1) for i in range(total)]
        starts = [0, *itertools.accumulate(self.depths)]

        def stage(x: jax.Array, name: str, level: int, blocks: int) -> jax.Array:
            # A map of one window has nothing to shift.
            room = min(x.shape[1:3]) > self.window
            for i in range(blocks):
                block = SwinBlock(
                    self.heads[level],
                    self.window,
                    self.window // 2 if i % 2 and room else 0,
                    # Assumption: the decoder drops like the encoder's level beside
                    # it, as in the released code.
                    rates[starts[level] + i],
                    self.dtype,
                    name=f"{name}_block{i}",
                )
                x = block(x, train=train)
            return x

        x = nn.Conv(
            self.width,
            (PATCH, PATCH),
            strides=PATCH,
            padding="VALID",
            kernel_init=UNIFORM,
            dtype=self.dtype,
            name="embed",
        )(normalize(image, IMAGENET))
        x = layer_norm("embed_norm", self.dtype)(x)
        skips = []
        for level, blocks in enumerate(self.depths):
            skips.append(x)
            x = stage(x, f"encode{level}", level, blocks)
            if level < levels - 1:
                x = Merge(self.dtype, name=f"merge{level}")(x)
        x = layer_norm("encode_norm", self.dtype)(x)
        for blocks, level in zip(
            self.decoder_depths, range(levels - 2, -1, -1), strict=True
        ):
            features = self.width * 2**level
            x = Expand(2, features, self.dtype, name=f"expand{level}")(x)
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = dense(features, dtype=self.dtype, name=f"join{level}")(x)
            x = stage(x, f"decode{level}", level, blocks)
        x = layer_norm("decode_norm", self.dtype)(x)
        x = Expand(PATCH, self.width, self.dtype, name="expand_last")(x)
        head = nn.Conv(
            CLASSES,
            (1, 1),
            use_bias=False,
            kernel_init=UNIFORM,
            dtype=self.dtype,
            name="head",
        )
        return head(x).astype(jnp.float32)

    def _check_fields(self, where: str) -> None:
        levels = len(self.depths)
        if len(self.heads) != levels or len(self.decoder_depths) != levels - 1:
            raise ValueError(
                f"{where}: depths is {self.depths}, decoder_depths "
                f"{self.decoder_depths}, heads {self.heads}; give one of depths and "
                "heads for every level, and one of decoder_depths fewer."
            )
        beside = self.depths[-2::-1]
        if any(d > e for d, e in zip(self.decoder_depths, beside, strict=True)):
            raise ValueError(
                f"{where}: decoder_depths is {self.decoder_depths}; give none above "
                f"the encoder's {beside}."
            )
        for level, heads in enumerate(self.heads):
            if heads < 1 or self.width * 2**level % heads:
                raise ValueError(
                    f"{where}: heads is {self.heads}; {heads} do not divide the "
                    f"{self.width * 2**level} channels of level {level}."
                )
        if self.window < 2:
            raise ValueError(f"{where}: window is {self.window}; give 2 or more.")
