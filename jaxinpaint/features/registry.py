"""Public weight files: what they hold, where they are, how their names map to ours.

Data alone, no network access: a person gets a file, or asks `jaxinpaint weights import
--download` to. Sizes and digests are those of the public files; torchvision,
pytorch-fid and EfficientNet-PyTorch put the first eight digits into the file name.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.system import Tree
from jaxinpaint.features.alexnet import ALEXNET_LAYERS, AlexNet
from jaxinpaint.features.convert import Layer
from jaxinpaint.features.densenet import DENSENET121, DenseNet, densenet121_layers
from jaxinpaint.features.efficientnet import B3, EfficientNet, public_layers
from jaxinpaint.features.inception import INCEPTION_LAYERS, Inception
from jaxinpaint.features.normalization import IMAGENET, SIGNED
from jaxinpaint.features.vgg import VGG, VGG16, VGG19, vgg_layers


class Entry(NamedTuple):
    """One public weight file.

    Attributes:
      what: the network and what it was trained on.
      uses: systems, stages and metrics that read it.
      file: its public name.
      urls: addresses of the same file, the publisher's first.
      size: in bytes; None where it is not known.
      sha256: its digest, or the first digits of it; None where none is published.
      licence: of the project that publishes it, and what that says of the weights.
      layers: names in a file -> the table that `convert.convert` takes.
      ignored: as `convert.convert` takes.
      shapes: -> variables of the whole network, as `jax.ShapeDtypeStruct`.
    """

    what: str
    uses: tuple[str, ...]
    file: str
    urls: tuple[str, ...]
    size: int | None
    sha256: str | None
    licence: str
    layers: Callable[[Collection[str]], tuple[Layer, ...]]
    ignored: tuple[str, ...]
    shapes: Callable[[], Tree]


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
      ValueError: there is none; lists the names.
    """
    if name not in WEIGHTS:
        raise ValueError(
            f"There are no weights {name!r}; the names are {list(WEIGHTS)}."
        )
    return WEIGHTS[name]


def shapes_of(network: nn.Module, side: int) -> Tree:
    """Shapes of a network's variables, from an image of side x side pixels."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)


_TORCHVISION = "https://download.pytorch.org/models/"
_TORCHVISION_LICENCE = "BSD-3-Clause (torchvision); none stated for the weights"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
_LPIPS_AT = "082bb24f84c091ea94de2867d34c4544f68e0963/"  # the same files, for good
_WHOLE = ("logits",)

ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
VGG16_CHANNELS = (64, 128, 256, 512, 512)
LPIPS_LAYERS = tuple(Layer(f"lin{i}.model.1", f"lin{i}", "conv") for i in range(5))
"""The learned layers of LPIPS 0.1, for either trunk; they have no bias."""


def _vgg(blocks: tuple[int, ...]) -> Tree:
    return shapes_of(VGG(blocks, _WHOLE, IMAGENET, jnp.float32), 224)


def _lpips_shapes(widths: tuple[int, ...]) -> Tree:
    kernels = {
        f"lin{i}": {"kernel": jax.ShapeDtypeStruct((1, 1, width, 1), jnp.float32)}
        for i, width in enumerate(widths)
    }
    return {"params": kernels}


WEIGHTS: Mapping[str, Entry] = {
    "vgg16": Entry(
        what="VGG16, ImageNet-1k",
        uses=("rnon repair", "flowinpaint refine", "lpips_vgg"),
        file="vgg16-397923af.pth",
        urls=(f"{_TORCHVISION}vgg16-397923af.pth",),
        size=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        licence=_TORCHVISION_LICENCE,
        layers=lambda names: vgg_layers(VGG16),
        ignored=(),
        shapes=lambda: _vgg(VGG16),
    ),
    "vgg19": Entry(
        what="VGG19, ImageNet-1k",
        uses=("ipa_medgan", "glomeruli inpaint", "rnon optimize"),
        file="vgg19-dcbb9e9d.pth",
        urls=(f"{_TORCHVISION}vgg19-dcbb9e9d.pth",),
        size=574_673_361,
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        licence=_TORCHVISION_LICENCE,
        layers=lambda names: vgg_layers(VGG19),
        ignored=(),
        shapes=lambda: _vgg(VGG19),
    ),
    "alexnet": Entry(
        what="AlexNet, ImageNet-1k",
        uses=("lpips",),
        file="alexnet-owt-7be5be79.pth",
        urls=(f"{_TORCHVISION}alexnet-owt-7be5be79.pth",),
        size=244_408_911,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        licence=_TORCHVISION_LICENCE,
        layers=lambda names: ALEXNET_LAYERS,
        ignored=(),
        shapes=lambda: shapes_of(AlexNet(_WHOLE, IMAGENET, jnp.float32), 224),
    ),
    "densenet121": Entry(
        what="DenseNet-121, ImageNet-1k",
        uses=("rnon repair", "rnon optimize"),
        file="densenet121-a639ec97.pth",
        urls=(f"{_TORCHVISION}densenet121-a639ec97.pth",),
        size=32_342_954,
        sha256="a639ec97d7c33b07ae66f0b5fb7d0192f95a3b11b7576c66c0126c2a727c4395",
        licence=_TORCHVISION_LICENCE,
        layers=densenet121_layers,
        ignored=(),
        shapes=lambda: shapes_of(
            DenseNet(DENSENET121, _WHOLE, IMAGENET, jnp.float32), 224
        ),
    ),
    "inception_fid": Entry(
        what="Inception v3 of 2015 (TensorFlow's graph of the Frechet distance)",
        uses=("fid",),
        file="pt_inception-2015-12-05-6726825d.pth",
        urls=(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        size=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        licence="Apache-2.0 (pytorch-fid)",
        layers=lambda names: INCEPTION_LAYERS,
        ignored=(),
        shapes=lambda: shapes_of(Inception(_WHOLE, SIGNED, jnp.float32), 299),
    ),
    "efficientnet_b3": Entry(
        what="EfficientNet-B3, ImageNet-1k",
        uses=("glomeruli segment",),
        file="efficientnet-b3-5fb5a3c3.pth",
        urls=(
            "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/"
            "efficientnet-b3-5fb5a3c3.pth",
        ),
        size=None,
        sha256="5fb5a3c3f1d45062d3d3dbe770f1a7daf78eed140f1c092cceef9ab79677d08e",
        licence="Apache-2.0 (EfficientNet-PyTorch)",
        layers=lambda names: public_layers(B3),
        ignored=(),
        shapes=lambda: shapes_of(
            EfficientNet(B3, _WHOLE, IMAGENET, 0.0, None, jnp.float32), 300
        ),
    ),
    "lpips_alex": Entry(
        what="linear layers of LPIPS 0.1 on AlexNet",
        uses=("lpips",),
        file="alex.pth",
        urls=(
            f"{_LPIPS}master/lpips/weights/v0.1/alex.pth",
            f"{_LPIPS}{_LPIPS_AT}lpips/weights/v0.1/alex.pth",
        ),
        size=6_009,
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        licence="BSD-2-Clause (PerceptualSimilarity)",
        layers=lambda names: LPIPS_LAYERS,
        ignored=(),
        shapes=lambda: _lpips_shapes(ALEXNET_CHANNELS),
    ),
    "lpips_vgg": Entry(
        what="linear layers of LPIPS 0.1 on VGG16",
        uses=("lpips_vgg",),
        file="vgg.pth",
        urls=(
            f"{_LPIPS}master/lpips/weights/v0.1/vgg.pth",
            f"{_LPIPS}{_LPIPS_AT}lpips/weights/v0.1/vgg.pth",
        ),
        size=7_289,
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        licence="BSD-2-Clause (PerceptualSimilarity)",
        layers=lambda names: LPIPS_LAYERS,
        ignored=(),
        shapes=lambda: _lpips_shapes(VGG16_CHANNELS),
    ),
}
