"""FlowInpaint's networks: a damaged section between two whole ones.

`Refine` bends the interpolated section onto the damaged one with a pyramid of flows
(Eq. 4 to 6, figure 3B), `Generator` restores the hole guided by the neighbours and
that reference (Eq. 7 to 12), `Discriminator` tells restored from whole (Eq. 20, 21).

Source: Serial section microscopy image inpainting guided by axial optical flow. The
numbers (R7, R8, ...) are the project's record of choices where the paper is silent.
Level k of `Refine` has 2^k pixels to a cell, level l of `Generator` 2^(l - 1).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.ops.attention import AttentionOptions, context_perceive
from jaxinpaint.ops.cost_volume import cost_volume
from jaxinpaint.ops.filters import block_mean
from jaxinpaint.ops.keys import valid_keys
from jaxinpaint.ops.warp import warp

LEVELS = 6
REFINE_STRIDE = 2**LEVELS
GENERATOR_STRIDE = 2 ** (LEVELS - 1)
DISCRIMINATOR_STRIDE = 8
STEM_NORMS = ("batch", "none")

ZEROS = nn.initializers.zeros_init()
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # R19
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # R23
NARROW = nn.initializers.normal(0.02)  # of the discriminators


def conv(
    name: str,
    features: int,
    dtype: jnp.dtype,
    init: Any,
    *,
    size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Conv:
    """A convolution as every layer here has it: cell i is centred on pixel stride i.

    "SAME" would pad (0, 1) at stride 2, and be another network.
    """
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


def enlarge(x: jax.Array) -> jax.Array:
    """`Up`: bilinear x2 with half-pixel centres, [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


def block_max(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / size, W / size, C], the largest of each block."""
    b, h, w, c = x.shape
    return x.reshape(b, h // size, size, w // size, size, c).max(axis=(2, 4))


def check_widths(where: str, name: str, widths: tuple[int, ...], number: int) -> None:
    """Refuses a tuple of widths of another length."""
    if len(widths) != number or min(widths) < 1:
        raise ValueError(
            f"{where}: {name} is {widths}; give {number} positive numbers."
        )


class Pyramid(nn.Module):
    """The extractor of features, one set of weights for both images (R7, R10)."""

    channels: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
        """[B, H, W, 1] twice -> levels k = 1 to 6, [B, H/2^k, W/2^k, channels[k-1]]."""
        x, levels = jnp.concatenate([image, mask], axis=-1), []
        for k, width in enumerate(self.channels, start=1):
            for i in range(3):
                stride = 2 if i == 0 else 1
                layer = conv(f"l{k}_conv{i}", width, self.dtype, HE, stride=stride)
                x = nn.leaky_relu(layer(x), 0.1)
            levels.append(x)
        return tuple(levels)


class Weights(nn.Module):
    """Parameters of a 3 x 3 convolution that others apply, a piece at a time."""

    inputs: int
    features: int
    initializer: Any
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """The kernel [3, 3, inputs, features] and bias [1, 1, 1, features]."""
        kernel = self.param(
            "kernel", self.initializer, (3, 3, self.inputs, self.features)
        )
        bias = self.param("bias", ZEROS, (self.features,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)[None, None, None]


def convolve(x: jax.Array, kernels: Sequence[jax.Array]) -> list[jax.Array]:
    """Convolves with several kernels [3, 3, C, n], those of one dtype at once."""
    results: dict[int, jax.Array] = {}
    for dtype in {kernel.dtype: None for kernel in kernels}:
        which = [i for i, kernel in enumerate(kernels) if kernel.dtype == dtype]
        joined = jnp.concatenate([kernels[i] for i in which], axis=-1)
        y = jax.lax.conv_general_dilated(
            x.astype(dtype),
            joined,
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        ends = np.cumsum([kernels[i].shape[-1] for i in which])
        results |= zip(which, jnp.split(y, ends[:-1], axis=-1), strict=True)
    return [results[i] for i in range(len(kernels))]


class Estimator(nn.Module):
    """E_k: the flow of one level (R13 to R17).

    conv([a, b]) is conv_a(a) + conv_b(b): no layer of the dense form is stored beside
    another. When one is there, all kernels that will ever read it are applied at once,
    as one wide product; they are slices of the parameters of the concatenated form.
    """

    hidden: tuple[int, ...]
    dense: bool
    dtype: jnp.dtype

    def reads(self, inputs: int) -> list[int]:
        """Channels that each layer reads, the flow head last: the width of S_k."""
        if self.dense:
            return np.cumsum([inputs, *self.hidden]).tolist()
        return [inputs, *self.hidden]

    @nn.compact
    def __call__(
        self, x: jax.Array, further: Sequence[jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Estimates a flow in units of `flow_unit` full-resolution pixels.

        Args:
          x: [B, h, w, n], cost volume, features, flow of the level above, hole
            fraction.
          further: kernels [3, 3, m, d] of other layers that read S_k, which is all
            hidden layers, newest first, and x if dense; otherwise the last of them.

        Returns:
          The flow [B, h, w, 2], float32; what each kernel of `further` makes of S_k,
          [B, h, w, d].
        """
        last = len(self.hidden)
        kernels: list[jax.Array] = []
        sums: list[jax.Array] = []
        for i, inputs in enumerate(self.reads(x.shape[-1])):
            layer = (
                Weights(inputs, self.hidden[i], HE, self.dtype, name=f"conv{i + 1}")
                if i < last
                else Weights(inputs, 2, ZEROS, jnp.dtype("float32"), name="flow")
            )
            kernel, bias = layer()
            kernels.append(kernel)
            sums.append(bias)
        kernels += further
        sums += [jnp.zeros((1, 1, 1, k.shape[-1]), k.dtype) for k in further]

        seen = 0
        for i in range(last + 1):
            c = x.shape[-1]
            stop = len(kernels) if self.dense or i == last else i + 1
            # Newest first: this layer comes just before those seen already.
            ends = [k.shape[2] - (seen if self.dense else 0) for k in kernels[i:stop]]
            pieces = [
                k[:, :, end - c : end]
                for k, end in zip(kernels[i:stop], ends, strict=True)
            ]
            for j, part in enumerate(convolve(x, pieces), start=i):
                sums[j] = sums[j] + part
            seen += c
            if i < last:
                x = nn.leaky_relu(sums[i], 0.1)
        return sums[last], sums[last + 1 :]


class Context(nn.Module):
    """R: the finest flow, and what is seen of it from further away (R18)."""

    hidden: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, estimate: Estimator) -> jax.Array:
        """Corrects the estimate of level 1 from its features and the flow itself.

        Args:
          x: [B, h, w, n], what the estimator reads.
          estimate: E_1; its features meet R's first kernel inside of it.

        Returns:
          [B, h, w, 2] float32, E_1's flow and the correction.
        """
        inputs = estimate.reads(x.shape[-1])[-1] + 2
        first = Weights(inputs, self.hidden[0], HE, self.dtype, name="conv0")
        kernel, bias = first()
        t, (seen,) = estimate(x, [kernel[:, :, :-2]])
        (own,) = convolve(t, [kernel[:, :, -2:]])
        x = nn.leaky_relu(seen + own + bias, 0.1)
        widths = (*self.hidden[:1] * 2, *self.hidden[1:4])
        rates = (2, 4, 8, 16, 1)
        for i, (width, rate) in enumerate(zip(widths, rates, strict=True), start=1):
            layer = conv(f"conv{i}", width, self.dtype, HE, dilation=rate)
            x = nn.leaky_relu(layer(x), 0.1)
        return t + conv("flow", 2, jnp.dtype("float32"), ZEROS)(x)


class Refine(nn.Module):
    """The refined reference module: a flow from coarse to fine, and one warp.

    Attributes:
      channels: of the pyramid's six levels; (16, 32, 64, 96, 128, 196) as published.
      hidden: of the five layers of each estimator; (128, 96, 64, 32, 16) as
        published. The context network has hidden[0] three times, then hidden[1:4].
      dense: each layer of an estimator sees all before it, not the last alone (R15).
      max_displacement: of the cost volumes, 4 as published.
      flow_unit: full-resolution pixels to 1 of a scaled flow, 20 (R11).
      dtype: of the convolutions and cost volumes; parameters, flows and the
        reference stay float32.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    dense: bool
    max_displacement: int
    flow_unit: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, image_masked: jax.Array, mask: jax.Array, intermediate: jax.Array
    ) -> Mapping[str, Any]:
        """Bends the interpolated section onto the damaged one.

        With fresh parameters every flow is 0 and `reference` is `intermediate`, bit
        for bit (R19).

        Args:
          image_masked: [B, H, W, 1] float32 in [-1, 1], the damaged section with its
            hole filled by the caller, with 1. H and W multiples of 64.
          mask: [B, H, W, 1], exactly 0 or 1, 1 = hole.
          intermediate: [B, H, W, 1] float32 in [-1, 1], interpolated.

        Returns:
          `reference` [B, H, W, 1], float32 in [-1, 1]; `flow` [B, H, W, 2], (dx, dy)
          in pixels, backward; `flows`, the six scaled flows u_1 to u_6, finest first,
          [B, H/2^(k-1), W/2^(k-1), 2] in units of `flow_unit` full-resolution pixels
          at every level.

        Raises:
          ShapeMismatchError: shapes disagree.
          UnalignedSizeError: H or W is no multiple of 64.
          DTypeError: an array is not float32.
          ValueError: not six channels or five hidden widths.

        Source: FlowInpaint Eq. 4 to 6; R8 to R19.
        """
        where = "flowinpaint.Refine"
        check_widths(where, "channels", self.channels, LEVELS)
        check_widths(where, "hidden", self.hidden, 5)
        shape = expect_shape(where, "image_masked", image_masked, "B H W 1")
        b, h, w, _ = shape
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        expect_shape(where, "intermediate", intermediate, f"{b} {h} {w} 1")
        expect_multiple(where, shape, REFINE_STRIDE, REFINE_STRIDE)
        for name, array in (
            ("image_masked", image_masked),
            ("mask", mask),
            ("intermediate", intermediate),
        ):
            expect_dtype(where, name, array, "float32")

        pyramid = Pyramid(self.channels, self.dtype, name="pyramid")
        damaged = pyramid(image_masked, mask)
        other = pyramid(intermediate, jnp.zeros_like(mask))  # R9: it has no hole
        u = jnp.zeros((b, h // REFINE_STRIDE, w // REFINE_STRIDE, 2))  # u_7
        flows: list[jax.Array] = []
        for k in range(LEVELS, 0, -1):
            here, there = damaged[k - 1], other[k - 1]
            if k < LEVELS:
                # float32, so that the interpolation weights are.
                moved = warp(
                    there.astype(jnp.float32),
                    u * (self.flow_unit / 2**k),
                    border="zero",
                )
                there = moved.astype(self.dtype)
            costs = cost_volume(here, there, max_displacement=self.max_displacement)
            parts = [nn.leaky_relu(costs, 0.1), here, u, block_mean(mask, 2**k)]
            x = jnp.concatenate(parts, axis=-1)
            estimate = Estimator(
                self.hidden, self.dense, self.dtype, name=f"estimator{k}"
            )
            if k > 1:
                t, _ = estimate(x, [])
            else:
                t = Context(self.hidden, self.dtype, name="context")(x, estimate)
            u = enlarge(t)
            flows.insert(0, u)
        flow = self.flow_unit * u
        return {
            "reference": warp(intermediate, flow, border="edge"),
            "flow": flow,
            "flows": tuple(flows),
        }


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
            layer = conv(f"rate{rate}", width, self.dtype, UNIFORM, dilation=rate)
            parts.append(nn.relu(layer(x)))
        return conv("fuse", c, self.dtype, UNIFORM)(jnp.concatenate(parts, axis=-1))


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
        expect_multiple(where, shape, GENERATOR_STRIDE, GENERATOR_STRIDE)
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
                UNIFORM,
                bias=False,
            )
            x = enlarge(nn.relu(layer(x)))
            parts = [attention(x, mask) if level in self.attention_levels else x]
        x = jnp.concatenate([guiding[0], damaged[0], *parts], axis=-1)
        x = nn.relu(conv("out0", self.channels[0] * 3 // 2, self.dtype, UNIFORM)(x))
        x = conv("out1", 1, self.dtype, UNIFORM)(x)
        return jnp.tanh(x.astype(jnp.float32))

    def _encode(
        self, name: str, x: jax.Array, fal_levels: tuple[int, ...], train: bool
    ) -> list[jax.Array]:
        """Features of levels 1 to 6, [B, H/2^(l-1), W/2^(l-1), channels[l-1]]."""
        normalised = self.stem_norm == "batch"
        x = conv(
            f"{name}_stem", self.channels[0], self.dtype, UNIFORM, bias=not normalised
        )(x)
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
                UNIFORM,
                stride=2,
                bias=False,
            )
            x = nn.leaky_relu(layer(features[-1]), 0.2)
            if level in fal_levels:
                x = Aggregation(self.fal_rates, self.dtype, name=f"fal{level}")(x)
            features.append(x)
        return features

    def _check_fields(self, where: str) -> None:
        check_widths(where, "channels", self.channels, LEVELS)
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
        return conv("head", 1, jnp.dtype("float32"), NARROW, size=5)(x)
