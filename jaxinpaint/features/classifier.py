"""The head of three linear layers that VGG and AlexNet end in."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_shape
from jaxinpaint.features.convert import Layer

HE = nn.initializers.he_normal()  # keeps the scale of activations through ReLUs


def window_means(size: int, windows: int) -> np.ndarray:
    """Matrix [windows, size] whose row i averages floor(i s) .. ceil((i + 1) s) - 1.

    s = size / windows; windows overlap where they do not divide the size, and repeat
    pixels where there are fewer of them than windows.
    """
    matrix = np.zeros((windows, size))
    for i in range(windows):
        first, end = i * size // windows, math.ceil((i + 1) * size / windows)
        matrix[i, first:end] = 1.0 / (end - first)
    return matrix


def adaptive_mean(x: jax.Array, side: int) -> jax.Array:
    """Averages [B, H, W, C] of any size over `side` x `side` windows.

    Returns:
      [B, side, side, C]; the windows are those of `window_means` on each axis.

    Source: the public networks' adaptive average pooling.
    """
    _, height, width, _ = expect_shape("adaptive_mean", "x", x, "B H W C")
    if height == width == side:
        return x
    rows, columns = (
        jnp.asarray(window_means(n, side), x.dtype) for n in (height, width)
    )
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)


class Classifier(nn.Module):
    """Adaptive pooling, then linear 6, ReLU, linear 7, ReLU, linear 8.

    The dropout between them is the identity, since the network is never trained.

    Attributes:
      side: of the map that the first linear layer was made for.
      hidden: width of the first two layers.
      classes: width of the last.
      dtype: of compute; parameters are float32.
    """

    side: int
    hidden: int
    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> logits [B, classes]."""
        x = adaptive_mean(x, self.side)
        # The files' columns are in the order channel, row, column.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        widths = (self.hidden, self.hidden, self.classes)
        for number, width in enumerate(widths, start=6):
            x = nn.relu(x) if number > 6 else x
            x = nn.Dense(width, kernel_init=HE, dtype=self.dtype, name=f"fc{number}")(x)
        return x


def classifier_layers(indices: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Names of the three linear layers, which the file counts by `indices`."""
    return tuple(
        Layer(f"classifier.{index}", f"classifier/fc{number}", "linear")
        for number, index in enumerate(indices, start=6)
    )
