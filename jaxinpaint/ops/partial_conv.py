"""Convolution that sees valid pixels alone, and says which of its results are valid."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_shape
from jaxinpaint.ops.upsample import upsample_conv

# Folding a kernel for its four phases moves more weights than it saves arithmetic on
# coarse maps of fewer cells (measured at batch 1 with 512 channels).
FOLDED_CELLS = 256


def partial_conv(
    features: Sequence[jax.Array],
    valids: Sequence[jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    stride: int,
) -> tuple[jax.Array, jax.Array]:
    """Convolves the valid part of feature maps, renormalised by how much is valid.

        y = conv(concat_s(x_s * valid_s)) * window / count           without bias
        y = (conv(concat_s(x_s * valid_s)) * window / count + bias) * new_valid

    with `window` the taps of the full kernel, padding counted in, and `count` those
    that lie on valid cells. What is not valid is never read, NaN included. The masks
    carry no gradient.

    Args:
      features: of each source, [B, H, W, C_s] float, in the order of the kernel.
      valids: of each source, [B, H, W, 1] float32, exactly 0 or 1, 1 = valid.
      kernel: [k, k, sum of C_s, F], k odd, dtype of the features.
      bias: [F] float32, or None where a norm follows.
      stride: of the rows and columns; zeros pad (k - 1) / 2 on every side.

    Returns:
      y, [B, H', W', F] in the dtype of the features, exactly 0 where no tap is valid;
      its new_valid, [B, H', W', 1] float32, H' = ceil(H / stride).

    Raises:
      ShapeMismatchError: shapes disagree.
      DTypeError: a mask is not float32.
      ValueError: an even kernel, or not one mask for each source.

    Source: RNON, section on partial convolution; Image Inpainting for Irregular Holes
      Using Partial Convolutions, Eq. 1 and 2, with one mask for all channels of a
      source, which counts the same as a mask for each.
    """
    channels = _check("partial_conv", features, valids, kernel)
    x = jnp.concatenate(_visible(features, valids), axis=-1)
    raw = _convolve(x, kernel, stride)
    ratio, valid = window_ratio(valids, channels, kernel.shape[0], stride=stride)
    return _renormalise(raw, ratio, valid, bias), valid


def partial_upsample_conv(
    features: Sequence[jax.Array],
    valids: Sequence[jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Enlarges a coarse source twice by nearest neighbour and convolves it with others.

    Equal to `partial_conv` at stride 1 of the first source and its mask enlarged, and
    the others as they are. From 16 x 16 cells on the enlarged map is never made, and
    its taps cost 4/9 (`upsample_conv`).

    Args:
      features: the coarse source [B, H, W, C_1], then others [B, 2 H, 2 W, C_s].
      valids: of each source, with one channel, float32, exactly 0 or 1, 1 = valid.
      kernel: [3, 3, sum of C_s, F], dtype of the features.
      bias: [F] float32, or None where a norm follows.

    Returns:
      y, [B, 2 H, 2 W, F], and its mask, as `partial_conv`.

    Raises:
      ShapeMismatchError: shapes disagree.
      DTypeError: a mask is not float32.
      ValueError: not one mask for each source.

    Source: RNON, decoder of the repair network.
    """
    where = "partial_upsample_conv"
    coarse, *others = features
    if not valids:
        raise ValueError(f"{where}: {len(features)} sources need as many masks, got 0.")
    fine = (twice(valids[0]), *valids[1:])
    b, h, w, c = expect_shape(where, "features[0]", coarse, "B H W C")
    expect_shape(where, "valids[0]", valids[0], f"{b} {h} {w} 1")
    expect_shape(where, "kernel", kernel, "3 3 C F")

    def plain() -> tuple[jax.Array, jax.Array]:
        return partial_conv((twice(coarse), *others), fine, kernel, bias, stride=1)

    def folded() -> tuple[jax.Array, jax.Array]:
        shape = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, c), coarse.dtype)
        channels = _check(where, (shape, *others), fine, kernel)
        visible = _visible(features, valids)
        raw = upsample_conv(visible[0], kernel[:, :, :c])
        if others:
            raw = raw + _convolve(jnp.concatenate(visible[1:], -1), kernel[:, :, c:], 1)
        ratio, valid = window_ratio(fine, channels, 3, stride=1)
        return _renormalise(raw, ratio, valid, bias), valid

    if not isinstance(h * w, int):
        # Symbols, of a program that is exported: chosen when it is compiled for a size,
        # by then a constant, so that it rounds as this function does at that size.
        return jax.lax.cond(jnp.asarray(h * w) < FOLDED_CELLS, plain, folded)
    return plain() if h * w < FOLDED_CELLS else folded()


def window_ratio(
    valids: Sequence[jax.Array], channels: Sequence[int], size: int, *, stride: int
) -> tuple[jax.Array, jax.Array]:
    """What a partial convolution makes of masks alone: its factor and the new mask.

    Args:
      valids: of each source, [B, H, W, 1] float32, exactly 0 or 1, 1 = valid.
      channels: of each source, how many features share that mask.
      size: side of the kernel, odd.
      stride: of the convolution.

    Returns:
      ratio, size^2 * sum(channels) over the number of valid taps, 0 where there is
      none; new mask, 1 where there is any. Both [B, H', W', 1] float32, no gradient.
    """
    # One box sum of one channel serves all sources; integers this small are exact.
    weighted = sum(
        valid * jnp.float32(c) for valid, c in zip(valids, channels, strict=True)
    )
    pad = (size - 1) // 2
    count = jax.lax.reduce_window(
        jax.lax.stop_gradient(weighted),
        np.float32(0),  # known while tracing, or it is no sum to jax
        jax.lax.add,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )
    valid = (count > 0).astype(jnp.float32)
    window = jnp.float32(size * size * sum(channels))
    return valid * window / jnp.maximum(count, 1), valid


def twice(x: jax.Array) -> jax.Array:
    """Nearest neighbour, [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _visible(
    features: Sequence[jax.Array], valids: Sequence[jax.Array]
) -> list[jax.Array]:
    # Selecting, not multiplying, stops a NaN and makes every zero a positive one.
    return [jnp.where(v > 0, x, 0) for x, v in zip(features, valids, strict=True)]


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _renormalise(
    raw: jax.Array, ratio: jax.Array, valid: jax.Array, bias: jax.Array | None
) -> jax.Array:
    y = raw.astype(jnp.float32) * ratio
    if bias is not None:
        y = jnp.where(valid > 0, y + bias.reshape(1, 1, 1, -1), 0)
    return y.astype(raw.dtype)


def _check(
    where: str,
    features: Sequence[jax.Array | jax.ShapeDtypeStruct],
    valids: Sequence[jax.Array],
    kernel: jax.Array,
) -> list[int]:
    """Checks that everything fits; the channels of every source."""
    if len(features) != len(valids) or not features:
        raise ValueError(
            f"{where}: {len(features)} sources need as many masks, got {len(valids)}."
        )
    b, h, w, _ = expect_shape(where, "features[0]", features[0], "B H W C")
    channels = []
    for i, (x, valid) in enumerate(zip(features, valids, strict=True)):
        *_, c = expect_shape(where, f"features[{i}]", x, f"{b} {h} {w} C")
        expect_shape(where, f"valids[{i}]", valid, f"{b} {h} {w} 1")
        expect_dtype(where, f"valids[{i}]", valid, "float32")
        channels.append(c)
    size = kernel.shape[0] if kernel.ndim else 0
    expect_shape(where, "kernel", kernel, f"{size} {size} {sum(channels)} F")
    if size % 2 == 0:
        raise ValueError(
            f"{where}: the kernel is {size} x {size}; it needs a centre, so an odd side."
        )
    return channels
