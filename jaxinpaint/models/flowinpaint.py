"""FlowInpaint's networks: a damaged section between two whole ones.

`Generator` restores the hole guided by the neighbours and the reference image between
them (Eq. 6 to 12), `Discriminator` tells restored from whole (Eq. 20 and 21). Level l
has 2^(l - 1) pixels to a cell.

Source: Serial section microscopy image inpainting guided by axial optical flow. The
numbers (R20, R21, ...) are the project's record of choices where the paper is silent.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.ops.attention import AttentionOptions, context_perceive
from jaxinpaint.ops.keys import valid_keys

LEVELS = 6
STRIDE = 2 ** (LEVELS - 1)
DISCRIMINATOR_STRIDE = 8
STEM_NORMS = ("batch", "none")

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # R23
NARROW = nn.initializers.normal(0.02)  # of the discriminators


def conv(
    name: str,
    features: int,
    dtype: jnp.dtype,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Conv:
    """A 3 x 3 convolution as here: cell i is centred on pixel stride * i.

    "SAME" would pad (0, 1) at stride 2, and be another network.
    """
    return nn.Conv(
        features,
        (3, 3),
        strides=stride,
        padding=((dilation, dilation), (dilation, dilation)),
        kernel_dilation=dilation,
        use_bias=bias,
        kernel_init=UNIFORM,
        dtype=dtype,
        name=name,
    )


def enlarge(x: jax.Array) -> jax.Array:
    """`Up`: bilinear x2 with half-pixel centres, [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


def block_max(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / size, W / size, C], the largest of each block."""
    b, h, w, c = x.shape
    return x.reshape(b, h // size, size, w // size, size, c).max(axis=(2, 4))


class Aggregation(nn.Module):
    """FAL: one feature map at several dilations, fused (Eq. 7; R24, R25)."""

    rates: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, c] -> [B, h, w, c]; c a multiple of the number of rates."""
        c = x.shape[-1]
        if c % len(self.rates):
            raise ValueError(
                f"flowinpaint.Generator: {c} channels do not divide among the "
                f"{len(self.rates)} rates of fal_rates {self.rates}; change channels."
            )
        parts = []
        for rate in self.rates:
            width = c // len(self.rates)
            layer = conv(f"rate{rate}", width, self.dtype, dilation=rate)
            parts.append(nn.relu(layer(x)))
        return conv("fuse", c, self.dtype)(jnp.concatenate(parts, axis=-1))


class Generator(nn.Module):
    """The guided inpainting module.

    Attributes:
      channels: of the six levels, (32, 64, 128, 256, 512, 512) as published.
      fal_levels: of 2 to 6, where the guiding branch aggregates; (2, 3, 4, 5).
      fal_rates: dilations that it aggregates, (1, 2, 4, 8).
      attention_levels: of 2 to 6, whose decoder features attend; (6, 5, 4, 3), R26.
      attention: options of the attention; `use_neighbor` and `mask_foreground` off.
      stem_norm: "batch" or "none", of the first layer of both branches (R20).
      remat: recompute attention in the backward pass instead of keeping its scores,
        of which three arrays a level would stay; values are the same.
      dtype: of the convolutions; parameters, statistics, softmax and the raw image
        stay float32.
    """

    channels: tuple[int, ...]
    fal_levels: tuple[int, ...]
    fal_rates: tuple[int, ...]
    attention_levels: tuple[int, ...]
    attention: AttentionOptions
    stem_norm: str
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, masked: jax.Array, mask: jax.Array, guides: jax.Array, *, train: bool
    ) -> jax.Array:
        """Restores a section.

        Args:
          masked: [B, H, W, 1] float32 in [-1, 1], the damaged section with its hole
            filled by the caller, with 1. H and W multiples of 32.
          mask: [B, H, W, 1], exactly 0 or 1, 1 = hole.
          guides: [B, H, W, G] float32 in [-1, 1], the neighbours and the reference.
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`; otherwise by these, each image alone.

        Returns:
          raw, [B, H, W, 1] float32 in (-1, 1), the whole section painted anew.

        Raises:
          ShapeMismatchError: shapes disagree.
          UnalignedSizeError: H or W is no multiple of 32.
          DTypeError: an array is not float32.
          ValueError: a field is none of the choices.

        Source: FlowInpaint Eq. 7 to 12; R20 to R30.
        """
        where = "flowinpaint.Generator"
        self._check_fields(where)
        shape = expect_shape(where, "masked", masked, "B H W 1")
        b, h, w, _ = shape
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        expect_shape(where, "guides", guides, f"{b} {h} {w} G")
        expect_multiple(where, shape, STRIDE, STRIDE)
        for name, array in (("masked", masked), ("mask", mask), ("guides", guides)):
            expect_dtype(where, name, array, "float32")

        attention = lambda x, mask: attend(x, mask, self.attention)
        if self.remat:
            attention = jax.checkpoint(attention)
        guiding = self._encode("guide", guides, self.fal_levels, train)
        damaged = self._encode(
            "damaged", jnp.concatenate([masked, mask], axis=-1), (), train
        )
        parts: list[jax.Array] = []  # the decoder's features, none above level 6
        for level in range(LEVELS, 1, -1):
            x = jnp.concatenate([guiding[level - 1], damaged[level - 1], *parts], -1)
            layer = conv(
                f"fuse{level}",
                self.channels[level - 2],
                self.dtype,
                bias=False,
            )
            x = enlarge(nn.relu(layer(x)))
            parts = [attention(x, mask) if level in self.attention_levels else x]
        x = jnp.concatenate([guiding[0], damaged[0], *parts], axis=-1)
        x = nn.relu(conv("out0", self.channels[0] * 3 // 2, self.dtype)(x))
        x = conv("out1", 1, self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))

    def _encode(
        self, name: str, x: jax.Array, fal_levels: tuple[int, ...], train: bool
    ) -> list[jax.Array]:
        """Features of levels 1 to 6, [B, H/2^(l-1), W/2^(l-1), channels[l-1]]."""
        normalised = self.stem_norm == "batch"
        x = conv(f"{name}_stem", self.channels[0], self.dtype, bias=not normalised)(x)
        if normalised:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
                name=f"{name}_norm",
            )(x)
        features = [nn.leaky_relu(x, 0.2)]
        for level in range(2, LEVELS + 1):
            layer = conv(
                f"{name}_down{level}",
                self.channels[level - 1],
                self.dtype,
                stride=2,
                bias=False,
            )
            x = nn.leaky_relu(layer(features[-1]), 0.2)
            if level in fal_levels:
                x = Aggregation(self.fal_rates, self.dtype, name=f"fal{level}")(x)
            features.append(x)
        return features

    def _check_fields(self, where: str) -> None:
        if len(self.channels) != LEVELS or min(self.channels) < 1:
            raise ValueError(
                f"{where}: channels is {self.channels}; give {LEVELS} positive numbers."
            )
        for name in ("fal_levels", "attention_levels"):
            levels = getattr(self, name)
            if not set(levels) <= set(range(2, LEVELS + 1)):
                raise ValueError(
                    f"{where}: {name} is {levels}; levels are 2 to {LEVELS}."
                )
        if self.stem_norm not in STEM_NORMS:
            raise ValueError(
                f"{where}: stem_norm is '{self.stem_norm}'; it is one of "
                f"{list(STEM_NORMS)}."
            )


def attend(
    features: jax.Array, mask: jax.Array, options: AttentionOptions
) -> jax.Array:
    """Fills the hole of a feature map with patches of its valid part.

    An image without a valid patch keeps its features.

    Args:
      features: [B, h, w, C] float, h and w even.
      mask: [B, H, W, 1], 1 = hole, H and W the same multiple of h and w.
      options: with `use_neighbor` off.

    Returns:
      [B, h, w, C] in the dtype of `features`.

    Source: FlowInpaint Eq. 8 to 11; R27 to R30.
    """
    hole = block_max(mask, mask.shape[1] // features.shape[1])
    filled = context_perceive(features, None, hole, None, options)
    some = valid_keys(hole).any(axis=(1, 2, 3), keepdims=True)
    return jnp.where(some, filled, features)


class SpectralConv(nn.Module):
    """A 5 x 5 convolution by a kernel over its largest singular value, without bias.

    One step of power iteration, as `flax.linen.SpectralNorm` has it; but that one
    divides the fresh parameters too, so that they would not begin as N(0, 0.02^2).
    """

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        kernel = self.param("kernel", NARROW, (5, 5, x.shape[-1], self.features))
        random = lambda: jax.random.normal(self.make_rng("params"), (self.features,))
        u_state = self.variable("batch_stats", "u", random)
        sigma_state = self.variable("batch_stats", "sigma", lambda: jnp.ones(()))

        matrix = kernel.reshape(-1, self.features)
        product = functools.partial(jnp.matmul, precision="highest")
        # Both directions are constants; the gradient is that of v W u alone.
        fixed = jax.lax.stop_gradient(matrix)
        v = unit(product(fixed, u_state.value))
        u = unit(product(v, fixed))
        sigma = product(product(v, matrix), u)
        if train and not self.is_initializing():
            u_state.value, sigma_state.value = u, sigma
        x, kernel = x.astype(self.dtype), (kernel / sigma).astype(self.dtype)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            ((2, 2), (2, 2)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def unit(vector: jax.Array) -> jax.Array:
    """A vector [n] at length 1."""
    return vector * jax.lax.rsqrt(jnp.sum(vector**2) + 1e-12)


class Discriminator(nn.Module):
    """PatchGAN with spectral norm, for the whole image or the local crop (R31, R32).

    Attributes:
      width: channels of the first layer, 64.
      dtype: of the convolutions; parameters, the norm and the logits stay float32.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Judges images patch by patch.

        Args:
          image: [B, H, W, 1] float32 in [-1, 1]; H and W multiples of 8.
          train: keep this pass's step of the power iteration, which needs
            `mutable=["batch_stats"]`; for the discriminator's own pass alone.

        Returns:
          Logits [B, H/8, W/8, 1] float32.

        Raises:
          ShapeMismatchError: not one channel.
          UnalignedSizeError: H or W is no multiple of 8.

        Source: FlowInpaint Eq. 20 and 21; section 4.5.
        """
        where = "flowinpaint.Discriminator"
        shape = expect_shape(where, "image", image, "B H W 1")
        expect_multiple(where, shape, DISCRIMINATOR_STRIDE, DISCRIMINATOR_STRIDE)
        x = image
        for i in range(4):
            stride = 2 if i < 3 else 1
            layer = SpectralConv(self.width * 2**i, stride, self.dtype, name=f"conv{i}")
            x = nn.leaky_relu(layer(x, train=train), 0.2)
        head = nn.Conv(
            1,
            (5, 5),
            padding=((2, 2), (2, 2)),
            kernel_init=NARROW,
            dtype=jnp.dtype("float32"),
            name="head",
        )
        return head(x)
