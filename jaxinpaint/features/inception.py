"""Inception v3 as the Frechet inception distance uses it, with stored statistics.

It is Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
in the form of TensorFlow's graph of 2015-12-05: average pooling leaves padding out of
the count, the last block takes a maximum instead, and there are 1008 classes. Modules
carry the names of TensorFlow's slim library, as pytorch-fid's weight file does.
"""

from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_shape
from jaxinpaint.features.convert import Layer
from jaxinpaint.features.normalization import Normalization, normalize
from jaxinpaint.features.taps import expect_least, last_tap

SIDE = 299  # that the distance resizes to
CLASSES = 1008  # with 8 that mean nothing, as the graph of 2015 has them
EPSILON = 1e-3

# Tensors that can be asked for, in the order of the network, and the least height and
# width of an image that leaves them a pixel.
TAPS = {"pool1": 11, "pool2": 27, "features768": 43, "pool3": 75, "logits": 75}

Size = tuple[int, int]


def resize_bilinear(image: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear resizing that takes two pixels on each axis, also when it shrinks.

        out[i] = in[y] between its two neighbours, y = (i + 1/2) H / height - 1/2

    with edge pixels repeated outside. Nothing is averaged before shrinking, so fine
    texture aliases; the distance is defined with this, so no other may be used.

    Args:
      image: [B, H, W, C] float32 or float64, any range.
      height: of the result.
      width: of the result.

    Returns:
      [B, height, width, C], dtype and range of `image`.

    Raises:
      ShapeMismatchError: the image is not [B, H, W, C].
      DTypeError: integers, which would be rounded, or a shorter float.

    Source: pytorch-fid, `interpolate(mode="bilinear", align_corners=False)`.
    """
    batch, _, _, channels = expect_shape("resize_bilinear", "image", image, "B H W C")
    expect_dtype("resize_bilinear", "image", image, "float32", "float64")
    shape = (batch, height, width, channels)
    return jax.image.resize(image, shape, "bilinear", antialias=False)


def average_pool(x: jax.Array) -> jax.Array:
    """3 x 3 mean around each pixel of those that lie inside the image."""
    rows, columns = (np.full(n, 3.0) for n in x.shape[1:3])
    for count in (rows, columns):
        count[0] -= 1
        count[-1] -= 1
    share = jnp.asarray(1.0 / np.outer(rows, columns), x.dtype)
    total = nn.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")
    return total * share.reshape(1, *share.shape, 1)


def max_pool(x: jax.Array) -> jax.Array:
    """3 x 3 maximum around each pixel."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def reduce_pool(x: jax.Array) -> jax.Array:
    """3 x 3 maximum at every second pixel, windows inside: [B, (H - 1) // 2, ...]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    size: Size
    stride: int
    padding: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        conv = nn.Conv(
            self.features,
            self.size,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )
        norm = nn.BatchNorm(
            use_running_average=True, epsilon=EPSILON, dtype=self.dtype, name="bn"
        )
        return nn.relu(norm(conv(x)))


def conv(name: str, features: int, size: Size, dtype: jnp.dtype) -> ConvNorm:
    """A convolution that keeps the size."""
    return ConvNorm(features, size, 1, "SAME", dtype, name=name)


def inner_conv(
    name: str, features: int, dtype: jnp.dtype, size: Size = (3, 3), stride: int = 1
) -> ConvNorm:
    """A convolution whose windows lie inside, so that the border goes."""
    return ConvNorm(features, size, stride, "VALID", dtype, name=name)


class BlockA(nn.Module):
    """Mixed_5: 5 x 5 and twice 3 x 3, at a stride of 8."""

    pooled: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, 224 + pooled]."""
        t = self.dtype
        one = conv("branch1x1", 64, (1, 1), t)(x)
        five = conv("branch5x5_1", 48, (1, 1), t)(x)
        five = conv("branch5x5_2", 64, (5, 5), t)(five)
        twice = conv("branch3x3dbl_1", 64, (1, 1), t)(x)
        twice = conv("branch3x3dbl_2", 96, (3, 3), t)(twice)
        twice = conv("branch3x3dbl_3", 96, (3, 3), t)(twice)
        pool = conv("branch_pool", self.pooled, (1, 1), t)(average_pool(x))
        return jnp.concatenate([one, five, twice, pool], axis=-1)


class BlockB(nn.Module):
    """Mixed_6a: from a stride of 8 to 16."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, 480 + C]."""
        t = self.dtype
        once = inner_conv("branch3x3", 384, t, stride=2)(x)
        twice = conv("branch3x3dbl_1", 64, (1, 1), t)(x)
        twice = conv("branch3x3dbl_2", 96, (3, 3), t)(twice)
        twice = inner_conv("branch3x3dbl_3", 96, t, stride=2)(twice)
        return jnp.concatenate([once, twice, reduce_pool(x).astype(t)], axis=-1)


class BlockC(nn.Module):
    """Mixed_6b to 6e: 7 x 7 in rows and columns, once and twice."""

    inner: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, 768]."""
        n, t = self.inner, self.dtype
        one = conv("branch1x1", 192, (1, 1), t)(x)
        once = conv("branch7x7_1", n, (1, 1), t)(x)
        once = conv("branch7x7_2", n, (1, 7), t)(once)
        once = conv("branch7x7_3", 192, (7, 1), t)(once)
        twice = conv("branch7x7dbl_1", n, (1, 1), t)(x)
        twice = conv("branch7x7dbl_2", n, (7, 1), t)(twice)
        twice = conv("branch7x7dbl_3", n, (1, 7), t)(twice)
        twice = conv("branch7x7dbl_4", n, (7, 1), t)(twice)
        twice = conv("branch7x7dbl_5", 192, (1, 7), t)(twice)
        pool = conv("branch_pool", 192, (1, 1), t)(average_pool(x))
        return jnp.concatenate([one, once, twice, pool], axis=-1)


class BlockD(nn.Module):
    """Mixed_7a: from a stride of 16 to 32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, 512 + C]."""
        t = self.dtype
        three = conv("branch3x3_1", 192, (1, 1), t)(x)
        three = inner_conv("branch3x3_2", 320, t, stride=2)(three)
        seven = conv("branch7x7x3_1", 192, (1, 1), t)(x)
        seven = conv("branch7x7x3_2", 192, (1, 7), t)(seven)
        seven = conv("branch7x7x3_3", 192, (7, 1), t)(seven)
        seven = inner_conv("branch7x7x3_4", 192, t, stride=2)(seven)
        return jnp.concatenate([three, seven, reduce_pool(x).astype(t)], axis=-1)


class BlockE(nn.Module):
    """Mixed_7b and 7c: rows and columns of a 3 x 3 side by side."""

    pool: Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, 2048]."""
        t = self.dtype
        one = conv("branch1x1", 320, (1, 1), t)(x)
        once = conv("branch3x3_1", 384, (1, 1), t)(x)
        once_rows = conv("branch3x3_2a", 384, (1, 3), t)(once)
        once_columns = conv("branch3x3_2b", 384, (3, 1), t)(once)
        twice = conv("branch3x3dbl_1", 448, (1, 1), t)(x)
        twice = conv("branch3x3dbl_2", 384, (3, 3), t)(twice)
        twice_rows = conv("branch3x3dbl_3a", 384, (1, 3), t)(twice)
        twice_columns = conv("branch3x3dbl_3b", 384, (3, 1), t)(twice)
        pool = conv("branch_pool", 192, (1, 1), t)(self.pool(x))
        branches = [one, once_rows, once_columns, twice_rows, twice_columns, pool]
        return jnp.concatenate(branches, axis=-1)


class Inception(nn.Module):
    """Inception v3 of the Frechet distance; nothing behind the last tap is built.

    Attributes:
      taps: wanted tensors, keys of TAPS: "pool1" and "pool2", the first two max
        poolings; "features768", the end of mixed_6e; "pool3", the mean over the last
        block, which the distance compares; "logits" of 1008 classes.
      normalization: the levels the weights were trained on; SIGNED for the public
        ones.
      dtype: of the computation and the tensors; parameters are float32.
    """

    taps: tuple[str, ...]
    normalization: Normalization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Tensors of an image, with stored statistics.

        Args:
          image: [B, H, W, 1 or 3] float in [-1, 1]. Nothing is resized: the
            distance takes `resize_bilinear(image, SIDE, SIDE)`, of [-1, 1] as good
            as of [0, 1], since it is linear and its weights add up to one.

        Returns:
          Every tap by name, in the order of `taps` (jit sorts them): of 299 x 299
          "pool1" [B, 73, 73, 64], "pool2" [B, 35, 35, 192], "features768"
          [B, 17, 17, 768]; of any size "pool3" [B, 2048], "logits" [B, 1008].

        Raises:
          ShapeMismatchError: neither one nor three channels.
          UnalignedSizeError: a side too small for the last tap.
          ValueError: no taps, or an unknown one.

        Source: Szegedy et al. 2016, Table 1; the differences are pytorch-fid's.
        """
        known = tuple(TAPS)
        last = known[last_tap("Inception", self.taps, known)]
        expect_least("Inception", image, TAPS[last], last)
        found = {}
        for name, tensor in self._tensors(normalize(image, self.normalization)):
            found[name] = tensor
            if name == last:
                break
        return {name: found[name] for name in self.taps}

    def _tensors(self, x: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Builds the network as far as it is drawn from."""
        t = self.dtype
        x = inner_conv("conv2d_1a_3x3", 32, t, stride=2)(x)
        x = inner_conv("conv2d_2a_3x3", 32, t)(x)
        x = conv("conv2d_2b_3x3", 64, (3, 3), t)(x)
        x = reduce_pool(x)
        yield "pool1", x
        x = conv("conv2d_3b_1x1", 80, (1, 1), t)(x)
        x = inner_conv("conv2d_4a_3x3", 192, t)(x)
        x = reduce_pool(x)
        yield "pool2", x
        x = BlockA(32, t, name="mixed_5b")(x)
        x = BlockA(64, t, name="mixed_5c")(x)
        x = BlockA(64, t, name="mixed_5d")(x)
        x = BlockB(t, name="mixed_6a")(x)
        x = BlockC(128, t, name="mixed_6b")(x)
        x = BlockC(160, t, name="mixed_6c")(x)
        x = BlockC(160, t, name="mixed_6d")(x)
        x = BlockC(192, t, name="mixed_6e")(x)
        yield "features768", x
        x = BlockD(t, name="mixed_7a")(x)
        x = BlockE(average_pool, t, name="mixed_7b")(x)
        # The paper has a mean here too; the public weights were trained with this.
        x = BlockE(max_pool, t, name="mixed_7c")(x)
        x = jnp.mean(x, axis=(1, 2))
        yield "pool3", x
        yield "logits", nn.Dense(CLASSES, dtype=t, name="fc")(x)


# Branches of each block, behind the word "branch".
A = "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"
B = "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3"
C = "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"
D = "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"
E = "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"
STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
MIXED = {
    **{"5b": A, "5c": A, "5d": A},
    **{"6a": B, "6b": C, "6c": C, "6d": C, "6e": C},
    **{"7a": D, "7b": E, "7c": E},
}


def inception_layers() -> tuple[Layer, ...]:
    """Modules of pytorch-fid's weight file, all of them, and ours."""
    pairs = [(f"Conv2d_{name}", f"conv2d_{name}") for name in STEM]
    pairs += [
        (f"Mixed_{block}.branch{branch}", f"mixed_{block}/branch{branch}")
        for block, branches in MIXED.items()
        for branch in branches.split()
    ]
    layers = [
        Layer(f"{theirs}.{part}", f"{ours}/{part}", kind)
        for theirs, ours in pairs
        for part, kind in (("conv", "conv"), ("bn", "batch_norm"))
    ]
    return (*layers, Layer("fc", "fc", "linear"))


INCEPTION_LAYERS = inception_layers()
