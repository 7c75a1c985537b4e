"""Networks that find glomeruli: EfficientNetB3-Unet, and the U-Nets it is held against.

All take windows in [-1, 1], normalise them with the means of ImageNet themselves, and
give two logits a pixel, normal and sclerosed, which exclude each other no more than
the two black-and-white masks they are trained on.

Source: An image inpainting-based data augmentation method for improved sclerosed
glomerular identification performance with the segmentation model EfficientNetB3-Unet,
Table 5. The decoder is that of segmentation_models.pytorch, Unet and Unet++ are those
of pytorch-nested-unet; sections are those of this project's specification.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_dtype, expect_multiple, expect_shape
from jaxinpaint.features.efficientnet import EfficientNet, Scale
from jaxinpaint.features.normalization import IMAGENET, normalize
from jaxinpaint.ops.upsample import upsample_conv

CLASSES = 2
STRIDE = 32  # of all three, so that one tile fits each of them
SKIPS = ("skip4", "skip3", "skip2", "skip1", None)  # of the decoder's blocks

# Assumption: the paper has no word on Unet and Unet++; they begin as the decoder does.
HE = nn.initializers.he_uniform()
GLOROT = nn.initializers.glorot_uniform()


def batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """Batch norm as all decoders have it; its statistics are float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


def expect_tile(where: str, image: jax.Array, stride: int) -> None:
    """Checks at the door of a network: shape, sides, dtype."""
    shape = expect_shape(where, "image", image, "B H W 3")
    expect_multiple(where, shape, stride, stride)
    expect_dtype(where, "image", image, "float32")


class RisenConv(nn.Module):
    """Nearest x2 enlargement, a skip beside it, and a 3 x 3 convolution without bias.

    One kernel [3, 3, C + D, width], as if what it reads had been concatenated. The
    enlarged map is never built, which spares 5/9 of the products on it.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None) -> jax.Array:
        """[B, H, W, C] and [B, 2 H, 2 W, D] or None -> [B, 2 H, 2 W, width]."""
        below = x.shape[-1]
        inputs = below if skip is None else below + skip.shape[-1]
        kernel = self.param("kernel", HE, (3, 3, inputs, self.width))
        x, skip, kernel = nn.dtypes.promote_dtype(x, skip, kernel, dtype=self.dtype)
        risen = upsample_conv(x, kernel[:, :, :below])
        if skip is None:
            return risen
        return risen + jax.lax.conv_general_dilated(
            skip,
            kernel[:, :, below:],
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Rise(nn.Module):
    """A block of the decoder: enlarge, join the skip, two convolutions with norms."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, skip: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """[B, H, W, C] and [B, 2 H, 2 W, D] or None -> [B, 2 H, 2 W, width]."""
        x = RisenConv(self.width, self.dtype, name="conv1")(x, skip)
        x = nn.relu(batch_norm("bn1", self.dtype, train)(x))
        conv = nn.Conv(
            self.width,
            (3, 3),
            use_bias=False,
            kernel_init=HE,
            dtype=self.dtype,
            name="conv2",
        )
        return nn.relu(batch_norm("bn2", self.dtype, train)(conv(x)))


class EfficientUnet(nn.Module):
    """EfficientNetB3-Unet: an EfficientNet, and a decoder that reads its five levels.

    Attributes:
      scale: of the encoder, `features.efficientnet.B3` as published.
      decoder: channels of its five blocks, the coarsest first, (256, 128, 64, 32, 16).
      drop_connect: rate in training of the encoder's last block, 0.2.
      static_pad: None pads each image for its own size; 300 for an encoder out of a
        public PyTorch file of B3. See `EfficientNet`.
      dtype: of compute; parameters, statistics and logits are float32.
    """

    scale: Scale
    decoder: tuple[int, ...]
    drop_connect: float
    static_pad: int | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Finds glomeruli.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1]; H and W multiples of 32.
          train: normalise by the batch and drop branches, which needs
            `mutable=["batch_stats"]` and a key `drop_connect` if its rate is above 0;
            otherwise by the running statistics, each image alone.

        Returns:
          Logits [B, H, W, 2] float32: normal, sclerosed.

        Raises:
          ShapeMismatchError: not three channels.
          UnalignedSizeError: H or W does not fit.
          DTypeError: not float32.
          ValueError: not five widths.

        Source: sections 2.6 and 2.7.
        """
        where = "glomeruli_segment.EfficientUnet"
        if len(self.decoder) != len(SKIPS) or min(self.decoder) < 1:
            raise ValueError(
                f"{where}: decoder is {self.decoder}; give {len(SKIPS)} widths, one for "
                "every level of the encoder."
            )
        expect_tile(where, image, STRIDE)
        taps = ("skip1", "skip2", "skip3", "skip4", "skip5")
        encoder = EfficientNet(
            self.scale,
            taps,
            IMAGENET,
            self.drop_connect,
            self.static_pad,
            self.dtype,
            name="encoder",
        )
        levels = encoder(image, train=train)
        x = levels["skip5"]
        for i, (width, tap) in enumerate(zip(self.decoder, SKIPS, strict=True), 1):
            skip = None if tap is None else levels[tap]
            x = Rise(width, self.dtype, name=f"decode{i}")(x, skip, train=train)
        head = nn.Conv(
            CLASSES, (3, 3), kernel_init=GLOROT, dtype=self.dtype, name="head"
        )
        return head(x).astype(jnp.float32)


def enlarge(x: jax.Array) -> jax.Array:
    """Enlarges [B, H, W, C] twice, bilinear, corner on corner.

        out[i] = x at i (n - 1) / (2 n - 1), along either side of n pixels

    Pixel 2 k lies k / (2 n - 1) before pixel k, pixel 2 k + 1 lies
    (n - 1 - k) / (2 n - 1) behind it, so that each needs one neighbour and no gather.

    Returns:
      [B, 2 H, 2 W, C], the range and dtype of `x`.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        shape = [1] * x.ndim
        shape[axis] = n
        k = np.arange(n).reshape(shape)
        first, rest = jnp.split(x, [1], axis)
        most, last = jnp.split(x, [n - 1], axis)
        previous = jnp.concatenate([first, most], axis)
        following = jnp.concatenate([rest, last], axis)
        before = jnp.asarray(k / (2 * n - 1), x.dtype)
        behind = jnp.asarray((n - 1 - k) / (2 * n - 1), x.dtype)
        pair = (x + before * (previous - x), x + behind * (following - x))
        doubled = [2 * n if a == axis else x.shape[a] for a in range(x.ndim)]
        x = jnp.stack(pair, axis + 1).reshape(doubled)
    return x


class Node(nn.Module):
    """Two 3 x 3 convolutions with bias, each with its norm and ReLU."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, width]."""
        for i in (1, 2):
            conv = nn.Conv(
                self.width, (3, 3), kernel_init=HE, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(batch_norm(f"bn{i}", self.dtype, train)(conv(x)))
        return x


def expect_levels(where: str, widths: tuple[int, ...]) -> int:
    """Checks the widths of a U-Net and tells what its sides are multiples of."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"{where}: widths is {widths}; give two or more, positive.")
    return max(STRIDE, 2 ** (len(widths) - 1))


def head(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The 1 x 1 convolution to logits, in the module that calls it."""
    conv = nn.Conv(CLASSES, (1, 1), kernel_init=GLOROT, dtype=dtype, name="head")
    return conv(x).astype(jnp.float32)


class Unet(nn.Module):
    """U-Net with batch norms, max pooling and bilinear enlargement.

    Attributes:
      widths: channels of the levels, the finest first, (32, 64, 128, 256, 512).
      dtype: of compute; parameters, statistics and logits are float32.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Finds glomeruli; arguments, result and errors as in `EfficientUnet`.

        Nothing is dropped in training. Sides are multiples of 32, though five levels
        need 16 alone.

        Source: section 2.8.
        """
        where = "glomeruli_segment.Unet"
        expect_tile(where, image, expect_levels(where, self.widths))
        x, skips = normalize(image, IMAGENET), []
        for level, width in enumerate(self.widths):
            x = nn.max_pool(x, (2, 2), (2, 2)) if level else x
            x = Node(width, self.dtype, name=f"encode{level}")(x, train=train)
            skips.append(x)
        for level in range(len(self.widths) - 2, -1, -1):
            x = jnp.concatenate([skips[level], enlarge(x)], axis=-1)
            node = Node(self.widths[level], self.dtype, name=f"decode{level}")
            x = node(x, train=train)
        return head(x, self.dtype)


class UnetPlusPlus(nn.Module):
    """Unet++: nodes X(i, j) at level i, each of which reads its row and the one below.

        X(i, j) = node(concat(X(i, 0), ..., X(i, j - 1), enlarge(X(i + 1, j - 1))))

    Attributes:
      widths: as in `Unet`.
      dtype: of compute; parameters, statistics and logits are float32.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Finds glomeruli; arguments, result and errors as in `Unet`.

        Source: section 2.8, without deep supervision.
        """
        where = "glomeruli_segment.UnetPlusPlus"
        expect_tile(where, image, expect_levels(where, self.widths))

        def node(x: jax.Array, level: int, step: int) -> jax.Array:
            name = f"x{level}_{step}"
            return Node(self.widths[level], self.dtype, name=name)(x, train=train)

        rows = [[node(normalize(image, IMAGENET), 0, 0)]]
        for i in range(1, len(self.widths)):
            rows.append([node(nn.max_pool(rows[-1][0], (2, 2), (2, 2)), i, 0)])
            for j in range(1, i + 1):  # the diagonal that this level makes possible
                level = i - j
                below = enlarge(rows[level + 1][j - 1])
                x = jnp.concatenate([*rows[level], below], axis=-1)
                rows[level].append(node(x, level, j))
        return head(rows[0][-1], self.dtype)
