import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.densenet import (
    DENSENET121,
    DENSENET121_FILE_LAYERS,
    DENSENET121_LAYERS,
    DenseNet,
    densenet121_layers,
)
from jaxinpaint.features.normalization import IMAGENET, SIGNED
from tests.features import parity
from tests.features.parity import shapes

TAPS = (
    "conv1_relu",
    *("pool2_conv", "pool2_pool", "pool3_conv", "pool3_pool"),
    *("pool4_conv", "pool4_pool", "relu5", "logits"),
)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def network(*taps, normalization=IMAGENET, dtype=jnp.float32):
    return DenseNet(DENSENET121, taps, normalization, dtype)


@pytest.mark.parametrize(
    "tap, parameters, statistics",
    [
        ("conv1_relu", 9_536, 128),  # 7 * 7 * 3 * 64 + 2 * 64
        ("pool2_conv", 377_856, None),  # RNON specification 2.7
        ("pool2_pool", 377_856, None),
        ("pool3_pool", 1_429_632, None),
        ("relu5", 7_978_856 - 1_025_000, 83_648),  # Keras: 83,648 not trainable
        ("logits", 7_978_856, 83_648),  # torchvision: num_params
    ],
)
def test_parameter_counts(tap, parameters, statistics):
    # An earlier tap adds nothing, in whatever order the two are asked for.
    _, variables = shapes(network(tap, "conv1_relu"), 64, 64)
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert sizes["params"] == parameters
    assert statistics is None or sizes["batch_stats"] == statistics


def test_shapes_at_256():
    # RNON specification 3.1, and Huang et al., Table 1.
    want = {
        "pool3_pool": (16, 16, 256),
        "conv1_relu": (128, 128, 64),
        "pool2_conv": (64, 64, 128),
        "pool2_pool": (32, 32, 128),
        "pool4_pool": (8, 8, 512),
        "relu5": (8, 8, 1024),
        "logits": (1000,),
    }
    found, _ = shapes(network(*want), 256, 256)
    assert {tap: x.shape[1:] for tap, x in found.items()} == want


@pytest.fixture(scope="module")
def port():
    pytest.importorskip("torch")
    from tests.ports.densenet import DenseNet121
    from tests.ports.layout import randomize
    from tests.ports.norms import randomize_norms

    return randomize_norms(randomize(DenseNet121(), 1), 2)


@pytest.fixture(scope="module")
def state(port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("densenet")
    return parity.through_file(port, folder / "densenet.pth")


def today(name):
    """Today's name in torchvision, of one in the public file."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


@pytest.mark.parametrize("kind, bound", [("float32", 1e-4), ("float64", 1e-9)])
def test_every_tap_is_the_ports(port, state, kind, bound):
    variables = convert(state, DENSENET121_FILE_LAYERS)
    image = parity.images((2, 64, 45, 3), kind)
    wants = parity.theirs(port, port, parity.imagenet(image))
    assert wants.keys() == set(TAPS)
    found = parity.ours(network(*TAPS, dtype=jnp.dtype(kind)), variables, image)
    parity.expect_same(found, wants, bound)


def test_both_spellings_there_and_back(state):
    old = {k: v for k, v in state.items() if "num_batches" not in k}
    assert "features.denseblock4.denselayer16.norm.2.running_var" in old
    new = {today(name): tensor for name, tensor in old.items()}
    assert "features.denseblock4.denselayer16.norm2.running_var" in new
    assert densenet121_layers(old) is DENSENET121_FILE_LAYERS
    assert densenet121_layers(new) is DENSENET121_LAYERS
    variables = convert(old, DENSENET121_FILE_LAYERS)
    again = convert(new, DENSENET121_LAYERS)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    for tensors, layers in ((old, DENSENET121_FILE_LAYERS), (new, DENSENET121_LAYERS)):
        back = foreign(variables, layers)
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(back[name], tensor)
    # Nothing of ours is missing or left over either.
    _, template = shapes(network("logits"), 64, 64)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, template)


def test_a_mixed_file_is_refused(state):
    state = dict(state)
    tensor = state.pop("features.denseblock2.denselayer3.conv.1.weight")
    state["features.denseblock2.denselayer3.conv1.weight"] = tensor
    with pytest.raises(ValueError, match=r"conv\.1\.weight; unused .*conv1\.weight"):
        convert(state, densenet121_layers(state))


@pytest.fixture(scope="module")
def stem():
    return parity.drawn(network("conv1_relu"), 16)


def run(variables, image, **fields):
    found = jax.jit(network("conv1_relu", **fields).apply)(variables, image)
    return np.asarray(found["conv1_relu"])


def test_grey_is_three_equal_channels(stem):
    variables, image = stem
    grey = image[..., :1]
    one, three = run(variables, grey), run(variables, grey.repeat(3, axis=-1))
    assert np.abs(one).max() > 0.1
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("normalization", [IMAGENET, SIGNED])
def test_the_normalization_is_the_fields(stem, normalization):
    """Conv1 of a constant image, far from the border, by hand."""
    variables, _ = stem
    colour = np.array([0.5, -0.25, 1.0])
    image = np.broadcast_to(colour.astype(np.float32), (1, 24, 24, 3))
    got = run(variables, image, normalization=normalization)[0, 6, 6]
    levels = parity.imagenet(colour) if normalization == IMAGENET else colour
    of = {**variables["params"]["conv1_bn"], **variables["batch_stats"]["conv1_bn"]}
    scale, shift, mean, var = (
        np.asarray(of[name], np.float64) for name in ("scale", "bias", "mean", "var")
    )
    kernel = np.asarray(variables["params"]["conv1_conv"]["kernel"], np.float64)
    want = np.einsum("hwio,i->o", kernel, levels) - mean
    want = want / np.sqrt(var + 1e-5) * scale + shift
    np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-5, atol=1e-4)


def test_bfloat16_is_close(stem):
    parity.expect_close_in_bfloat16(lambda dtype: run(*stem, dtype=dtype))


def test_the_order_is_that_of_taps():
    taps = ("pool2_conv", "conv1_relu")
    assert parity.order_of_taps(network(*taps), 16) == list(taps)


@pytest.mark.parametrize(
    "tap, least, pools",
    [
        ("conv1_relu", 1, 0),
        ("pool2_conv", 1, 0),
        ("pool2_pool", 5, 1),
        ("pool3_conv", 5, 1),
        ("pool3_pool", 13, 2),
        ("pool4_pool", 29, 3),  # torchvision: min_size of the whole network
        ("relu5", 29, 3),
        ("logits", 29, 3),
    ],
)
def test_least_size(tap, least, pools):
    # Halved twice, rounded up, then by each transition, rounded down.
    after = lambda side: (side + 3) // 4 // 2**pools
    assert [after(least - 1), after(least)] == [0, 1]
    found, _ = shapes(network(tap), 64, least)
    if found[tap].ndim == 4:
        assert found[tap].shape[2] == 1
    message = f"{tap} needs sides of at least {least}, got 64 x {least - 1}"
    with pytest.raises(ValueError, match=message):
        shapes(network(tap), 64, least - 1)


def test_wrong_taps():
    with pytest.raises(ValueError, match="pool2_conv, .*logits; got pool5_conv"):
        shapes(network("conv1_relu", "pool5_conv"), 64, 64)
    with pytest.raises(ValueError, match="got none"):
        shapes(network(), 64, 64)
