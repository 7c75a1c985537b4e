"""DenseNet with stored statistics, cut behind the last tensor that is wanted.

Source: Huang et al., Densely Connected Convolutional Networks, 2017, Table 1, as
torchvision's public weights have it; tensors and parts carry Keras' names
("conv2_block1", "pool2_conv"), which RNON cites (RNON specification 3.1).
"""

from collections.abc import Collection, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.features.convert import Layer
from jaxinpaint.features.normalization import Normalization, normalize
from jaxinpaint.features.taps import expect_least, last_tap
from jaxinpaint.ops.filters import block_mean

DENSENET121 = (6, 12, 24, 16)  # dense layers in each block
GROWTH = 32  # channels that a dense layer adds; DenseNet-121, 169 and 201
BOTTLENECK = 4 * GROWTH
STEM = 64
CLASSES = 1000
EPSILON = 1e-5
HE = nn.initializers.he_normal()

# Foreign names of the parts of a dense layer: torchvision's modules today, and the
# public files, which were saved when names could hold a dot.
TODAY = ("norm1", "conv1", "norm2", "conv2")
PUBLIC_FILE = ("norm.1", "conv.1", "norm.2", "conv.2")
DENSE_LAYER = (  # ours, in the same order
    ("bn1", "batch_norm"),
    ("conv1", "conv"),
    ("bn2", "batch_norm"),
    ("conv2", "conv"),
)


def stages(blocks: tuple[int, ...]) -> range:
    """Keras' numbers of the dense blocks: 2, 3, ...; the stem is 1."""
    return range(2, len(blocks) + 2)


def densenet_taps(blocks: tuple[int, ...]) -> tuple[str, ...]:
    """Every tensor that can be asked for, in the order of the network."""
    pools = [
        f"pool{n}_{part}" for n in stages(blocks)[:-1] for part in ("conv", "pool")
    ]
    return ("conv1_relu", *pools, f"relu{len(blocks) + 1}", "logits")


def least_size(blocks: tuple[int, ...], tap: str) -> int:
    """Least height and width of an image that leaves `tap` a pixel.

    The stem halves twice and rounds up, each transition halves and rounds down.
    """
    names = densenet_taps(blocks)
    before = names[: names.index(tap) + 1]
    return 2 ** (2 + sum(name.endswith("_pool") for name in before)) - 3


def _conv(
    name: str, features: int, size: int, dtype: jnp.dtype, stride: int = 1
) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=HE,
        dtype=dtype,
        name=name,
    )


def _norm(name: str, dtype: jnp.dtype) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=True, epsilon=EPSILON, dtype=dtype, name=name
    )


class DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1 convolution; norm, ReLU, 3 x 3; joined to what came in."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C + 32], the new channels last."""
        y = nn.relu(_norm("bn1", self.dtype)(x))
        y = _conv("conv1", BOTTLENECK, 1, self.dtype)(y)
        y = nn.relu(_norm("bn2", self.dtype)(y))
        y = _conv("conv2", GROWTH, 3, self.dtype)(y)
        return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU and the 1 x 1 convolution that halves the channels."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C / 2]; the average pooling is not in it."""
        x = nn.relu(_norm("bn", self.dtype)(x))
        return _conv("conv", x.shape[-1] // 2, 1, self.dtype)(x)


class DenseNet(nn.Module):
    """DenseNet of growth 32; nothing behind the last tap is built.

    Attributes:
      blocks: dense layers in each block, such as DENSENET121.
      taps: wanted tensors: "conv1_relu", the stem before its max pooling;
        "pool{n}_conv" and "pool{n}_pool", a transition's convolution and its end;
        "relu5", the last norm and ReLU; "logits" of 1000 classes.
      normalization: the levels the weights were trained on; IMAGENET for the
        public ones.
      dtype: of the computation and the tensors; parameters are float32.
    """

    blocks: tuple[int, ...]
    taps: tuple[str, ...]
    normalization: Normalization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Tensors of an image, with stored statistics.

        Args:
          image: [B, H, W, 1 or 3] float in [-1, 1].

        Returns:
          Every tap by name, in the order of `taps` (jit sorts them). Rounded as in
          `least_size`: "conv1_relu" [B, H/2, W/2, 64], "pool2_conv"
          [B, H/4, W/4, 128], "pool2_pool" [B, H/8, W/8, 128], "pool3_pool"
          [B, H/16, W/16, 256], "pool4_pool" [B, H/32, W/32, 512], "relu5"
          [B, H/32, W/32, 1024] for DenseNet-121; "logits" [B, 1000].

        Raises:
          ShapeMismatchError: neither one nor three channels.
          UnalignedSizeError: a side too small for the last tap.
          ValueError: no taps, or an unknown one.

        Source: Huang et al. 2017, Table 1.
        """
        known = densenet_taps(self.blocks)
        last = known[last_tap("DenseNet", self.taps, known)]
        expect_least("DenseNet", image, least_size(self.blocks, last), last)
        found = {}
        for name, tensor in self._tensors(normalize(image, self.normalization)):
            found[name] = tensor
            if name == last:
                break
        return {name: found[name] for name in self.taps}

    def _tensors(self, x: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Builds the network as far as it is drawn from."""
        x = _conv("conv1_conv", STEM, 7, self.dtype, stride=2)(x)
        x = nn.relu(_norm("conv1_bn", self.dtype)(x))
        yield "conv1_relu", x
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for n, count in zip(stages(self.blocks), self.blocks, strict=True):
            if n > 2:
                x = Transition(self.dtype, name=f"pool{n - 1}")(x)
                yield f"pool{n - 1}_conv", x
                x = block_mean(x, 2)
                yield f"pool{n - 1}_pool", x
            for i in range(1, count + 1):
                x = DenseLayer(self.dtype, name=f"conv{n}_block{i}")(x)
        x = nn.relu(_norm("bn", self.dtype)(x))
        yield f"relu{len(self.blocks) + 1}", x
        logits = nn.Dense(CLASSES, dtype=self.dtype, name="fc1000")
        yield "logits", logits(jnp.mean(x, axis=(1, 2)))


def densenet_layers(
    blocks: tuple[int, ...], parts: tuple[str, str, str, str]
) -> tuple[Layer, ...]:
    """Torchvision's modules of a DenseNet, all of them, and ours.

    Args:
      blocks: as in `DenseNet`.
      parts: names of the four parts of a dense layer, TODAY or PUBLIC_FILE.
    """
    layers = [
        Layer("features.conv0", "conv1_conv", "conv"),
        Layer("features.norm0", "conv1_bn", "batch_norm"),
    ]
    for b, count in enumerate(blocks, start=1):
        for i in range(1, count + 1):
            theirs = f"features.denseblock{b}.denselayer{i}"
            layers += [
                Layer(f"{theirs}.{part}", f"conv{b + 1}_block{i}/{ours}", kind)
                for part, (ours, kind) in zip(parts, DENSE_LAYER, strict=True)
            ]
        if b < len(blocks):
            theirs = f"features.transition{b}"
            layers += [
                Layer(f"{theirs}.norm", f"pool{b + 1}/bn", "batch_norm"),
                Layer(f"{theirs}.conv", f"pool{b + 1}/conv", "conv"),
            ]
    return (
        *layers,
        Layer(f"features.norm{len(blocks) + 1}", "bn", "batch_norm"),
        Layer("classifier", "fc1000", "linear"),
    )


DENSENET121_LAYERS = densenet_layers(DENSENET121, TODAY)
DENSENET121_FILE_LAYERS = densenet_layers(DENSENET121, PUBLIC_FILE)


def densenet121_layers(names: Collection[str]) -> tuple[Layer, ...]:
    """The table for a file that holds these names, in either spelling.

    Returns:
      DENSENET121_FILE_LAYERS for the public file of torchvision, where a dense layer
      holds "norm.1" and so on; otherwise DENSENET121_LAYERS.
    """
    old = any(f".{part}." in name for name in names for part in PUBLIC_FILE)
    return DENSENET121_FILE_LAYERS if old else DENSENET121_LAYERS
