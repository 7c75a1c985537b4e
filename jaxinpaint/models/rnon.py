"""RNON's networks: irregular holes in photographs, repaired, then optimised.

`RepairGenerator` fills the hole by partial convolutions, `OptimizationGenerator`
corrects what it made; each has a `Discriminator`. Images are in [0, 1] here, because
the generators end in a sigmoid, and masks are the paper's: `valid = 1 - mask`. Zeros
pad both sides alike; "SAME" would be another network at stride 2.

Source: RNON: image inpainting via repair network and optimization network.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import (
    ShapeMismatchError,
    expect_choice,
    expect_dtype,
    expect_multiple,
    expect_shape,
)
from jaxinpaint.layers.partial_conv import HE, PartialConv, PartialUpsampleConv

MAX_DEPTH = 8
LEAST_DEPTH = 4
UPSAMPLINGS = ("nearest",)
FC_INPUTS = ("flatten", "gap")
NORMS = ("none", "batch")
FUSION_KERNELS = (3, 1)

# Assumption: a tenth of He's initialisation at the end of every residual path. With
# the whole of it 16 blocks multiply the features' standard deviation by thousands.
TENTH_HE = nn.initializers.variance_scaling(0.02, "fan_in", "normal")


def conv(
    name: str,
    features: int,
    dtype: jnp.dtype,
    *,
    size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
    init: nn.initializers.Initializer = HE,
) -> nn.Conv:
    """A convolution as here: zeros as far as the kernel reaches, on every side."""
    pad = dilation * (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=dilation,
        use_bias=bias,
        kernel_init=init,
        dtype=dtype,
        name=name,
    )


def batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """Batch norm as all networks here have it; its statistics are float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


class Encoding(nn.Module):
    """A layer of the repair network's encoder: half the size, ReLU."""

    width: int
    kernel: int
    norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, C] and its mask -> [B, H/2, W/2, width] and its mask."""
        # Deviation: the paper prints step size 1, which leaves eight decoder layers
        # nothing to enlarge; PConv, its source, has 2 in every encoder layer.
        layer = PartialConv(
            self.width, self.kernel, 2, not self.norm, self.dtype, name="pconv"
        )
        y, valid = layer((x,), (valid,))
        if self.norm:
            y = batch_norm("bn", self.dtype, train)(y)
        return nn.relu(y), valid


class Decoding(nn.Module):
    """A layer of the repair network's decoder: twice the size; the last is linear."""

    width: int
    last: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        features: tuple[jax.Array, jax.Array],
        valids: tuple[jax.Array, jax.Array],
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, C], [B, 2H, 2W, D] and masks -> [B, 2H, 2W, width] and its mask."""
        layer = PartialUpsampleConv(self.width, self.last, self.dtype, name="pconv")
        y, valid = layer(features, valids)
        if not self.last:
            y = nn.leaky_relu(batch_norm("bn", self.dtype, train)(y), 0.2)
        return y, valid


class RepairGenerator(nn.Module):
    """G_inp: a U-Net of partial convolutions.

    Attributes:
      widths: channels of the encoder layers, (64, 128, 256, 512, 512, 512, 512, 512)
        in the paper; as many as the network is deep, 4 to 8. The decoder mirrors them.
      kernels: sides of the encoder's kernels, (7, 5, 5, 3, 3, 3, 3, 3).
      upsample: "nearest"; masks are always enlarged so.
      dtype: of the convolutions; parameters, statistics, masks and the image that is
        returned are float32.
    """

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    upsample: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, valid: jax.Array, *, train: bool) -> jax.Array:
        """Paints an image anew from its valid pixels.

        Args:
          image: [B, H, W, 3] float32 in [0, 1]; what lies in the hole is never read,
            NaN included. H and W multiples of 2^depth.
          valid: [B, H, W, 1] float32, exactly 0 or 1, 1 = valid; not all 0.
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`; otherwise by these, each image alone.

        Returns:
          I_inp, [B, H, W, 3] float32 in (0, 1). A network of fewer than eight layers
          leaves what its masks do not close at one constant colour.

        Raises:
          ShapeMismatchError: shapes disagree.
          UnalignedSizeError: H or W is no multiple of 2^depth.
          DTypeError: an array is not float32.
          ValueError: a field does not fit.

        Source: RNON, repair module.
        """
        where = "rnon.RepairGenerator"
        depth = self._depth(where)
        shape = expect_shape(where, "image", image, "B H W 3")
        b, h, w, _ = shape
        expect_shape(where, "valid", valid, f"{b} {h} {w} 1")
        expect_multiple(where, shape, 2**depth, 2**depth)
        for name, array in (("image", image), ("valid", valid)):
            expect_dtype(where, name, array, "float32")

        x, skips = image, [(image, valid)]
        for i, (width, size) in enumerate(
            zip(self.widths, self.kernels, strict=True), start=1
        ):
            layer = Encoding(width, size, i > 1, self.dtype, name=f"enc{i}")
            x, valid = layer(x, valid, train=train)
            skips.append((x, valid))
        # A shallower network lacks the inner layers: dec8 is always the last one.
        for level in range(depth - 1, -1, -1):
            skip, skip_valid = skips[level]
            decoding = Decoding(
                self.widths[level - 1] if level else 3,
                level == 0,
                self.dtype,
                name=f"dec{MAX_DEPTH - level}",
            )
            x, valid = decoding((x, skip), (valid, skip_valid), train=train)
        head = conv("head", 3, jnp.dtype("float32"), size=1)
        return nn.sigmoid(head(x))

    def _depth(self, where: str) -> int:
        depth = len(self.widths)
        if not LEAST_DEPTH <= depth <= MAX_DEPTH:
            raise ValueError(
                f"{where}: {depth} widths are given; depth must be in "
                f"{LEAST_DEPTH}..{MAX_DEPTH}."
            )
        if len(self.kernels) != depth:
            raise ValueError(
                f"{where}: {depth} widths and {len(self.kernels)} kernels are given; "
                "give one of each for every encoder layer."
            )
        expect_choice(f"{where}: upsample", self.upsample, UPSAMPLINGS)
        return depth


class DiscriminatorBlock(nn.Module):
    """A 3 x 3 convolution, batch norm but in the first block, LeakyReLU."""

    width: int
    stride: int
    norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, width]."""
        bias = not self.norm
        x = conv("conv", self.width, self.dtype, stride=self.stride, bias=bias)(x)
        if self.norm:
            x = batch_norm("bn", self.dtype, train)(x)
        return nn.leaky_relu(x, 0.2)


class Discriminator(nn.Module):
    """D_inp and D_opt: SRGAN's discriminator, which judges a whole image.

    Attributes:
      widths: channels of the blocks, whose strides alternate 1 and 2; (64, 64, 128,
        128, 256, 256, 512, 512) for D_inp, (512, 512) more for D_opt.
      hidden: width of the first dense layer, 1024.
      fc_input: "flatten", which ties the parameters to one image size, or "gap", the
        mean over all cells.
      dtype: of the blocks and the first dense layer; parameters, statistics and
        logits are float32.
    """

    widths: tuple[int, ...]
    hidden: int
    fc_input: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Judges images.

        Args:
          image: [B, H, W, 3] float32 in [0, 1]; with "flatten" a square of the size
            that the network was made for.
          train: as in `RepairGenerator`.

        Returns:
          Logits [B, 1] float32.

        Raises:
          ShapeMismatchError: not three channels, or with "flatten" another size.
          DTypeError: the image is not float32.
          ValueError: `fc_input` is none of the choices; "flatten" of a size that the
            strides do not divide.

        Source: RNON, Fig. 2b, and SRGAN's LeakyReLU between the dense layers.
        """
        where = "rnon.Discriminator"
        expect_choice(f"{where}: fc_input", self.fc_input, FC_INPUTS)
        shape = expect_shape(where, "image", image, "B H W 3")
        expect_dtype(where, "image", image, "float32")
        flat = self.fc_input == "flatten"
        if flat:
            self._expect_size(where, shape)

        x = image
        for i, width in enumerate(self.widths, start=1):
            stride = 2 - i % 2
            block = DiscriminatorBlock(width, stride, i > 1, self.dtype, name=f"b{i}")
            x = block(x, train=train)
        x = x.reshape(x.shape[0], -1) if flat else jnp.float32(x).mean(axis=(1, 2))
        dense = functools.partial(nn.Dense, kernel_init=HE)
        x = nn.leaky_relu(dense(self.hidden, dtype=self.dtype, name="fc1")(x), 0.2)
        return dense(1, dtype=jnp.dtype("float32"), name="fc2")(x)

    def _expect_size(self, where: str, shape: tuple[int, ...]) -> None:
        """With "flatten": a square, and the one that the parameters are made for."""
        stride = 2 ** (len(self.widths) // 2)
        height, width = shape[1:3]
        if height != width or height % stride:
            raise ValueError(
                f'{where}: fc_input "flatten" needs squares whose side is a multiple '
                f'of {stride}, got {height}x{width}; use fc_input="gap" for other sizes.'
            )
        if self.is_initializing():
            return
        kernel = self.get_variable("params", "fc1")["kernel"]
        made = stride * round((kernel.shape[0] / self.widths[-1]) ** 0.5)
        if made != height:
            raise ShapeMismatchError(
                f"{where}: this discriminator was built for {made}x{made}, got "
                f'{height}x{width}; use fc_input="gap" for other sizes.'
            )


class Block(nn.Module):
    """One residual block of the optimization network: four fields of view, fused."""

    rates: tuple[int, ...]
    fusion_kernel: int
    norm: bool
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        layer = functools.partial(conv, dtype=self.dtype, bias=not self.norm)
        bn = functools.partial(batch_norm, dtype=self.dtype, train=self.train)
        width = x.shape[-1]
        parts = []
        for rate in self.rates:
            y = layer(f"d{rate}", width, dilation=rate)(x)
            parts.append(nn.relu(bn(f"d{rate}_bn")(y) if self.norm else y))
        # Assumption: 3 x 3 like the module's other layers, and no ReLU after it, so
        # that what the blocks add can have either sign.
        fuse = layer("fuse", width, size=self.fusion_kernel, init=TENTH_HE)
        y = fuse(jnp.concatenate(parts, axis=-1))
        return x + (bn("fuse_bn")(y) if self.norm else y)


class OptimizationGenerator(nn.Module):
    """G_opt: residual blocks of dilated convolutions at full size.

    Attributes:
      width: channels, 32 in the paper.
      blocks: how many, 16.
      rates: dilations side by side in a block, (1, 2, 4, 8).
      fusion_kernel: side of the convolution that joins them, 3 or 1.
      norm: "none", or "batch" after every convolution of the blocks and the trunk,
        in place of its bias, as in SRGAN.
      image_residual: correct the input, clipped to [0, 1], instead of painting anew.
      remat: recompute every block in the backward pass instead of keeping its maps;
        values are the same.
      dtype: of the convolutions; parameters, statistics and the image that is
        returned are float32.
    """

    width: int
    blocks: int
    rates: tuple[int, ...]
    fusion_kernel: int
    norm: str
    image_residual: bool
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Optimises a repaired image.

        Args:
          image: [B, H, W, 3] float32 in [0, 1], what the repair network made.
          train: as in `RepairGenerator`; nothing without a norm.

        Returns:
          I_opt, [B, H, W, 3] float32 in (0, 1), in [0, 1] with `image_residual`.

        Raises:
          ShapeMismatchError: not three channels.
          DTypeError: not float32.
          ValueError: a field is none of the choices.

        Source: RNON, optimization module; the ends, which the paper does not print,
          are those of SRGAN's generator without its enlargement.
        """
        where = "rnon.OptimizationGenerator"
        expect_choice(f"{where}: norm", self.norm, NORMS)
        expect_choice(f"{where}: fusion_kernel", self.fusion_kernel, FUSION_KERNELS)
        expect_shape(where, "image", image, "B H W 3")
        expect_dtype(where, "image", image, "float32")

        norm = self.norm == "batch"
        stem = nn.relu(conv("stem", self.width, self.dtype, size=9)(image))
        make = nn.remat(Block) if self.remat else Block
        x = stem
        for i in range(1, self.blocks + 1):
            fields = (self.rates, self.fusion_kernel, norm, train, self.dtype)
            x = make(*fields, name=f"block{i}")(x)
        trunk = conv("trunk", self.width, self.dtype, bias=not norm, init=TENTH_HE)
        x = trunk(x)
        if norm:
            x = batch_norm("trunk_bn", self.dtype, train)(x)
        x = conv("head", 3, self.dtype, size=9)(x + stem).astype(jnp.float32)
        # Assumption: a sigmoid, so that the range equals that of the input.
        return jnp.clip(image + x, 0, 1) if self.image_residual else nn.sigmoid(x)
