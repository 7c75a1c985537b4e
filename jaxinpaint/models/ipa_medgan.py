"""ipA-MedGAN's networks: arbitrary regions of a brain MR slice, no mask given.

`Generator` is a cascade of MultiRes-UNets, each of which sees the image of the one
before; `PatchDiscriminator` and `GlobalDiscriminator` judge an image beside the
damaged one. Images are in [-1, 1] with one channel.

Source: ipA-MedGAN: Inpainting of Arbitrarily Regions in Medical Modalities. Blocks,
widths and batch norms are those of the MultiResUNet that it builds on, in the version
released with that paper (offset-only norms inside the blocks; ReLU, then the last
norm); the discriminators are those of pix2pix. Sections are those of this
project's specification.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.layers.aligned import AlignedConv, AlignedEnlarge, AlignedNorm
from jaxinpaint.layers.patchgan import patch_gan
from jaxinpaint.ops.channels import room, spread

ALPHA = 1.67  # of the MultiRes block
LETTERS = "abcdefgh"  # of the networks of a cascade
LEAST_WIDTH = 4  # below it a block's first convolution has no channel
SLICE_STRIDE = 16  # of the generator with its five levels

# Assumption (section 4): the paper prints no initialisation; Keras's default, as the
# code of MultiResUNet has it. The discriminators begin as those of pix2pix.
GLOROT = nn.initializers.glorot_uniform()


def block_widths(width: int) -> tuple[int, int, int]:
    """Channels of a MultiRes block's three convolutions; concatenated they leave it."""
    w = ALPHA * width
    return int(w * 0.167), int(w * 0.333), int(w * 0.5)


def pool(x: jax.Array) -> jax.Array:
    """Max pooling 2 x 2, stride 2: [B, H, W, C] -> [B, H/2, W/2, C].

    Of equal values the first in row-major order has the gradient. It needs no
    scatter. That of `jnp.max` would divide by the number of values that equal the
    largest: none, where XLA computes them anew and rounds otherwise, and so NaN.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    x = jnp.where(x[..., 0, :] >= x[..., 1, :], x[..., 0, :], x[..., 1, :])
    return jnp.where(x[:, :, 0] >= x[:, :, 1], x[:, :, 0], x[:, :, 1])


class Form(NamedTuple):
    """What all layers of a generator share.

    Attributes:
      multiple: of channels that features are padded to.
      decay: of the norms' running averages.
      dtype: of compute.
    """

    multiple: int
    decay: float
    dtype: jnp.dtype


class ConvNorm(nn.Module):
    """A convolution without bias and a batch norm of its own, offset only."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] -> [B, H, W, outputs]."""
        conv = AlignedConv(
            self.inputs,
            self.outputs,
            self.size,
            GLOROT,
            self.form.multiple,
            self.form.dtype,
            name="conv",
        )
        norm = norm_of(self.outputs, False, self.form, "bn")
        return norm(conv(x), train=train)


def norm_of(parts: tuple[int, ...], scale: bool, form: Form, name: str) -> AlignedNorm:
    """A batch norm as the generator has it, with Keras's epsilon."""
    multiple, decay, dtype = form
    return AlignedNorm(parts, scale, decay, 1e-3, multiple, dtype, name=name)


class MultiResBlock(nn.Module):
    """Three 3 x 3 convolutions in a row, concatenated, beside a 1 x 1 shortcut."""

    inputs: tuple[int, ...]
    width: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] -> [B, H, W, block_widths(width)]."""
        parts = block_widths(self.width)

        def conv(
            name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], size: int
        ) -> ConvNorm:
            return ConvNorm(inputs, outputs, size, self.form, name=name)

        def norm(name: str) -> AlignedNorm:
            return norm_of(parts, True, self.form, name)

        short = conv("shortcut", self.inputs, parts, 1)(x, train=train)
        row, inputs = [x], self.inputs
        for name, part in zip("abc", parts, strict=True):
            layer = conv(f"conv_{name}", inputs, (part,), 3)
            row.append(nn.relu(layer(row[-1], train=train)))
            inputs = (part,)
        x = norm("bn_cat")(jnp.concatenate(row[1:], axis=-1), train=train)
        return norm("bn_out")(nn.relu(x + short), train=train)


class ResPath(nn.Module):
    """What a level's features pass on their way to the decoder: residual steps."""

    inputs: tuple[int, ...]
    width: int
    steps: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] -> [B, H, W, width]."""
        inputs = self.inputs
        for i in range(self.steps):
            step = ResStep(inputs, self.width, self.form, name=f"step{i}")
            x = step(x, train=train)
            inputs = (self.width,)
        return x


class ResStep(nn.Module):
    """One step of a ResPath: a 3 x 3 convolution beside a 1 x 1 shortcut."""

    inputs: tuple[int, ...]
    width: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] -> [B, H, W, width]."""
        parts, form = (self.width,), self.form
        short = ConvNorm(self.inputs, parts, 1, form, name="shortcut")(x, train=train)
        layer = ConvNorm(self.inputs, parts, 3, form, name="conv")
        x = nn.relu(layer(x, train=train)) + short
        return norm_of(parts, True, form, "bn_out")(nn.relu(x), train=train)


class Head(nn.Module):
    """A 1 x 1 convolution with bias to one channel, and tanh.

    A product that keeps float32 sums: rounded to bfloat16 the image would be half a
    grey level off.
    """

    inputs: tuple[int, ...]
    multiple: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, inputs] -> [B, H, W, 1] float32 in [-1, 1]."""
        kernel = self.param("kernel", GLOROT, (1, 1, sum(self.inputs), 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        taps = spread(kernel, 2, self.inputs, self.multiple)[0, 0]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = jnp.tensordot(x, taps, 1, preferred_element_type=wide)
        return jnp.tanh(x + bias.reshape(1, 1, 1, 1))


class MultiResUNet(nn.Module):
    """A U-Net of MultiRes blocks with ResPaths for skip connections.

    Attributes:
      widths: of the levels' blocks, the finest first.
      form: of all its layers.
    """

    widths: tuple[int, ...]
    form: Form

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] float32 -> [B, H, W, 1] float32 in [-1, 1]."""
        form, rest = self.form, (self.form.multiple, self.form.dtype)
        depth = len(self.widths)
        parts: tuple[int, ...] = (image.shape[-1],)
        x = spread(image, 3, parts, form.multiple).astype(form.dtype)
        paths = []
        for level, width in enumerate(self.widths[:-1], 1):
            block = MultiResBlock(parts, width, form, name=f"enc{level}")
            x, parts = block(x, train=train), block_widths(width)
            path = ResPath(parts, width, depth - level, form, name=f"respath{level}")
            paths.append(path(x, train=train))
            x = pool(x)
        block = MultiResBlock(parts, self.widths[-1], form, name="bottleneck")
        x, parts = block(x, train=train), block_widths(self.widths[-1])
        for level in range(depth - 1, 0, -1):
            width = self.widths[level - 1]
            x = AlignedEnlarge(parts, width, GLOROT, *rest, name=f"up{level}")(x)
            x = jnp.concatenate([x, paths[level - 1]], axis=-1)
            block = MultiResBlock((width, width), width, form, name=f"dec{level}")
            x, parts = block(x, train=train), block_widths(width)
        # Deviation (MultiResUNet): no norm of the single output channel, which would
        # make an image's grey level depend on its batch; tanh for the range.
        return Head(parts, *rest, name="head")(x)


class Generator(nn.Module):
    """A cascade of MultiRes-UNets.

    Attributes:
      widths: of a network's levels, (32, 64, 128, 256, 512) as published; at least 4.
      cascade_depth: networks in a row, 2.
      share_weights: all of them are `unet_a`; False.
      channel_multiple: channels are padded with zeros to multiples of it inside the
        networks, 8 for accelerators, 1 for none. Variables keep their shapes, and no
        value changes.
      norm_decay: of the norms' running averages, 0.99 as Keras has it.
      dtype: of the convolutions; parameters, statistics and the images stay float32.
    """

    widths: tuple[int, ...]
    cascade_depth: int
    share_weights: bool
    channel_multiple: int
    norm_decay: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, damaged: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        """Paints a slice anew, without being told where it is damaged.

        Args:
          damaged: [B, H, W, 1] float32 in [-1, 1]; H and W multiples of 16 (of
            2^(levels - 1)).
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`; otherwise by these, each image alone.

        Returns:
          The image of every network, [B, H, W, 1] float32 in [-1, 1]; the last is
          the result, x_hat.

        Raises:
          ShapeMismatchError: not one channel.
          UnalignedSizeError: H or W does not fit.
          DTypeError: not float32.
          ValueError: a field is none of the choices.

        Source: ipA-MedGAN, section on the generator; Fig. 1.
        """
        where = "ipa_medgan.Generator"
        self._check_fields(where)
        shape = expect_shape(where, "damaged", damaged, "B H W 1")
        stride = 2 ** (len(self.widths) - 1)
        expect_multiple(where, shape, stride, stride)
        expect_dtype(where, "damaged", damaged, "float32")
        made = 1 if self.share_weights else self.cascade_depth
        form = Form(self.channel_multiple, self.norm_decay, self.dtype)
        networks = [
            MultiResUNet(self.widths, form, name=f"unet_{letter}")
            for letter in LETTERS[:made]
        ]
        images = [damaged]
        for i in range(self.cascade_depth):
            images.append(networks[i % made](images[-1], train=train))
        return tuple(images[1:])

    def _check_fields(self, where: str) -> None:
        if len(self.widths) < 2 or min(self.widths) < LEAST_WIDTH:
            raise ValueError(
                f"{where}: widths is {self.widths}; give two or more, each at least "
                f"{LEAST_WIDTH}."
            )
        if not 1 <= self.cascade_depth <= len(LETTERS):
            raise ValueError(
                f"{where}: cascade_depth is {self.cascade_depth}; it is 1 to "
                f"{len(LETTERS)}."
            )
        if self.channel_multiple < 1:
            raise ValueError(
                f"{where}: channel_multiple is {self.channel_multiple}; give 1 for no "
                "padding, or 8."
            )


def judge(
    where: str,
    widths: tuple[int, ...],
    dtype: jnp.dtype,
    image: jax.Array,
    damaged: jax.Array,
    train: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Both discriminators: checks, then the layers of the module that calls it."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"{where}: widths is {widths}; give two or more, positive.")
    shape = expect_shape(where, "image", image, "B H W 1")
    expect_shape(where, "damaged", damaged, " ".join(map(str, shape)))
    # The two layers at stride 1 take a row each, so three must be left.
    least = room(3 * 2 ** (len(widths) - 1), SLICE_STRIDE)
    expect_multiple(where, shape, SLICE_STRIDE, least)
    for name, array in (("image", image), ("damaged", damaged)):
        expect_dtype(where, name, array, "float32")
    pair = jnp.concatenate([image, damaged], axis=-1)
    return patch_gan(pair, widths, dtype, train=train)


class PatchDiscriminator(nn.Module):
    """D_p: judges an image beside the damaged one, 70 x 70 pixels to a logit.

    Attributes:
      widths: of the layers before the last, (64, 128, 256, 512).
      dtype: of the convolutions; parameters, features and logits stay float32.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, image: jax.Array, damaged: jax.Array, *, train: bool
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Judges images patch by patch.

        Args:
          image: [B, H, W, 1] float32 in [-1, 1], real or painted; H and W multiples
            of 16, at least 32.
          damaged: like `image`, what the generator saw.
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`.

        Returns:
          Logits [B, H/8 - 2, W/8 - 2, 1]; the layers' features after LeakyReLU,
          [B, H/2, W/2, 64], [B, H/4, W/4, 128], [B, H/8, W/8, 256] and
          [B, H/8 - 1, W/8 - 1, 512], all float32.

        Raises:
          ShapeMismatchError: shapes disagree, or not one channel.
          UnalignedSizeError: H or W does not fit.
          DTypeError: an array is not float32.

        Source: ipA-MedGAN, section on the discriminators, Eq. 1; spec 2.5.
        """
        where = "ipa_medgan.PatchDiscriminator"
        return judge(where, self.widths, self.dtype, image, damaged, train)


class GlobalDiscriminator(nn.Module):
    """D_g: as `PatchDiscriminator`, with two layers more, 286 pixels to a logit.

    Attributes:
      widths: of the layers before the last, (64, 128, 256, 512, 512, 512).
      dtype: of the convolutions; parameters, features and logits stay float32.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, image: jax.Array, damaged: jax.Array, *, train: bool
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Judges whole slices.

        Args:
          image: [B, H, W, 1] float32 in [-1, 1], real or painted; H and W multiples
            of 16, at least 96.
          damaged: like `image`, what the generator saw.
          train: as of `PatchDiscriminator`.

        Returns:
          Logits, [B, 6, 6, 1] of 256 x 256; the features of the six layers.

        Raises:
          As of `PatchDiscriminator`.

        Source: ipA-MedGAN, section on the discriminators, Eq. 1; spec 2.5.
        """
        where = "ipa_medgan.GlobalDiscriminator"
        return judge(where, self.widths, self.dtype, image, damaged, train)
