"""EfficientNet as a pyramid of features, frozen or trained, for segmentation.

Source: Tan and Le, EfficientNet (ICML 2019), B0 and its compound scaling; the layout
of the public weight files is that of lukemelas/EfficientNet-PyTorch, the five levels
are those that segmentation_models.pytorch reads. The glomerulus specification (2.6)
lists every layer of B3.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import UnalignedSizeError, expect_shape
from jaxinpaint.features.convert import Layer
from jaxinpaint.features.normalization import Normalization, normalize
from jaxinpaint.features.taps import last_tap


class Scale(NamedTuple):
    """Factors on B0's channels and on its repeats."""

    width: float
    depth: float


B3 = Scale(width=1.2, depth=1.4)


class Block(NamedTuple):
    """One MBConv block; in B0's table one row, whose first block has the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    features: int


B0_STEM, B0_HEAD = 32, 1280
B0_STAGES = (
    Block(1, 3, 1, 1, 16),
    Block(2, 3, 2, 6, 24),
    Block(2, 5, 2, 6, 40),
    Block(3, 3, 2, 6, 80),
    Block(3, 5, 1, 6, 112),
    Block(4, 5, 2, 6, 192),
    Block(1, 3, 1, 6, 320),
)
SKIP_STAGES = {2: "skip2", 3: "skip3", 5: "skip4", 7: "skip5"}  # ends, counted from 1
TAPS = ("skip1", *SKIP_STAGES.values(), "features", "logits")
CLASSES = 1000

# Normal with variance 2 / (kh kw out); a depthwise kernel has one input each, so that
# its kh kw is what the initializer calls fan_in.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def scaled_features(features: int, width: float) -> int:
    """Channels at a width: the nearest multiple of 8, never 10 % below the product."""
    exact = features * width
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * exact else nearest


def stages(scale: Scale) -> tuple[tuple[Block, ...], ...]:
    """The blocks of each of the seven stages, `repeats` 1 in each."""
    return tuple(
        tuple(
            row._replace(
                repeats=1,
                stride=row.stride if number == 0 else 1,
                features=scaled_features(row.features, scale.width),
            )
            for number in range(math.ceil(row.repeats * scale.depth))
        )
        for row in B0_STAGES
    )


def encoder_layers(scale: Scale, prefix: str) -> tuple[Layer, ...]:
    """The layers up to the tap "features", which all public files hold.

    Args:
      scale: of the network, such as `B3`.
      prefix: in front of every name: "encoder." in a file of a whole network of
        segmentation_models.pytorch, whose encoder has no classifier; "" in others.

    Returns:
      What `convert` and `foreign` take; a decoder's names are left to `ignored`.
    """

    def layers() -> Iterator[tuple[str, str, str]]:
        yield "_conv_stem", "conv_stem", "conv"
        yield "_bn0", "bn0", "batch_norm"
        blocks = [block for stage in stages(scale) for block in stage]
        for number, block in enumerate(blocks):
            parts = [("depthwise_conv", "depthwise_conv"), ("bn1", "batch_norm")]
            parts += [("se_reduce", "conv"), ("se_expand", "conv")]
            parts += [("project_conv", "conv"), ("bn2", "batch_norm")]
            if block.expand != 1:
                parts = [("expand_conv", "conv"), ("bn0", "batch_norm"), *parts]
            for name, kind in parts:
                yield f"_blocks.{number}._{name}", f"blocks_{number}/{name}", kind
        yield "_conv_head", "conv_head", "conv"
        yield "_bn1", "bn1", "batch_norm"

    return tuple(
        Layer(prefix + foreign, ours, kind) for foreign, ours, kind in layers()
    )


def public_layers(scale: Scale) -> tuple[Layer, ...]:
    """The layers of a file of EfficientNet-PyTorch, the classifier among them."""
    return (*encoder_layers(scale, ""), Layer("_fc", "fc", "linear"))


def same_padding(
    side: int | None, kernel: int, stride: int
) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """Padding of a convolution: of the image at hand if `side` is None, else fixed.

    A fixed padding is the one that "SAME" gives at a square input of `side` pixels,
    the smaller half first, whatever the size of the image.
    """
    if side is None:
        return "SAME"
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    half = (total // 2, total - total // 2)
    return half, half


def halved(side: int | None, stride: int) -> int | None:
    """The side behind a convolution with the padding of `same_padding`."""
    return None if side is None else math.ceil(side / stride)


def batch_norm(name: str, train: bool, dtype: jnp.dtype) -> nn.BatchNorm:
    """A batch normalisation as every layer here has it.

    The running variance takes in the biased variance of a batch, as Flax has it;
    torch takes the unbiased one there.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.99,
        epsilon=1e-3,
        dtype=dtype,
        name=name,
    )


def drop_branch(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Drops whole samples of [B, H, W, C] at `rate`, the others divided by 1 - rate."""
    kept = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1, 1))
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


class MBConv(nn.Module):
    """Expand, filter each channel, weigh the channels, project; identity if it fits.

    Attributes:
      block: kernel, stride, expansion and channels.
      drop_rate: probability that a sample's branch is dropped in training.
      side: of the input for which padding is fixed; None for the input at hand.
      dtype: of compute.
    """

    block: Block
    drop_rate: float
    side: int | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features].

        Source: the glomerulus specification, 2.6, steps 1 to 5.
        """
        block, channels = self.block, x.shape[-1]
        expanded = channels * block.expand

        def pointwise(name: str, features: int, use_bias: bool) -> nn.Conv:
            return nn.Conv(
                features,
                (1, 1),
                use_bias=use_bias,
                kernel_init=KERNEL_INIT,
                dtype=self.dtype,
                name=name,
            )

        y = x
        if block.expand != 1:
            y = pointwise("expand_conv", expanded, False)(y)
            y = nn.swish(batch_norm("bn0", train, self.dtype)(y))
        y = nn.Conv(
            expanded,
            (block.kernel, block.kernel),
            strides=block.stride,
            padding=same_padding(self.side, block.kernel, block.stride),
            feature_group_count=expanded,
            use_bias=False,
            kernel_init=DEPTHWISE_INIT,
            dtype=self.dtype,
            name="depthwise_conv",
        )(y)
        y = nn.swish(batch_norm("bn1", train, self.dtype)(y))

        # The squeezed width follows the block's input, not what it was expanded to.
        weights = jnp.mean(y, axis=(1, 2), keepdims=True)
        weights = pointwise("se_reduce", max(1, channels // 4), True)(weights)
        weights = pointwise("se_expand", expanded, True)(nn.swish(weights))
        y = y * nn.sigmoid(weights)

        y = pointwise("project_conv", block.features, False)(y)
        y = batch_norm("bn2", train, self.dtype)(y)
        if block.stride == 1 and channels == block.features:
            if train and self.drop_rate > 0:
                y = drop_branch(y, self.make_rng("drop_connect"), self.drop_rate)
            y = y + x
        return y


class EfficientNet(nn.Module):
    """EfficientNet up to the last tensor that is asked for.

    The taps, at a stride of 2, 4, 8, 16, 32, 32 and 0 pixels, with the channels of B3:

        skip1 (40)   the stem
        skip2 (32)   the end of stage 2, block 4 of B3
        skip3 (48)   the end of stage 3, block 7
        skip4 (136)  the end of stage 5, block 17
        skip5 (384)  the end of stage 7, block 25
        features (1536)  the head's convolution, normalised, swish
        logits (1000)    the public classifier, without its dropout

    Attributes:
      scale: factors on B0's channels and repeats, such as `B3`.
      taps: wanted tensors; nothing behind the last of them is built.
      normalization: of the levels that the first layer reads.
      drop_connect: rate in training: block n of N drops with drop_connect * n / N, 0.2
        in public training. Only blocks that add their input drop.
      static_pad: None pads each image for its own size, as TensorFlow does. The public
        PyTorch files of B3 were made with the padding of a 300 x 300 image at every
        size: 300 gives their answers.
      dtype: of compute; parameters and statistics are float32.
    """

    scale: Scale
    taps: tuple[str, ...]
    normalization: Normalization
    drop_connect: float
    static_pad: int | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, image: jax.Array, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Reads images.

        Args:
          image: [B, H, W, 1 or 3] float in [-1, 1], any size; each level's side is
            half of the one before, rounded up (with `static_pad`, as its padding
            makes it).
          train: statistics of the batch, their running averages updated in the
            collection `batch_stats`, which must be mutable; drop-connect, which needs
            a key `drop_connect` if its rate is above 0.

        Returns:
          The taps in their order (a jitted function returns them by name), in `dtype`:
          [B, H / stride, W / stride, channels], logits [B, 1000].

        Raises:
          ValueError: an unknown tap, or an image that fixed padding leaves nothing of.

        Source: the glomerulus specification, 2.6.
        """
        shape = expect_shape("EfficientNet", "image", image, "B H W C")
        last_tap("EfficientNet", self.taps, TAPS)
        found: dict[str, jax.Array] = {}
        for name, x in self._levels(normalize(image, self.normalization), train):
            if 0 in x.shape[1:]:
                raise UnalignedSizeError(
                    f"EfficientNet: an image of {shape[1]} x {shape[2]} with "
                    f"static_pad={self.static_pad} has no pixel left at {name}; give a "
                    "larger one, or static_pad=None."
                )
            found[name] = x
            if all(tap in found for tap in self.taps):
                break
        return {tap: found[tap] for tap in self.taps}

    def _levels(self, x: jax.Array, train: bool) -> Iterator[tuple[str, jax.Array]]:
        """Yields every tap; what is not asked for is not built."""
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=KERNEL_INIT, dtype=self.dtype
        )
        side = self.static_pad
        width = self.scale.width
        x = conv(
            scaled_features(B0_STEM, width),
            (3, 3),
            strides=2,
            padding=same_padding(side, 3, 2),
            name="conv_stem",
        )(x)
        x = nn.swish(batch_norm("bn0", train, self.dtype)(x))
        yield "skip1", x

        plan = stages(self.scale)
        total, number = sum(len(stage) for stage in plan), 0
        side = halved(side, 2)
        for position, stage in enumerate(plan, start=1):
            for block in stage:
                rate = self.drop_connect * number / total
                x = MBConv(block, rate, side, self.dtype, name=f"blocks_{number}")(
                    x, train=train
                )
                side, number = halved(side, block.stride), number + 1
            if position in SKIP_STAGES:
                yield SKIP_STAGES[position], x

        x = conv(scaled_features(B0_HEAD, width), (1, 1), name="conv_head")(x)
        x = nn.swish(batch_norm("bn1", train, self.dtype)(x))
        yield "features", x
        yield (
            "logits",
            nn.Dense(CLASSES, dtype=self.dtype, name="fc")(jnp.mean(x, axis=(1, 2))),
        )
