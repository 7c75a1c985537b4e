import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.efficientnet import B3, Scale
from jaxinpaint.models.glomeruli_segment import (
    EfficientUnet,
    RisenConv,
    Unet,
    UnetPlusPlus,
    enlarge,
)
from tests.compiling import quick
from tests.features import hashed
from tests.features.parity import MEAN, STD

F32, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")
WIDTHS = (32, 64, 128, 256, 512)
DECODER = (256, 128, 64, 32, 16)
TINY = Scale(width=0.2, depth=0.2)  # one block a stage, 8 to 64 channels
UNETS = [Unet, UnetPlusPlus]


def b3(**changed):
    fields = {"scale": B3, "decoder": DECODER, "drop_connect": 0.2}
    return EfficientUnet(**(fields | {"static_pad": None, "dtype": F32} | changed))


def tiny(**changed):
    return b3(**({"scale": TINY, "decoder": (8, 7, 6, 5, 4)} | changed))


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract(net, image):
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), image)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def before_normalising(levels):
    """The image in [-1, 1] or beyond that a network normalises to these levels."""
    return np.float32(2 * (levels * STD + MEAN) - 1)


def run(net, image):
    variables = hashed.variables(abstract(net, image))
    with jax.default_matmul_precision("highest"):
        apply = quick(functools.partial(net.apply, train=False))
        return np.asarray(apply(variables, image))


# ---- parameters ----


def test_parameters_of_the_paper_s_network():
    found = abstract(b3(), spec(1, 1024, 1024, 3))
    assert count(found["params"]) == 12_566_282
    assert count(found["batch_stats"]) == 86_208
    parts = {name: count(layer) for name, layer in found["params"].items()}
    assert parts == {
        "encoder": 10_103_336,
        "decode1": 1_788_928,
        "decode2": 498_176,
        "decode3": 129_280,
        "decode4": 39_296,
        "decode5": 6_976,
        "head": 290,
    }
    assert "conv_head" not in found["params"]["encoder"]


@pytest.mark.parametrize(
    ("make", "parameters"), [(Unet, 7_852_578), (UnetPlusPlus, 9_163_362)]
)
def test_parameters_of_the_others(make, parameters):
    net = make(WIDTHS, F32)
    image = spec(1, 1024, 1024, 3)
    found = abstract(net, image)
    assert count(found["params"]) == parameters
    logits = jax.eval_shape(functools.partial(net.apply, train=False), found, image)
    assert (logits.shape, logits.dtype) == ((1, 1024, 1024, 2), F32)


# ---- the specification's check values (10.2) ----

# Its image is what the first layer reads, so that ours has to be found backwards.
CHECKS = [
    (
        b3(),
        (0.174196, 0.234578, -0.597720, 1.009033, 1e-4),
        [0.215871, 0.322730],
    ),
    (
        Unet(WIDTHS, F32),
        (0.403539, 0.411803, -0.906496, 1.773142, 1e-4),
        [0.104176, 0.430450],
    ),
    (
        UnetPlusPlus(WIDTHS, F32),
        (0.122524, 0.363883, -1.085833, 1.248097, 1e-4),
        [0.127670, 0.445615],
    ),
]


@pytest.mark.parametrize(
    ("net", "summary", "middle"), CHECKS, ids=lambda x: type(x).__name__
)
def test_check_values_of_the_specification(net, summary, middle):
    got = run(net, before_normalising(hashed.image((1, 64, 64, 3))))
    assert got.shape == (1, 64, 64, 2)
    hashed.expect_summary(got, *summary)
    np.testing.assert_allclose(got[0, 32, 32], middle, atol=1e-4)
    if isinstance(net, EfficientUnet):
        np.testing.assert_allclose(got[0, 0, 0], [0.065990, 0.051451], atol=1e-4)


# ---- parts ----


@pytest.mark.parametrize("sides", [(1, 2), (3, 5), (8, 4)])
def test_enlargement_keeps_the_corners(sides):
    x = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype(np.float32)
    h, w = sides
    want = np.zeros((2, 2 * h, 2 * w, 3))
    for i in range(2 * h):
        for j in range(2 * w):
            y, z = i * (h - 1) / (2 * h - 1), j * (w - 1) / (2 * w - 1)
            for row in range(h):
                for column in range(w):
                    near = max(0, 1 - abs(y - row)) * max(0, 1 - abs(z - column))
                    want[:, i, j] += near * x[:, row, column]
    got = np.asarray(enlarge(x))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(got[:, *corner], x[:, *corner], rtol=1e-6)


@pytest.mark.parametrize("channels", [0, 2])
def test_risen_convolution_is_that_of_the_concatenated_map(channels):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 4, 6, 3)).astype(np.float32)
    skip = draw.normal(size=(2, 8, 12, channels)).astype(np.float32)
    net = RisenConv(5, F32)
    read = skip if channels else None
    variables = net.init(jax.random.key(0), x, read)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (3, 3, 3 + channels, 5)
    joined = np.concatenate([x.repeat(2, axis=1).repeat(2, axis=2), skip], axis=-1)
    padded = np.pad(joined, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = np.zeros((2, 8, 12, 5))
    for i in range(3):
        for j in range(3):
            want += padded[:, i : i + 8, j : j + 12] @ kernel[i, j]
    np.testing.assert_allclose(net.apply(variables, x, read), want, atol=1e-5)


def test_initial_values_of_the_decoder():
    """He-uniform in the decoder, Glorot-uniform in the head, biases 0."""
    image = np.zeros((1, 32, 32, 3), np.float32)
    net = tiny(decoder=(32, 32, 32, 32, 32))
    init = quick(functools.partial(net.init, train=False))
    made = init(jax.random.key(0, impl="rbg"), image)["params"]
    for name, kernel, bound in [
        ("conv1", made["decode2"]["conv1"]["kernel"], None),
        ("conv2", made["decode4"]["conv2"]["kernel"], None),
        ("head", made["head"]["kernel"], np.sqrt(6 / (9 * 32 + 9 * 2))),
    ]:
        bound = bound or np.sqrt(6 / np.prod(kernel.shape[:-1]))
        assert 0.95 * bound < np.abs(kernel).max() <= bound, name
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.05), name
    assert not np.any(made["head"]["bias"])


# ---- whole networks ----


NETS = [tiny(), Unet((4, 5, 6), F32), UnetPlusPlus((4, 5, 6), F32)]
each = pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)


@each
def test_training_normalises_by_the_batch(net):
    """Not one image alone, and the running statistics follow."""
    image = hashed.image((3, 32, 64, 3))
    variables = hashed.variables(abstract(net, image))
    rngs = {"drop_connect": jax.random.key(0)}

    @quick
    def train(image):
        kwargs = {"train": True, "mutable": ["batch_stats"], "rngs": rngs}
        return net.apply(variables, image, **kwargs)

    (whole, new), (part, _) = train(image), train(image[:2])
    assert np.abs(whole[:2] - part).max() > 1e-3
    old = jax.tree.leaves(variables["batch_stats"])
    for before, after in zip(old, jax.tree.leaves(new["batch_stats"]), strict=True):
        assert np.any(before != after)


@each
def test_an_image_is_judged_alone(net):
    image = hashed.image((2, 32, 64, 3))
    variables = hashed.variables(abstract(net, image))
    judge = quick(functools.partial(net.apply, train=False))
    want, got = judge(variables, image), judge(variables, -image * [[[[1]]], [[[-1]]]])
    np.testing.assert_array_equal(got[1], want[1])
    assert np.abs(got[0] - want[0]).max() > 1e-3


def test_the_key_decides_which_branches_are_dropped():
    net = tiny(scale=Scale(width=0.2, depth=0.6), drop_connect=0.9)
    image = np.repeat(hashed.image((1, 32, 32, 3)), 8, axis=0)
    variables = hashed.variables(abstract(net, image))

    @quick
    def train(key):
        kwargs = {"train": True, "mutable": ["batch_stats"]}
        return net.apply(variables, image, rngs={"drop_connect": key}, **kwargs)[0]

    one, again, other = (np.asarray(train(jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: tiny(dtype=dtype),
        lambda dtype: Unet((8, 8, 8), dtype),
        lambda dtype: UnetPlusPlus((8, 8, 8), dtype),
    ],
)
def test_compute_in_bfloat16_stays_near(make):
    image = hashed.image((1, 64, 64, 3))
    shapes = abstract(make(HALF), image)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {F32}
    got, want = run(make(HALF), image), run(make(F32), image)
    assert got.dtype == F32
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert 0 < error < 2e-2


# ---- errors ----

FIT = "height and width must be multiples of 32 and at least 32, got"


@each
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (spec(1, 48, 64, 3), f"{FIT} 48 x 64; pad to 64 x 64"),
        (spec(1, 64, 16, 3), f"{FIT} 64 x 16; pad to 64 x 32"),
        (spec(1, 64, 64, 1), r"image must be \[B, H, W, 3\], got \[1, 64, 64, 1\]"),
        (spec(1, 64, 64, 3, dtype=jnp.uint8), "image must be float32, got uint8"),
    ],
)
def test_wrong_images_say_so(net, image, message):
    with pytest.raises(ValueError, match=f"{type(net).__name__}: {message}"):
        abstract(net, image)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (tiny(decoder=(8, 8, 8, 8)), r"decoder is \(8, 8, 8, 8\); give 5 widths"),
        (tiny(decoder=(8, 8, 8, 8, 0)), r"decoder is \(8, 8, 8, 8, 0\); give 5"),
        (Unet((8,), F32), r"Unet: widths is \(8,\); give two or more"),
        (UnetPlusPlus((8, 0), F32), r"PlusPlus: widths is \(8, 0\); give two or more"),
    ],
)
def test_wrong_fields_say_so(net, message):
    with pytest.raises(ValueError, match=message):
        abstract(net, spec(1, 64, 64, 3))


def test_deeper_networks_need_larger_multiples():
    with pytest.raises(ValueError, match="must be multiples of 64"):
        abstract(Unet((2,) * 7, F32), spec(1, 32, 32, 3))
