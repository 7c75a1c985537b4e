"""VGG16 and VGG19, up to the layer that a loss or a metric asks for.

Source: Simonyan and Zisserman, ICLR 2015 (configurations D and E); layer order and
names of the weight files as torchvision has them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.features.classifier import HE, Classifier, classifier_layers
from jaxinpaint.features.convert import Layer
from jaxinpaint.features.normalization import Normalization, normalize
from jaxinpaint.features.taps import expect_least, last_tap

VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)
WIDTHS = (64, 128, 256, 512, 512)


def vgg_taps(blocks: tuple[int, ...]) -> tuple[str, ...]:
    """Names of all tensors that can be asked for, in the order of the network."""
    names = []
    for block, count in enumerate(blocks, start=1):
        names += [f"relu{block}_{i}" for i in range(1, count + 1)] + [f"pool{block}"]
    return (*names, "logits")


def vgg_layers(blocks: tuple[int, ...]) -> tuple[Layer, ...]:
    """Names in torchvision's `vgg16` or `vgg19` file, the whole network's."""
    layers = []
    index = 0
    for block, count in enumerate(blocks, start=1):
        for i in range(1, count + 1):
            layers.append(Layer(f"features.{index}", f"conv{block}_{i}", "conv"))
            index += 2  # the ReLU counts too
        index += 1  # and so does the pooling
    return (*layers, *classifier_layers((0, 3, 6)))


class VGG(nn.Module):
    """3 x 3 convolutions (zero padding, bias, ReLU), 2 x 2 max pooling after a block.

    Nothing behind the last tap is computed, and it has no parameters. New parameters
    are He normal, biases zero.

    Attributes:
      blocks: convolutions of each block, VGG16 or VGG19.
      taps: wanted tensors, of `vgg_taps`: relu{block}_{i}, pool{block} or logits.
      normalization: what the weights were trained on.
      dtype: of compute; parameters are float32.
    """

    blocks: tuple[int, ...]
    taps: tuple[str, ...]
    normalization: Normalization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Reads images of any size that leaves the last tap a pixel.

        Args:
          image: [B, H, W, 1 or 3] float in [-1, 1]; one channel is grey. Sides need
            be no multiple of anything: pooling drops an odd last row or column.

        Returns:
          The taps in their order (a jitted function returns them by name), in `dtype`:
          relu{b}_{i} [B, H / 2**(b - 1), W / 2**(b - 1), C], C 64, 128, 256, 512 or
          512; pool{b} of half its sides; logits [B, 1000].

        Raises:
          ShapeMismatchError: neither one nor three channels.
          UnalignedSizeError: a side too small for the last tap.
          ValueError: no taps, or an unknown one.
        """
        known = vgg_taps(self.blocks)
        steps = known[: last_tap("VGG", self.taps, known) + 1]
        halvings = sum(step.startswith("pool") for step in steps)
        expect_least("VGG", image, 2**halvings, steps[-1])
        x = normalize(image, self.normalization)
        found = {}
        for step in steps:
            if step.startswith("relu"):
                block = int(step[4 : step.index("_")])
                name = step.replace("relu", "conv")
                x = nn.Conv(
                    WIDTHS[block - 1],
                    (3, 3),
                    padding=1,
                    kernel_init=HE,
                    dtype=self.dtype,
                    name=name,
                )(x)
                x = nn.relu(x)
            elif step.startswith("pool"):
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            else:
                x = Classifier(7, 4096, 1000, self.dtype, name="classifier")(x)
            found[step] = x
        return {tap: found[tap] for tap in self.taps}
