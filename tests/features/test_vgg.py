import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.load import read_torch
from jaxinpaint.features.normalization import CAFFE, IMAGENET, SIGNED
from jaxinpaint.features.vgg import VGG, VGG16, VGG19, vgg_layers, vgg_taps
from tests.features import hashed, parity

# Names of Simonyan and Zisserman, and the modules of the public files (`features`).
PLACES = {
    VGG16: {
        **{"relu1_1": 1, "relu1_2": 3, "pool1": 4},
        **{"relu2_1": 6, "relu2_2": 8, "pool2": 9},
        **{"relu3_1": 11, "relu3_2": 13, "relu3_3": 15, "pool3": 16},
        **{"relu4_1": 18, "relu4_2": 20, "relu4_3": 22, "pool4": 23},
        **{"relu5_1": 25, "relu5_2": 27, "relu5_3": 29, "pool5": 30},
    },
    VGG19: {
        **{"relu1_1": 1, "relu1_2": 3, "pool1": 4},
        **{"relu2_1": 6, "relu2_2": 8, "pool2": 9},
        **{"relu3_1": 11, "relu3_2": 13, "relu3_3": 15, "relu3_4": 17, "pool3": 18},
        **{"relu4_1": 20, "relu4_2": 22, "relu4_3": 24, "relu4_4": 26, "pool4": 27},
        **{"relu5_1": 29, "relu5_2": 31, "relu5_3": 33, "relu5_4": 35, "pool5": 36},
    },
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def network(blocks, *taps, normalization=IMAGENET, dtype=jnp.float32):
    return VGG(blocks, taps, normalization, dtype)


def filled(module, image):
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    return hashed.params(template)


def count(module, side):
    spec = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), spec)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "blocks, tap, want",
    [
        (VGG16, "logits", 138_357_544),  # published
        (VGG19, "logits", 143_667_240),
        (VGG19, "pool5", 20_024_384),  # glomeruli specification 2.9
        (VGG16, "relu4_3", 7_635_264),  # flowinpaint specification, table of costs
        (VGG19, "relu5_2", 15_304_768),  # glomeruli specification 2.9
        (VGG19, "relu5_1", 12_944_960),  # ipa_medgan specification 3.3
        (VGG16, "pool3", 1_735_488),  # rnon specification 2.7
        (VGG19, "relu3_4", 2_325_568),
    ],
)
def test_parameter_counts(blocks, tap, want):
    # An earlier tap beside it builds nothing, and the order makes no difference.
    assert count(network(blocks, tap, "relu1_1"), 64) == want


def test_shapes_at_256():
    # ipa_medgan specification 3.3.
    want = {
        "relu1_1": (256, 256, 64),
        "relu2_1": (128, 128, 128),
        "relu3_1": (64, 64, 256),
        "relu4_1": (32, 32, 512),
        "relu4_2": (32, 32, 512),
        "relu5_1": (16, 16, 512),
    }
    module = network(VGG19, *want)
    spec = jax.ShapeDtypeStruct((1, 256, 256, 1), jnp.float32)
    found, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), spec)
    assert {tap: x.shape[1:] for tap, x in found.items()} == want


def test_golden_features():
    """The hash-filled network's distances (glomeruli specification 10.3)."""
    taps = [f"relu{b}_1" for b in range(1, 6)]
    module = network(VGG19, *taps)
    a = jnp.asarray(hashed.image((2, 64, 64, 3)))
    b = jnp.asarray(hashed.image((2, 64, 64, 3), 50000))
    variables = filled(module, a)
    apply = jax.jit(module.apply)
    of_a, of_b = apply(variables, a), apply(variables, b)
    got = [np.abs(of_a[t] - of_b[t]).mean(dtype=np.float64) for t in taps]
    want = [0.978770, 0.627799, 0.473130, 0.264176, 0.167530]
    np.testing.assert_allclose(got, want, rtol=2e-6)  # six digits are printed
    assert sum(got) == pytest.approx(2.511405, abs=2e-6)


def port(blocks, seed):
    pytest.importorskip("torch")
    from tests.ports.layout import randomize
    from tests.ports.vgg import VGG as Port

    torch_network = Port(blocks)
    # The head has its own test; 120 million numbers less to draw here.
    torch_network.classifier = torch_network.classifier[:0]
    return randomize(torch_network, seed)


@pytest.mark.parametrize("blocks", [VGG16, VGG19], ids=["vgg16", "vgg19"])
@pytest.mark.parametrize("kind, bound", [("float32", 1e-4), ("float64", 1e-9)])
def test_every_tap_is_the_ports(tmp_path, blocks, kind, bound):
    torch = pytest.importorskip("torch")
    torch_network = port(blocks, seed=len(blocks) + sum(blocks))
    convolutions = [x for x in vgg_layers(blocks) if x.kind == "conv"]
    torch.save(torch_network.state_dict(), tmp_path / "vgg.pth")
    variables = convert(read_torch(tmp_path / "vgg.pth"), convolutions)
    image = parity.images((1, 37, 45, 3), kind)
    forward = lambda x: dict(enumerate(torch_network.outputs(x)))
    outputs = parity.theirs(torch_network, forward, parity.imagenet(image))
    wants = {tap: outputs[place] for tap, place in PLACES[blocks].items()}
    module = network(blocks, *PLACES[blocks], dtype=jnp.dtype(kind))
    parity.expect_same(parity.ours(module, variables, image), wants, bound)


def test_the_files_names_are_the_whole_network():
    """Names and shapes of the public VGG19, without its 143 million numbers."""
    torch = pytest.importorskip("torch")
    from tests.ports.vgg import VGG as Port

    with torch.device("meta"):
        state = Port(VGG19).state_dict()
    assert [len(state), state["features.34.bias"].shape] == [38, (512,)]
    one = np.zeros((), np.float32)
    tensors = {name: np.broadcast_to(one, t.shape) for name, t in state.items()}
    spec = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    module = network(VGG19, "logits")
    template = jax.eval_shape(module.init, jax.random.key(0), spec)
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(convert(tensors, vgg_layers(VGG19))) == shapes(template)


def test_names_go_out_and_come_back():
    module = network(VGG16, "relu2_1")
    variables = filled(module, jnp.zeros((1, 8, 8, 3)))
    layers = [x for x in vgg_layers(VGG16) if x.ours in variables["params"]]
    tensors = foreign(variables, layers)
    assert [x for x in tensors if x.endswith("weight")] == [
        f"features.{i}.weight" for i in (0, 2, 5)
    ]
    again = convert(tensors, layers)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_taps_come_in_the_order_asked_for():
    module = network(VGG16, "pool1", "relu1_2", "relu1_1")
    image = jnp.asarray(hashed.image((1, 4, 6, 3)))
    found = module.apply(filled(module, image), image)
    assert list(found) == ["pool1", "relu1_2", "relu1_1"]
    assert [x.shape[1] for x in found.values()] == [2, 4, 4]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_grey_and_dtype(kind):
    module = network(VGG16, "relu2_1", normalization=CAFFE, dtype=jnp.dtype(kind))
    image = jnp.asarray(hashed.image((1, 9, 8, 1)))
    variables = filled(module, image)
    grey = module.apply(variables, image)["relu2_1"]
    assert grey.dtype == kind
    three = jnp.concatenate([image] * 3, axis=-1)
    np.testing.assert_array_equal(grey, module.apply(variables, three)["relu2_1"])


def test_gradient_reaches_the_image_and_is_finite():
    module = network(VGG16, "relu3_1")
    image = jnp.asarray(hashed.image((1, 16, 16, 3)))
    variables = filled(module, image)
    total = lambda x: jnp.sum(module.apply(variables, x)["relu3_1"])
    slope = jax.jit(jax.grad(total))(image)
    assert np.isfinite(slope).all() and (np.asarray(slope) != 0).mean() > 0.99


def test_new_parameters_keep_the_scale_of_activations():
    module = network(VGG19, "relu1_1", "relu1_2", normalization=SIGNED)
    image = jnp.asarray(hashed.image((1, 24, 24, 3)))
    found, _ = jax.jit(module.init_with_output)(jax.random.key(2), image)
    ratio = jnp.mean(found["relu1_2"]) / jnp.mean(found["relu1_1"])
    assert 0.5 < ratio < 2


@pytest.mark.parametrize(
    "taps, named", [(("relu1_3",), "relu1_3"), (("conv1_1",), "conv1_1"), ((), "none")]
)
def test_unknown_taps_are_refused(taps, named):
    module = network(VGG16, *taps)
    with pytest.raises(ValueError, match=f"some of relu1_1, relu1_2.*; got {named}"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    "tap, least", [("relu1_2", 1), ("relu5_1", 16), ("pool5", 32), ("logits", 32)]
)
def test_the_smallest_image(tap, least):
    module = network(VGG16, "relu1_1", tap)

    def shapes(side):
        spec = jax.ShapeDtypeStruct((1, 40, side, 3), jnp.float32)
        return jax.eval_shape(module.init_with_output, jax.random.key(0), spec)

    assert shapes(least)[0][tap].size > 0
    with pytest.raises(ValueError, match=f"{tap} needs sides of at least {least}"):
        shapes(least - 1)


def test_taps_are_the_networks():
    for blocks in (VGG16, VGG19):
        assert vgg_taps(blocks) == (*PLACES[blocks], "logits")
