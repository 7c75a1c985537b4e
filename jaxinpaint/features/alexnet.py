"""AlexNet, up to the layer that a metric asks for.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
2014, the form of torchvision's weights and of LPIPS's five taps.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.features.classifier import HE, Classifier, classifier_layers
from jaxinpaint.features.convert import Layer
from jaxinpaint.features.normalization import Normalization, normalize
from jaxinpaint.features.taps import expect_least, last_tap


class Stage(NamedTuple):
    """One convolution, with what comes before it and where the file has it."""

    pooled: bool  # 3 x 3 max pooling of stride 2 comes first
    width: int
    size: int
    stride: int
    padding: int
    place: int  # in the file's `features`
    least: int  # side of the smallest image that leaves it a pixel


STAGES = {
    "relu1": Stage(False, 64, 11, 4, 2, place=0, least=7),
    "relu2": Stage(True, 192, 5, 1, 2, place=3, least=15),
    "relu3": Stage(True, 384, 3, 1, 1, place=6, least=31),
    "relu4": Stage(False, 256, 3, 1, 1, place=8, least=31),
    "relu5": Stage(False, 256, 3, 1, 1, place=10, least=31),
}
LEAST_LOGITS = 63
ALEXNET_TAPS = (*STAGES, "logits")
ALEXNET_LAYERS: tuple[Layer, ...] = (
    *(
        Layer(f"features.{stage.place}", name.replace("relu", "conv"), "conv")
        for name, stage in STAGES.items()
    ),
    *classifier_layers((1, 4, 6)),
)


def _pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class AlexNet(nn.Module):
    """Five convolutions with ReLU, max pooling after the first, second and fifth.

    Nothing behind the last tap is computed, and it has no parameters. New parameters
    are He normal, biases zero.

    Attributes:
      taps: wanted tensors, of ALEXNET_TAPS.
      normalization: what the weights were trained on.
      dtype: of compute; parameters are float32.
    """

    taps: tuple[str, ...]
    normalization: Normalization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Reads images of any size that leaves the last tap a pixel.

        Args:
          image: [B, H, W, 1 or 3] float in [-1, 1]; one channel is grey.

        Returns:
          The taps in their order (a jitted function returns them by name), in `dtype`:
          relu1..relu5 [B, h, w, C], C 64, 192, 384, 256 and 256, of 64 x 64 pixels
          h = w = 15, 7, 3, 3 and 3; logits [B, 1000].

        Raises:
          ShapeMismatchError: neither one nor three channels.
          UnalignedSizeError: a side too small for the last tap.
          ValueError: no taps, or an unknown one.
        """
        end = last_tap("AlexNet", self.taps, ALEXNET_TAPS)
        last = ALEXNET_TAPS[end]
        least = STAGES[last].least if last in STAGES else LEAST_LOGITS
        expect_least("AlexNet", image, least, last)
        x = normalize(image, self.normalization)
        found = {}
        for name in list(STAGES)[: end + 1]:
            stage = STAGES[name]
            x = _pool(x) if stage.pooled else x
            x = nn.Conv(
                stage.width,
                (stage.size, stage.size),
                strides=stage.stride,
                padding=stage.padding,
                kernel_init=HE,
                dtype=self.dtype,
                name=name.replace("relu", "conv"),
            )(x)
            found[name] = x = nn.relu(x)
        if last == "logits":
            head = Classifier(6, 4096, 1000, self.dtype, name="classifier")
            found[last] = head(_pool(x))
        return {tap: found[tap] for tap in self.taps}
