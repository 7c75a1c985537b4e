"""The glomerulus networks against our PyTorch ports, with converted random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.efficientnet import B3
from jaxinpaint.models import glomeruli, glomeruli_masks, glomeruli_segment
from jaxinpaint.models.glomeruli_swin import SwinUnet
from tests.compiling import quick
from tests.features.parity import MEAN, STD, images

torch = pytest.importorskip("torch")
from tests.ports import glomeruli as ports  # noqa: E402
from tests.ports.efficientnet import randomize  # noqa: E402
from tests.ports.glomeruli_swin import SwinUnet as SwinPort  # noqa: E402

F32 = jnp.dtype("float32")
RATES = (1, 2, 4, 8)
# Bounds are shares of the largest value. In training the gate's slope of ten enlarges
# rounding, as the specification's own tolerance for it says.
EVAL, TRAIN, GATED = 1e-4, 1e-4, 2e-3


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small cost more in waiting threads than in arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nchw(array):
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.from_numpy(np.float64(array))


def normalised(image):
    return ((image + 1) / 2 - MEAN) / STD


def settled(port, x):
    """Random weights that keep signals of order one on such an input."""
    torch.manual_seed(0)
    for module in port.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            with torch.no_grad():
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1)
    norms = [m for m in port.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [module.momentum for module in norms]
    port = randomize(port.double(), nchw(x), seed=1)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum  # which settling leaves as an EfficientNet has it
    return port


def shapes(tree):
    return jax.tree.map(np.shape, tree)


def expect_parity(net, port, arrays, theirs, train, bound):
    """One pass of both.

    Args:
      net: ours.
      port: settled, in float64.
      arrays: what ours takes.
      theirs: what the port takes, channels last.
      train: which pass.
      bound: of the difference, as a share of the largest value.
    """
    variables = ports.convert(port)
    init = functools.partial(net.init, train=False)
    made = jax.eval_shape(init, jax.random.key(0), *arrays)
    assert shapes(variables) == shapes(made)
    port.train(train)
    with torch.no_grad():
        want = port(nchw(theirs)).numpy()
    want = want.transpose(0, 2, 3, 1) if want.ndim == 4 else want
    apply = functools.partial(net.apply, train=train, mutable=["batch_stats"])
    got, new = quick(apply)(variables, *arrays)
    assert got.shape == want.shape
    assert 0.05 < want.std() < 10
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
    if train:
        # The means alone: torch's running variance is not that of the batch.
        after = ports.convert(port)["batch_stats"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(new["batch_stats"]):
            want = functools.reduce(lambda tree, key: tree[key.key], path, after)
            if path[-1].key == "mean":
                scale = np.abs(want).max()
                np.testing.assert_allclose(leaf, want, rtol=0, atol=bound * scale)


both = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])


@both
def test_generator(train):
    image, mask = images((2, 64, 72, 3)), np.zeros((2, 64, 72, 1), np.float32)
    mask[0, 10:40, 20:50], mask[1, 30:50, 8:60] = 1.0, 1.0
    joined = np.concatenate([image * (1 - mask), mask], axis=-1)
    net = glomeruli.Generator(8, 2, RATES, 100, False, F32)
    port = settled(ports.Generator(8, 2, RATES), joined)
    bound = GATED if train else EVAL
    expect_parity(net, port, (image, mask), joined, train, bound)


@both
@pytest.mark.parametrize(
    ("net", "make", "shape"),
    [
        (
            glomeruli.Discriminator((6, 7, 8, 7, 6, 1), F32),
            lambda: ports.Discriminator((6, 7, 8, 7, 6, 1)),
            (3, 128, 192, 3),
        ),
        (
            glomeruli_masks.MaskDiscriminator(5, F32),
            lambda: ports.MaskDiscriminator(5),
            (6, 64, 64, 3),
        ),
    ],
    ids=["Discriminator", "MaskDiscriminator"],
)
def test_discriminators(net, make, shape, train):
    image = images(shape)
    expect_parity(net, settled(make(), image), (image,), image, train, TRAIN)


@both
def test_mask_generator(train):
    latent = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    port = settled(ports.MaskGenerator(6, 10), latent[:, None, None])
    net = glomeruli_masks.MaskGenerator(6, 10, F32)
    expect_parity(net, port, (latent,), latent[:, None, None], train, TRAIN)


@pytest.mark.parametrize(
    ("static_pad", "train"), [(None, False), (None, True), (300, False)]
)
def test_efficientnet_b3_unet(static_pad, train):
    decoder, image = (16, 12, 9, 8, 6), images((2, 64, 96, 3))
    net = glomeruli_segment.EfficientUnet(B3, decoder, 0.0, static_pad, F32)
    port = ports.EfficientUnet(decoder, static_pad is not None)
    port = settled(port, normalised(image))
    expect_parity(net, port, (image,), normalised(image), train, TRAIN)


@both
@pytest.mark.parametrize("name", ["Unet", "UnetPlusPlus"])
def test_unets(name, train):
    widths, image = (5, 6, 7, 8, 4), images((2, 32, 64, 3))
    net = getattr(glomeruli_segment, name)(widths, F32)
    port = settled(getattr(ports, name)(widths), normalised(image))
    expect_parity(net, port, (image,), normalised(image), train, TRAIN)


@pytest.mark.parametrize("sides", [(64, 128), (128, 128)])
def test_swin_unet(sides):
    """At 64 pixels the coarsest map is one window high, and nothing shifts there."""
    depths, decoder_depths, heads = (2, 3, 2), (2, 1), (2, 3, 6)
    image = images((2, *sides, 3))
    net = SwinUnet(12, depths, decoder_depths, heads, 4, 0.0, F32)
    port = settled(SwinPort(12, depths, decoder_depths, heads, 4), normalised(image))
    expect_parity(net, port, (image,), normalised(image), False, EVAL)
