"""Levels that a pretrained network was trained on, out of this library's [-1, 1]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import ShapeMismatchError, expect_dtype, expect_shape

FLOATS = ("float32", "bfloat16", "float16", "float64")


class Normalization(NamedTuple):
    """Mean and deviation taken from RGB levels in [0, 1].

    Attributes:
      mean: subtracted, one a channel in the order red, green, blue.
      std: then divided by, in the same order.
      bgr: whether the channels are handed on as blue, green, red.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False)
# Levels 0..255 minus (103.939, 116.779, 123.68) in the order blue, green, red.
CAFFE = Normalization(
    (123.68 / 255.0, 116.779 / 255.0, 103.939 / 255.0), (1 / 255.0,) * 3, bgr=True
)
SIGNED = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), bgr=False)


def normalize(image: jax.Array, normalization: Normalization) -> jax.Array:
    """Brings an image to the range of a pretrained network.

        v = (x + 1) / 2,   (v - mean) / std,   red and blue exchanged if `bgr`

    Values outside [-1, 1] are scaled like all others: clipping them would hide the
    error from a loss and stop its gradient.

    Args:
      image: [B, H, W, 1 or 3] float in [-1, 1]; one channel is read as grey and
        repeated three times.
      normalization: such as IMAGENET, CAFFE or SIGNED, which gives [-1, 1] back.

    Returns:
      [B, H, W, 3], the dtype of `image`.

    Raises:
      ShapeMismatchError: neither one nor three channels.
      DTypeError: integers.
    """
    channels = expect_shape("normalize", "image", image, "B H W C")[3]
    if channels not in (1, 3):
        raise ShapeMismatchError(
            f"normalize: image must have 1 or 3 channels, got {list(image.shape)}."
        )
    expect_dtype("normalize", "image", image, *FLOATS)
    # (v - mean) / std in one multiplication and one addition, their constants made
    # in Python's float64; [-1, 1] comes back to the last bit.
    scale = jnp.asarray([0.5 / s for s in normalization.std], image.dtype)
    shift = jnp.asarray(
        [(0.5 - m) / s for m, s in zip(*normalization[:2], strict=True)],
        image.dtype,
    )
    spread = jnp.broadcast_to(image, (*image.shape[:3], 3))
    levels = spread * scale.reshape(1, 1, 1, 3) + shift.reshape(1, 1, 1, 3)
    return levels[..., ::-1] if normalization.bgr else levels
