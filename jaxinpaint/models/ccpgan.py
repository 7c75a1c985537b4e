"""CCPGAN's networks: a damaged serial section, guided by one neighbour.

Source: Consecutive Context Perceive Generative Adversarial Networks for Serial
Sections Inpainting, IEEE Access 2020 (section III-D, Algorithm 1). Where the paper is
silent, layers, widths and activations are those of DeepFill v1, which it builds on;
the numbers (R1, R2, ...) are the project's record of these choices. Layer names keep
that lineage visible. No layer is normalised (R2).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import (
    expect_dtype,
    expect_multiple,
    expect_shape,
)
from jaxinpaint.layers.conv import UpsampleConv
from jaxinpaint.ops.attention import AttentionOptions, context_perceive

STRIDE = 8  # two downsamplings, then attention on every second cell
LEAST_SIZE = 64
GLOROT = nn.initializers.glorot_uniform()  # R13: TensorFlow's default, not Flax's


def conv(
    name: str,
    features: int,
    dtype: jnp.dtype,
    size: int = 3,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Conv:
    """A convolution as every layer here has it: zero "SAME" padding (R1), bias."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        kernel_dilation=dilation,
        kernel_init=GLOROT,
        dtype=dtype,
        name=name,
    )


class SerialPathway(nn.Module):
    """One of the two encoder-decoders of the serial perceive module (N_ref, N_d)."""

    width: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, guides: tuple[jax.Array, jax.Array] | None
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
        """Reads one section, with the other pathway's decoder features if given.

        Args:
          x: [B, H, W, channels + 2], image, ones and mask.
          guides: features after the two upsamplings of the other pathway,
            [B, H/2, W/2, 2 width] and [B, H, W, width]; None for N_ref. They join
            directly after the layers of the same name (R5).

        Returns:
          The image [B, H, W, channels] float32 in [-1, 1]; the features before the
          dilated layers, [B, H/4, W/4, 4 width]; its own two guides.
        """
        n, t = self.width, self.dtype
        x = nn.elu(conv("conv1", n, t, size=5)(x))
        x = nn.elu(conv("conv2_downsample", 2 * n, t, stride=2)(x))
        x = nn.elu(conv("conv3", 2 * n, t)(x))
        x = nn.elu(conv("conv4_downsample", 4 * n, t, stride=2)(x))
        x = nn.elu(conv("conv5", 4 * n, t)(x))
        x = before = nn.elu(conv("conv6", 4 * n, t)(x))
        for number, dilation in ((7, 2), (8, 4), (9, 8), (10, 16)):
            x = nn.elu(conv(f"conv{number}_atrous", 4 * n, t, dilation=dilation)(x))
        x = nn.elu(conv("conv11", 4 * n, t)(x))
        x = nn.elu(conv("conv12", 4 * n, t)(x))
        x = half = nn.elu(UpsampleConv(2 * n, GLOROT, t, name="conv13_upsample")(x))
        if guides is not None:
            x = jnp.concatenate([x, guides[0]], axis=-1)
        x = nn.elu(conv("conv14", 2 * n, t)(x))
        x = full = nn.elu(UpsampleConv(n, GLOROT, t, name="conv15_upsample")(x))
        if guides is not None:
            x = jnp.concatenate([x, guides[1]], axis=-1)
        x = nn.elu(conv("conv16", n // 2, t)(x))
        x = conv("conv17", self.channels, t)(x).astype(jnp.float32)
        return jnp.clip(x, -1.0, 1.0), before, (half, full)


class RefinedNetwork(nn.Module):
    """Two encoders over the coarse result, dilated and perceiving, one decoder."""

    width: int
    channels: int
    attention: AttentionOptions
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        neighbor: jax.Array,
        mask: jax.Array,
        neighbor_mask: jax.Array | None,
    ) -> jax.Array:
        """Refines a coarse result with patches of the section and its neighbour.

        Args:
          x: [B, H, W, channels + 2], coarse completion, ones and mask.
          neighbor: [B, H/4, W/4, 4 width], N_ref's features before dilation.
          mask: [B, H/4, W/4, 1], the hole at feature resolution.
          neighbor_mask: like `mask`, damage of the neighbour, or None.

        Returns:
          [B, H, W, channels] float32 in [-1, 1].
        """
        n, t = self.width, self.dtype
        h = nn.elu(conv("xconv1", n, t, size=5)(x))
        h = nn.elu(conv("xconv2_downsample", n, t, stride=2)(h))
        h = nn.elu(conv("xconv3", 2 * n, t)(h))
        h = nn.elu(conv("xconv4_downsample", 2 * n, t, stride=2)(h))
        h = nn.elu(conv("xconv5", 4 * n, t)(h))
        h = nn.elu(conv("xconv6", 4 * n, t)(h))
        for number, dilation in ((7, 2), (8, 4), (9, 8), (10, 16)):
            h = nn.elu(conv(f"xconv{number}_atrous", 4 * n, t, dilation=dilation)(h))

        p = nn.elu(conv("pmconv1", n, t, size=5)(x))
        p = nn.elu(conv("pmconv2_downsample", n, t, stride=2)(p))
        p = nn.elu(conv("pmconv3", 2 * n, t)(p))
        p = nn.elu(conv("pmconv4_downsample", 4 * n, t, stride=2)(p))
        p = nn.elu(conv("pmconv5", 4 * n, t)(p))
        p = nn.relu(conv("pmconv6", 4 * n, t)(p))
        # R10: a ReLU puts the neighbour's keys in the orthant of the section's.
        p = context_perceive(p, nn.relu(neighbor), mask, neighbor_mask, self.attention)
        p = nn.elu(conv("pmconv9", 4 * n, t)(p))
        p = nn.elu(conv("pmconv10", 4 * n, t)(p))

        x = jnp.concatenate([h, p], axis=-1)
        x = nn.elu(conv("allconv11", 4 * n, t)(x))
        x = nn.elu(conv("allconv12", 4 * n, t)(x))
        x = nn.elu(UpsampleConv(2 * n, GLOROT, t, name="allconv13_upsample")(x))
        x = nn.elu(conv("allconv14", 2 * n, t)(x))
        x = nn.elu(UpsampleConv(n, GLOROT, t, name="allconv15_upsample")(x))
        x = nn.elu(conv("allconv16", n // 2, t)(x))
        x = conv("allconv17", self.channels, t)(x).astype(jnp.float32)
        return jnp.clip(x, -1.0, 1.0)


class Generator(nn.Module):
    """Serial perceive module, then the refined generating network.

    Attributes:
      width: channels of the first layers, 32 in the paper's lineage.
      channels: of the images, 3 in the paper, 1 for grey sections.
      attention: options of the context perceive layer.
      dtype: of the convolutions; parameters, images and softmax stay float32.
    """

    width: int
    channels: int
    attention: AttentionOptions
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        neighbor: jax.Array,
        mask: jax.Array,
        neighbor_mask: jax.Array | None = None,
    ) -> Mapping[str, jax.Array]:
        """Restores the hole of a section.

        Args:
          image: [B, H, W, channels] float32 in [-1, 1]; what lies in the hole is
            never read, NaN included. H and W multiples of 8, at least 64.
          neighbor: an adjacent section, same shape; not masked.
          mask: [B, H, W, 1], exactly 0 or 1, 1 = hole.
          neighbor_mask: [B, H, W, 1], 1 = damage of the neighbour; None if whole.

        Returns:
          Images [B, H, W, channels] float32 in [-1, 1], with the paper's symbol:
          `damaged` (y_m) and `reference` (y_a), the pathways' own images; `coarse`
          (y_s), their maximum; `refined` (y_o); `completed` (y_c), equal to `image`
          bit for bit where the mask is 0. Further `features` (f_nei), what the
          perceive layer reads of the neighbour, [B, H/4, W/4, 4 width].

        Raises:
          ShapeMismatchError: shapes disagree.
          UnalignedSizeError: H or W does not fit.
          DTypeError: an array is not float32.

        Source: CCPGAN, Algorithm 1.
        """
        where = "ccpgan.Generator"
        shape = expect_shape(where, "image", image, f"B H W {self.channels}")
        b, h, w, _ = shape
        expect_shape(where, "neighbor", neighbor, f"{b} {h} {w} {self.channels}")
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        expect_multiple(where, shape, STRIDE, LEAST_SIZE)
        arrays = {"image": image, "neighbor": neighbor, "mask": mask}
        if neighbor_mask is not None:
            expect_shape(where, "neighbor_mask", neighbor_mask, f"{b} {h} {w} 1")
            arrays["neighbor_mask"] = neighbor_mask
        for name, array in arrays.items():
            expect_dtype(where, name, array, "float32")

        hole = mask > 0
        ones = jnp.ones_like(mask)
        # R6: the hole is mid-grey. Selecting, not multiplying, stops a NaN there.
        masked = jnp.where(hole, 0.0, image)

        def pathway(name: str) -> SerialPathway:
            return SerialPathway(self.width, self.channels, self.dtype, name=name)

        reference, features, guides = pathway("n_ref")(
            jnp.concatenate([neighbor, ones, mask], axis=-1),
            None,  # R4
        )
        damaged, _, _ = pathway("n_d")(
            jnp.concatenate([masked, ones, mask], axis=-1), guides
        )
        coarse = jnp.maximum(damaged, reference)

        refine = RefinedNetwork(
            self.width, self.channels, self.attention, self.dtype, name="refine"
        )
        refined = refine(
            # R8: known pixels are pasted back before the second stage.
            jnp.concatenate([jnp.where(hole, coarse, masked), ones, mask], axis=-1),
            features,
            pool_mask(mask),
            None if neighbor_mask is None else pool_mask(neighbor_mask),
        )
        return {
            "damaged": damaged,
            "reference": reference,
            "coarse": coarse,
            "refined": refined,
            "completed": jnp.where(hole, refined, image),
            "features": features,
        }


class Critic(nn.Module):
    """Wasserstein critic, for the whole image or the local box (R11, R12)."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Scores images [B, S, S, C] in [-1, 1]; returns [B] float32, unbounded."""
        x = image
        for number, factor in ((1, 1), (2, 2), (3, 4), (4, 4)):
            layer = conv(
                f"conv{number}", factor * self.width, self.dtype, size=5, stride=2
            )
            x = nn.leaky_relu(layer(x), 0.2)
        x = x.reshape(x.shape[0], -1)
        # Always float32: a Wasserstein gap is a small difference of large scores.
        dense = nn.Dense(1, kernel_init=GLOROT, dtype=jnp.float32, name="fc")
        return dense(x)[:, 0]


def pool_mask(mask: jax.Array) -> jax.Array:
    """The hole at feature resolution: a cell is hole if any of its 4 x 4 pixels is.

    [B, H, W, 1] -> [B, H/4, W/4, 1]. Strided sampling would let thin holes vanish and
    damaged features act as clean keys (R14).
    """
    b, h, w, _ = mask.shape
    return mask.reshape(b, h // 4, 4, w // 4, 4, 1).max(axis=(2, 4))
