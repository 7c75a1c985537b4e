import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.inception import (
    INCEPTION_LAYERS,
    SIDE,
    TAPS,
    Inception,
    average_pool,
    resize_bilinear,
)
from jaxinpaint.features.normalization import IMAGENET, SIGNED
from tests.features import parity
from tests.features.parity import shapes


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def network(*taps, normalization=SIGNED, dtype=jnp.float32):
    return Inception(taps, normalization, dtype)


# torchvision publishes 27,161,264 for 1000 classes with an auxiliary head. That head
# is 1 x 1 768 -> 128 and 5 x 5 128 -> 768, each with a norm, and a linear layer of
# 769,000; the last layer is 2048 * 1000 + 1000.
AUXILIARY = 768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 769_000
TO_POOL3 = 27_161_264 - AUXILIARY - 2_049_000
# 3 x 3 convolutions 3 -> 32 -> 32 -> 64, a scale and a shift each.
TO_POOL1 = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)


@pytest.mark.parametrize(
    "tap, parameters, statistics",
    [
        ("pool1", TO_POOL1, 256),
        ("pool2", TO_POOL1 + 64 * 80 + 160 + 9 * 80 * 192 + 384, 800),
        # Keras, without scales: 21,768,352 trained, 34,432 stored.
        ("pool3", TO_POOL3, 34_432),
        ("logits", TO_POOL3 + 2048 * 1008 + 1008, 34_432),
    ],
)
def test_parameter_counts(tap, parameters, statistics):
    # An earlier tap adds nothing, in whatever order the two are asked for.
    _, variables = shapes(network(tap, "pool1"), 96, 96)
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert sizes == {"params": parameters, "batch_stats": statistics}


def test_the_count_to_pool3():
    assert TO_POOL3 == 21_785_568 == 21_768_352 + 34_432 // 2


def test_shapes_at_299():
    # Szegedy et al., Table 1, with torchvision's sizes.
    want = {
        "pool1": (73, 73, 64),
        "pool2": (35, 35, 192),
        "features768": (17, 17, 768),
        "pool3": (2048,),
        "logits": (1008,),
    }
    found, _ = shapes(network(*want), SIDE, SIDE)
    assert {tap: x.shape[1:] for tap, x in found.items()} == want


@pytest.fixture(scope="module")
def port():
    pytest.importorskip("torch")
    from tests.ports.inception import InceptionFID
    from tests.ports.layout import randomize
    from tests.ports.norms import randomize_norms

    return randomize_norms(randomize(InceptionFID(), 1), 2)


@pytest.fixture(scope="module")
def state(port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception")
    return parity.through_file(port, folder / "inception.pth")


@pytest.mark.parametrize("kind, bound", [("float32", 1e-4), ("float64", 1e-9)])
def test_every_tap_is_the_ports(port, state, kind, bound):
    variables = convert(state, INCEPTION_LAYERS)
    image = parity.images((1, 96, 111, 3), kind)
    wants = parity.theirs(port, port, image)
    assert wants.keys() == set(TAPS)
    found = parity.ours(network(*TAPS, dtype=jnp.dtype(kind)), variables, image)
    parity.expect_same(found, wants, bound)


def test_there_and_back(state):
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert state["fc.weight"].shape == (1008, 2048)  # pytorch-fid: 1008 classes
    tensors = {k: v for k, v in state.items() if "num_batches" not in k}
    variables = convert(state, INCEPTION_LAYERS)
    back = foreign(variables, INCEPTION_LAYERS)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    _, template = shapes(network("logits"), 96, 96)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, template)


def test_another_inception_is_refused(state):
    state = dict(state)
    state["AuxLogits.fc.bias"] = np.zeros(1000, np.float32)  # torchvision's own file
    with pytest.raises(ValueError, match=r"unused AuxLogits\.fc\.bias"):
        convert(state, INCEPTION_LAYERS)


def test_average_leaves_padding_out():
    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)  # 1 2 3 / 4 5 6
    want = [[3.0, 3.5, 4.0], [3.0, 3.5, 4.0]]
    np.testing.assert_allclose(average_pool(x)[0, ..., 0], want, rtol=1e-6)
    one = jnp.full((2, 1, 1, 3), 5.0)
    np.testing.assert_allclose(average_pool(one), one, rtol=1e-6)
    tall = jnp.arange(1.0, 4.0).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(average_pool(tall).ravel(), [1.5, 2, 2.5], rtol=1e-6)


def line(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


@pytest.mark.parametrize(
    "values, width, want",
    [
        # Enlarged: y = -0.25, 0.25, 0.75, 1.25, edges repeated.
        ([0, 8], 4, [0, 2, 6, 8]),
        # Shrunk by 4: y = 1.5 and 5.5, two pixels of four alone.
        ([0, 8, 0, 0, 0, 0, 8, 8], 2, [4, 4]),
        # By 3: y = 1 and 4, one pixel of three.
        ([9, 0, 9, 9, 6, 9], 2, [0, 6]),
    ],
)
def test_resize_by_hand(values, width, want):
    got = resize_bilinear(line(*values), 1, width)
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-6, atol=1e-6)
    turned = resize_bilinear(line(*values).swapaxes(1, 2), width, 1)
    np.testing.assert_allclose(turned.ravel(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "sides, size",
    [
        ((64, 64), (SIDE, SIDE)),
        ((512, 400), (SIDE, SIDE)),
        ((37, 1000), (SIDE, SIDE)),
        ((1, 3), (5, 2)),
    ],
)
def test_resize_is_torchs(sides, size):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).uniform(0, 1, (2, *sides, 3)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(0, 3, 1, 2).copy()),
        size=size,
        mode="bilinear",
        align_corners=False,
    )
    got = resize_bilinear(jnp.asarray(image), *size)
    assert got.dtype == jnp.float32
    want = want.numpy().transpose(0, 2, 3, 1)
    # Positions near 1000 are known to 6e-5 of a pixel in float32.
    np.testing.assert_allclose(got, want, atol=2e-4 if max(sides) > 500 else 3e-5)


def test_resize_keeps_its_size_and_range():
    image = jax.random.uniform(jax.random.key(0), (1, 20, 30, 1))
    np.testing.assert_array_equal(resize_bilinear(image, 20, 30), image)
    ones = resize_bilinear(jnp.ones((1, 13, 7, 1)), SIDE, 5)
    np.testing.assert_allclose(ones, 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="image must be .B, H, W, C., got .20, 30, 1."):
        resize_bilinear(image[0], SIDE, SIDE)
    with pytest.raises(ValueError, match="float32 or float64, got uint8"):
        resize_bilinear(np.zeros((1, 8, 8, 3), np.uint8), SIDE, SIDE)


@pytest.fixture(scope="module")
def stem():
    return parity.drawn(network("pool1"), 17)


def run(variables, image, **fields):
    found = jax.jit(network("pool1", **fields).apply)(variables, image)
    return np.asarray(found["pool1"])


def test_grey_is_three_equal_channels(stem):
    variables, image = stem
    grey = image[..., :1]
    one, three = run(variables, grey), run(variables, grey.repeat(3, axis=-1))
    assert np.abs(one).max() > 0.1
    np.testing.assert_array_equal(one, three)


def test_the_normalization_is_the_fields(stem):
    """Mapped by hand to what IMAGENET gives, SIGNED sees the same."""
    variables, image = stem
    want = run(variables, parity.imagenet(image))
    got = run(variables, image, normalization=IMAGENET)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
    assert np.abs(got - run(variables, image)).max() > 0.1


def test_bfloat16_is_close(stem):
    parity.expect_close_in_bfloat16(lambda dtype: run(*stem, dtype=dtype))


def test_the_order_is_that_of_taps():
    taps = ("pool2", "pool1")
    assert parity.order_of_taps(network(*taps), 27) == list(taps)


def sides_after(side):
    """Rows that each tap has of `side` rows, windows all inside."""
    halved = lambda n: (n - 3) // 2 + 1
    pool1 = halved(halved(side) - 2)
    pool2 = halved(pool1 - 2)
    mixed_7a = halved(halved(pool2))
    sides = [pool1, pool2, halved(pool2), mixed_7a, mixed_7a]
    return dict(zip(TAPS, sides, strict=True))


@pytest.mark.parametrize(
    "tap, least",
    # torchvision: min_size of the whole network 75
    [("pool1", 11), ("pool2", 27), ("features768", 43), ("pool3", 75), ("logits", 75)],
)
def test_least_size(tap, least):
    assert [sides_after(least - 1)[tap], sides_after(least)[tap]] == [0, 1]
    found, _ = shapes(network(tap), least + 9, least)
    if found[tap].ndim == 4:
        sides = sides_after(least + 9)[tap], sides_after(least)[tap]
        assert found[tap].shape[1:3] == sides
    message = f"{tap} needs sides of at least {least}, got 99 x {least - 1}"
    with pytest.raises(ValueError, match=message):
        shapes(network(tap), 99, least - 1)


def test_wrong_taps():
    with pytest.raises(ValueError, match="pool1, pool2, .*logits; got pool4"):
        shapes(network("pool1", "pool4"), 99, 99)
    with pytest.raises(ValueError, match="got none"):
        shapes(network(), 99, 99)
