"""Learned perceptual distance of image patches (LPIPS, version 0.1).

A frozen trunk, AlexNet or VGG16, turns both images into five layers of features; the
distance is what their unit-length channels differ by, weighted by one learned number
a channel. It is differentiable, so `lpips` is a loss as well as a score.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import InpaintInputError, expect_shape
from jaxinpaint.features.alexnet import AlexNet
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG16
from jaxinpaint.metrics.evaluate import Metric, image_metric
from jaxinpaint.metrics.pixel import check_pair

EPSILON = 1e-10


def alexnet_trunk(dtype: jnp.dtype) -> AlexNet:
    """AlexNet with the five taps of LPIPS; the reference's choice for scores (R41)."""
    return AlexNet(("relu1", "relu2", "relu3", "relu4", "relu5"), IMAGENET, dtype)


def vgg16_trunk(dtype: jnp.dtype) -> VGG:
    """VGG16 with the five taps of LPIPS; the usual choice for losses."""
    taps = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    return VGG(VGG16, taps, IMAGENET, dtype)


class LinearWeights(nn.Module):
    """The learned weights alone; a module, so that they are loaded as a network is.

    Each is at least 0. Fresh ones are drawn evenly from 0..1.

    Attributes:
      channels: of the trunk's taps, as `features.registry` has them.
    """

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Gives the weights of every layer, whatever the image.

        Returns:
          [C] of each layer, parameters lin0/kernel [1, 1, C, 1], lin1/kernel, ...
        """
        return tuple(
            _Linear(channels, name=f"lin{i}")()
            for i, channels in enumerate(self.channels)
        )


class _Linear(nn.Module):
    channels: int

    @nn.compact
    def __call__(self) -> jax.Array:
        initial = nn.initializers.uniform(1.0)
        return self.param("kernel", initial, (1, 1, self.channels, 1)).reshape(-1)


def distance(
    truth: Mapping[str, jax.Array],
    prediction: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array],
) -> jax.Array:
    """Weighted distance of features scaled to unit length over the channels.

        sum_l mean_{h, w} sum_c w_lc (f_lc / (|f_l| + 1e-10) - g_lc / (|g_l| + 1e-10))^2

    Where all channels of a place are zero the scaled feature is zero and so is its
    gradient (that of the root alone would be NaN).

    Args:
      truth: layer -> [B, H, W, C] features, any float dtype; sizes differ by layer.
      prediction: the same layers and shapes.
      weights: layer -> [C] float32, at least 0, of the layers that count.

    Returns:
      [B], float32 at the least, at least 0.

    Raises:
      ValueError: a layer is missing or a shape does not fit.

    Source: Zhang et al. 2018, Eq. 1.
    """
    if not weights or not set(truth) >= set(weights) <= set(prediction):
        raise InpaintInputError(
            f"distance: weights of {list(weights)} need features of the same layers, "
            f"got {list(truth)} and {list(prediction)}."
        )
    layers = []
    for name, weight in weights.items():
        shape = expect_shape("distance", f"truth {name}", truth[name], "B H W C")
        same = " ".join(str(n) for n in shape)
        expect_shape("distance", f"prediction {name}", prediction[name], same)
        expect_shape("distance", f"weights {name}", weight, str(shape[3]))
        apart = (_unit(truth[name]) - _unit(prediction[name])) ** 2
        layers.append(jnp.sum(jnp.mean(apart, axis=(1, 2)) * weight[None], axis=1))
    return jnp.sum(jnp.stack(layers), axis=0)


def _unit(features: jax.Array) -> jax.Array:
    double = features.dtype == jnp.float64
    wide = features if double else features.astype(jnp.float32)
    squares = jnp.sum(wide**2, axis=3, keepdims=True)
    some = squares > 0
    length = jnp.sqrt(jnp.where(some, squares, 1.0))
    return jnp.where(some, wide / (length + EPSILON), 0.0)


def lpips(
    trunk: nn.Module,
    variables: Mapping[str, Any],
    linear: Mapping[str, Any],
    truth: jax.Array,
    prediction: jax.Array,
) -> jax.Array:
    """Perceptual distance of two images, of the whole frame.

    Args:
      trunk: module with the field `taps`, image -> features of these layers.
      variables: of the trunk, frozen.
      linear: of `LinearWeights`, frozen; lin0 belongs to the first tap.
      truth: [B, H, W, 1 or 3] float in [-1, 1]; the trunk repeats one channel, grey.
      prediction: shaped and ranged like `truth`.

    Returns:
      [B], at least 0, and 0 for equal images.

    Raises:
      ValueError: the images differ in shape or are smaller than the trunk can take
        (nothing is padded), or the linear weights are those of another trunk.

    Source: Zhang et al. 2018, version 0.1; CCPGAN specification 5.3 (R41).
    """
    shape = expect_shape("lpips", "truth", truth, "B H W C")
    same = " ".join(str(n) for n in shape)
    expect_shape("lpips", "prediction", prediction, same)
    features = trunk.apply(variables, truth)
    kernels = linear["params"]
    have = {name: list(kernels[name]["kernel"].shape) for name in sorted(kernels)}
    want = {
        f"lin{i}": [1, 1, features[t].shape[3], 1] for i, t in enumerate(trunk.taps)
    }
    if have != want:
        raise InpaintInputError(
            f"lpips: the linear weights must be {want}, got {have}; take those that "
            "belong to this trunk."
        )
    weights = {
        tap: kernels[f"lin{i}"]["kernel"].reshape(-1)
        for i, tap in enumerate(trunk.taps)
    }
    return distance(features, trunk.apply(variables, prediction), weights)


def lpips_metric(
    trunk: nn.Module,
    variables: Mapping[str, Any],
    linear: Mapping[str, Any],
    *,
    data_range: float,
) -> Metric:
    """Makes the metric that averages `lpips` over images, always of the whole image.

    The region of a batch is not looked at: a feature sees most of the image, so that
    none belongs to the hole alone.

    Args:
      trunk: as `lpips` takes it, `alexnet_trunk(jnp.float32)` for printed figures.
      variables: of the trunk.
      linear: of `LinearWeights`.
      data_range: largest grey level, 255 or 65535; 0..data_range goes to [-1, 1].

    Returns:
      A metric of batches as `evaluate` takes them, images [B, H, W, 1 or 3].

    Raises:
      ValueError: a linear weight is negative or NaN; from update, an image that does
        not fit (`lpips`) or is not float32.
    """
    for name, layer in linear["params"].items():
        least = np.asarray(layer["kernel"]).min()
        if not least >= 0:
            raise InpaintInputError(
                f"lpips_metric: the least weight of {name} is {least}; those of LPIPS "
                "are at least 0, so these are something else."
            )

    def score(
        truth: jax.Array,
        prediction: jax.Array,
        region: jax.Array,
        variables: Mapping[str, Any],
        linear: Mapping[str, Any],
    ) -> jax.Array:
        check_pair("lpips_metric", truth, prediction, region)
        signed = (image * (2.0 / data_range) - 1.0 for image in (truth, prediction))
        return lpips(trunk, variables, linear, *signed)

    return image_metric(score, variables, linear)
