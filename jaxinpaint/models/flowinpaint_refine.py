"""FlowInpaint's reference network: the interpolated section, bent to fit.

A pyramid of flows from coarse to fine, as PWC-Net's, from the damaged section to the
one interpolated between its neighbours (Eq. 4 to 6, figure 3B). Level k has 2^k pixels
to a cell.

Source: Serial section microscopy image inpainting guided by axial optical flow. The
numbers (R7, R8, ...) are the project's record of choices where the paper is silent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.ops.cost_volume import cost_volume
from jaxinpaint.ops.filters import block_mean
from jaxinpaint.ops.warp import warp

LEVELS = 6
STRIDE = 2**LEVELS
SINGLE = jnp.dtype("float32")
ZEROS = nn.initializers.zeros_init()  # R19, of biases and flow heads
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # R19


def conv(
    name: str,
    features: int,
    dtype: jnp.dtype,
    *,
    stride: int = 1,
    dilation: int = 1,
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
        kernel_init=HE,
        dtype=dtype,
        name=name,
    )


def enlarge(x: jax.Array) -> jax.Array:
    """`Up`: bilinear x2 with half-pixel centres, [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


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
                layer = conv(f"l{k}_conv{i}", width, self.dtype, stride=stride)
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
    On two CPU cores the gradient of a thin network takes 0.6 of the time for it.
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
                else Weights(inputs, 2, ZEROS, SINGLE, name="flow")
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
            layer = conv(f"conv{i}", width, self.dtype, dilation=rate)
            x = nn.leaky_relu(layer(x), 0.1)
        kernel, bias = Weights(x.shape[-1], 2, ZEROS, SINGLE, name="flow")()
        (correction,) = convolve(x, [kernel])
        return t + correction + bias


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
        for name, widths, n in (
            ("channels", self.channels, LEVELS),
            ("hidden", self.hidden, 5),
        ):
            if len(widths) != n or min(widths) < 1:
                raise ValueError(
                    f"{where}: {name} is {widths}; give {n} positive numbers."
                )
        shape = expect_shape(where, "image_masked", image_masked, "B H W 1")
        b, h, w, _ = shape
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        expect_shape(where, "intermediate", intermediate, f"{b} {h} {w} 1")
        expect_multiple(where, shape, STRIDE, STRIDE)
        for name, array in (
            ("image_masked", image_masked),
            ("mask", mask),
            ("intermediate", intermediate),
        ):
            expect_dtype(where, name, array, "float32")

        pyramid = Pyramid(self.channels, self.dtype, name="pyramid")
        damaged = pyramid(image_masked, mask)
        other = pyramid(intermediate, jnp.zeros_like(mask))  # R9: it has no hole
        u = jnp.zeros((b, h // STRIDE, w // STRIDE, 2))  # u_7
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
