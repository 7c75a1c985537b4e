import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.alexnet import ALEXNET_LAYERS, ALEXNET_TAPS, AlexNet
from jaxinpaint.features.classifier import adaptive_mean
from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.load import read_torch
from jaxinpaint.features.normalization import IMAGENET
from tests.features import hashed, parity

# Of the modules of the public file (`features`) after which LPIPS reads.
PLACES = {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11}
# LPIPS's own constants, for images in [-1, 1]; the same numbers as IMAGENET's.
SHIFT, SCALE = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def network(*taps, dtype=jnp.float32):
    return AlexNet(taps, IMAGENET, dtype)


def filled(module, image):
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    return hashed.params(template)


@pytest.mark.parametrize(
    "tap, want", [("logits", 61_100_840), ("relu5", 2_469_696), ("relu1", 23_296)]
)
def test_parameter_counts(tap, want):
    # 61,100,840 is published; 64 * (3 * 11 * 11 + 1) = 23,296.
    spec = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(network(tap).init, jax.random.key(0), spec)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == want


def test_shapes_of_a_photograph():
    spec = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    module = network(*ALEXNET_TAPS)
    found, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), spec)
    assert {tap: x.shape[1:] for tap, x in found.items()} == {
        "relu1": (55, 55, 64),
        "relu2": (27, 27, 192),
        "relu3": (13, 13, 384),
        "relu4": (13, 13, 256),
        "relu5": (13, 13, 256),
        "logits": (1000,),
    }


@pytest.fixture(scope="module")
def port():
    pytest.importorskip("torch")
    from tests.ports.alexnet import AlexNet as Port
    from tests.ports.layout import randomize

    return randomize(Port(), seed=3)


@pytest.mark.parametrize("kind, bound", [("float32", 1e-4), ("float64", 1e-9)])
def test_every_tap_is_the_ports(tmp_path, port, kind, bound):
    torch = pytest.importorskip("torch")
    trunk = {n: t for n, t in port.state_dict().items() if n.startswith("features")}
    torch.save(trunk, tmp_path / "alexnet.pth")
    convolutions = [x for x in ALEXNET_LAYERS if x.kind == "conv"]
    variables = convert(read_torch(tmp_path / "alexnet.pth"), convolutions)
    image = parity.images((2, 66, 75, 3), kind)
    levels = ((image - SHIFT) / SCALE).astype(kind)
    forward = lambda x: dict(enumerate(port.outputs(x)))
    outputs = parity.theirs(port.features, forward, levels)
    wants = {tap: outputs[place] for tap, place in PLACES.items()}
    module = network(*PLACES, dtype=jnp.dtype(kind))
    parity.expect_same(parity.ours(module, variables, image), wants, bound)


def test_logits_are_the_ports(port):
    """Of a size that the adaptive pooling has to enlarge: 3 x 4 to 6 x 6."""
    tensors = {name: t.numpy() for name, t in port.state_dict().items()}
    variables = convert(tensors, ALEXNET_LAYERS)
    image = parity.images((2, 127, 150, 3))
    levels = ((image - SHIFT) / SCALE).astype(np.float32)
    wants = parity.theirs(port, lambda x: {"logits": port(x)}, levels)
    parity.expect_same(parity.ours(network("logits"), variables, image), wants, 1e-4)


@pytest.mark.parametrize("height, width", [(7, 7), (1, 2), (10, 15), (6, 21)])
def test_adaptive_mean_is_torchs(height, width):
    torch = pytest.importorskip("torch")
    x = hashed.image((2, height, width, 3))
    pool = torch.nn.AdaptiveAvgPool2d((7, 7))
    want = pool(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    got = adaptive_mean(jnp.asarray(x), 7)
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_adaptive_mean_by_hand():
    # 3 pixels on 2 windows overlap in the middle one; 1 pixel fills both.
    x = jnp.asarray([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    got = adaptive_mean(x, 2)[0, :, :, 0]
    np.testing.assert_allclose(got, [[1.5, 1.5], [4.0, 4.0]], rtol=1e-6)


def test_names_go_out_and_come_back():
    module = network("relu2")
    variables = filled(module, jnp.zeros((1, 15, 15, 3)))
    tensors = foreign(variables, ALEXNET_LAYERS[:2])
    assert {name: t.shape for name, t in tensors.items()} == {
        "features.0.weight": (64, 3, 11, 11),
        "features.0.bias": (64,),
        "features.3.weight": (192, 64, 5, 5),
        "features.3.bias": (192,),
    }
    jax.tree.map(
        np.testing.assert_array_equal, convert(tensors, ALEXNET_LAYERS[:2]), variables
    )


def test_taps_come_in_the_order_asked_for():
    module = network("relu2", "relu1", dtype=jnp.bfloat16)
    image = jnp.asarray(hashed.image((1, 15, 19, 1)))
    found = module.apply(filled(module, image), image)
    assert list(found) == ["relu2", "relu1"]
    assert found["relu1"].dtype == jnp.bfloat16


def test_gradient_reaches_the_image_and_is_finite():
    module = network("relu5")
    image = jnp.asarray(hashed.image((1, 47, 47, 3)))
    variables = filled(module, image)
    total = lambda x: jnp.sum(module.apply(variables, x)["relu5"])
    slope = jax.jit(jax.grad(total))(image)
    assert np.isfinite(slope).all() and (np.asarray(slope) != 0).mean() > 0.5


@pytest.mark.parametrize("taps, named", [(("relu6",), "relu6"), ((), "none")])
def test_unknown_taps_are_refused(taps, named):
    with pytest.raises(ValueError, match=f"some of relu1, .*logits; got {named}"):
        network(*taps).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(
    "tap, least", [("relu1", 7), ("relu2", 15), ("relu5", 31), ("logits", 63)]
)
def test_the_smallest_image(tap, least):
    module = network(tap)

    def shapes(side):
        spec = jax.ShapeDtypeStruct((1, side, 80, 3), jnp.float32)
        return jax.eval_shape(module.init_with_output, jax.random.key(0), spec)

    assert shapes(least)[0][tap].size > 0
    with pytest.raises(ValueError, match=f"{tap} needs sides of at least {least}, got"):
        shapes(least - 1)
