"""Several pretrained networks that one loss reads together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.system import Variables
from jaxinpaint.features import store


class Extractor(NamedTuple):
    """Feature networks under one roof.

    Attributes:
      networks: name in the registry -> network that returns its taps by name.
      sources: name -> "imported" or "random:SEED".
    """

    networks: Mapping[str, nn.Module]
    sources: Mapping[str, str]

    def load(self, size: int) -> Variables:
        """The variables of every network, by its name.

        Args:
          size: side of the images; only says that the networks take them.

        Raises:
          MissingWeightsError: nobody has imported one of them yet.
          ValueError: an unknown source, or weights of another network.
        """
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return {
            name: store.load(name, self.sources[name], network, image).variables
            for name, network in self.networks.items()
        }

    def __call__(self, frozen: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """Reads an image [B, H, W, 1 or 3] in [-1, 1] with every network.

        Returns:
          Its tensors by "network/tap", such as "vgg16/pool1".
        """
        found = {}
        for name, network in self.networks.items():
            for tap, tensor in network.apply(frozen[name], image).items():
                found[f"{name}/{tap}"] = tensor
        return found

    def each(
        self, frozen: Variables, images: Sequence[jax.Array]
    ) -> list[dict[str, jax.Array]]:
        """What a call returns for each of several images of one shape, in one pass.

        A sample's images lie side by side, so that no row changes device.
        """
        b, *rest = images[0].shape
        joined = jnp.stack(images, axis=1).reshape(b * len(images), *rest)
        apart = {
            name: tensor.reshape(b, len(images), *tensor.shape[1:])
            for name, tensor in self(frozen, joined).items()
        }
        return [
            {name: tensor[:, i] for name, tensor in apart.items()}
            for i in range(len(images))
        ]


def by_tap(
    features: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> dict[str, float]:
    """The weight of every tensor "network/tap", given that of its network."""
    return {name: weights[name.split("/")[0]] for name in features}
