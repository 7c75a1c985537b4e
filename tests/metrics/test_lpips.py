import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinpaint.features.alexnet import ALEXNET_LAYERS
from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.normalization import IMAGENET, normalize
from jaxinpaint.features.registry import (
    ALEXNET_CHANNELS,
    LPIPS_LAYERS,
    VGG16_CHANNELS,
)
from jaxinpaint.features.vgg import VGG16, vgg_layers
from jaxinpaint.metrics.evaluate import evaluate, pad_batch
from jaxinpaint.metrics.lpips import (
    LinearWeights,
    alexnet_trunk,
    distance,
    lpips,
    lpips_metric,
    vgg16_trunk,
)

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


SIDES = (40, 47)


class Thin(nn.Module):
    """A trunk of two layers, of 6 and 10 channels."""

    dtype: jnp.dtype
    taps: tuple[str, ...] = ("second", "first")

    @nn.compact
    def __call__(self, image):
        found, x = {}, normalize(image, IMAGENET)
        for name, width in (("first", 6), ("second", 10)):
            x = nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=name)(x)
            found[name] = x = nn.relu(x)
        return {tap: found[tap] for tap in self.taps}


@functools.cache
def thin(dtype=jnp.float32):
    """Trunk, its variables and linear weights, all random."""
    trunk, image = Thin(dtype), jnp.zeros((1, 8, 8, 3))
    linear = jax.jit(LinearWeights((10, 6)).init)(jax.random.key(2), image)
    return trunk, jax.jit(trunk.init)(jax.random.key(1), image), linear


@functools.cache
def judge(dtype=jnp.float32):
    return jax.jit(functools.partial(lpips, *thin(dtype)))


def pair(batch=2, channels=3, sides=SIDES):
    draw = np.random.default_rng(0)
    coarse = draw.uniform(0, 255, (batch, 6, 6, channels)).astype(np.float32)
    shape = (batch, *sides, channels)
    truth = np.clip(np.rint(jax.image.resize(coarse, shape, "cubic")), 0, 255)
    noisy = np.rint(truth + draw.normal(0, 25, shape))
    return truth, np.clip(noisy, 0, 255).astype(np.float32)


def signed(*images):
    return [jnp.asarray(image) / np.float32(127.5) - 1.0 for image in images]


def features(seed, *shapes):
    draw = np.random.default_rng(seed)
    return {
        name: np.maximum(draw.normal(0, 1, shape), 0).astype(np.float32)
        for name, shape in zip(("z", "a"), shapes, strict=True)
    }


SHAPES = (2, 3, 4, 5), (2, 2, 1, 7)


def weights():
    draw = np.random.default_rng(9)
    return {
        name: draw.uniform(0, 1, shape[3]).astype(np.float32)
        for name, shape in zip(("z", "a"), SHAPES, strict=True)
    }


def literal(f, g, weights):
    total = np.zeros(2)
    for name, w in weights.items():
        for b in range(2):
            height, width, channels = f[name].shape[1:]
            for y in range(height):
                for x in range(width):
                    u, v = (k[name][b, y, x].astype(np.float64) for k in (f, g))
                    u = u / (np.sqrt((u**2).sum()) + 1e-10)
                    v = v / (np.sqrt((v**2).sum()) + 1e-10)
                    for c in range(channels):
                        total[b] += w[c] * (u[c] - v[c]) ** 2 / (height * width)
    return total


def test_distance_is_the_formula():
    f, g = features(1, *SHAPES), features(2, *SHAPES)
    f["z"][0, 1, 2] = 0  # no feature in this place
    g["a"][1] = f["a"][1] = 0
    got = jax.jit(distance)(f, g, weights())
    np.testing.assert_allclose(got, literal(f, g, weights()), rtol=1e-5)


def test_distance_by_hand():
    # (3, 4) and (0, 2) have the directions (0.6, 0.8) and (0, 1).
    f, g = (jnp.float32(x).reshape(1, 1, 1, 2) for x in ([3, 4], [0, 2]))
    w = {"one": jnp.float32([10, 100])}
    got = distance({"one": f}, {"one": g}, w)
    np.testing.assert_allclose(got, [10 * 0.36 + 100 * 0.04], rtol=1e-6)
    still = distance({"one": f}, {"one": 7.0 * f}, w)
    np.testing.assert_allclose(still, [0], atol=1e-10)


def test_epsilon_stands_outside_the_root():
    tiny = jnp.full((1, 1, 1, 1), 1e-10)
    nothing = jnp.zeros((1, 1, 1, 1))
    got = distance({"a": tiny}, {"a": nothing}, {"a": jnp.ones(1)})
    np.testing.assert_allclose(got, [0.25], rtol=1e-5)


def test_gradient_is_finite_where_all_channels_are_zero():
    f, g = features(1, *SHAPES), features(2, *SHAPES)
    f["z"][0, 1, 2] = g["z"][0, 1, 2] = g["z"][1] = 0
    slope_of = jax.jit(jax.grad(lambda g: jnp.sum(distance(f, g, weights()))))
    slopes = slope_of(g)
    assert all(np.isfinite(slope).all() for slope in slopes.values())
    assert not np.asarray(slopes["z"][1]).any() and np.asarray(slopes["a"]).any()
    equal = slope_of(f)
    assert all(np.abs(slope).max() < 1e-6 for slope in equal.values())


def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        f, g = (
            {"z": np.random.default_rng(s).uniform(0.2, 1, (1, 2, 2, 3))}
            for s in (1, 2)
        )
        w = {"z": np.float64([0.3, 2.0, 0.7])}
        loss = lambda x: jnp.sum(distance(f, {"z": x}, w))
        slope = jax.grad(loss)(g["z"])
        step = np.zeros_like(g["z"])
        step[0, 1, 0, 2] = 1e-5
        want = (loss(g["z"] + step) - loss(g["z"] - step)) / 2e-5
        np.testing.assert_allclose(slope[0, 1, 0, 2], want, rtol=1e-7)


def test_features_that_do_not_fit():
    f, g = features(1, *SHAPES), features(2, *SHAPES)
    with pytest.raises(ValueError, match=r"weights of \['b'\] need features"):
        distance(f, g, {"b": np.ones(5, np.float32)})
    with pytest.raises(ValueError, match="need features of the same layers"):
        distance(f, g, {})
    with pytest.raises(ValueError, match=r"weights z must be \[5\], got \[4\]"):
        distance(f, g, {"z": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match=r"prediction z must be \[2, 3, 4, 5\]"):
        distance(f, {**g, "z": g["z"][:1]}, weights())


def test_scaling_layer_is_the_imagenet_normalization():
    # The constants of LPIPS, for images in [-1, 1].
    shift, scale = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 3))
    with jax.enable_x64(True):
        got = normalize(jnp.asarray(image), IMAGENET)
        np.testing.assert_allclose(got, (image - shift) / scale, rtol=1e-12)


TRUNKS = {
    "alexnet": (alexnet_trunk, ALEXNET_CHANNELS),
    "vgg16": (vgg16_trunk, VGG16_CHANNELS),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_channels_are_those_of_the_trunk(name):
    make, channels = TRUNKS[name]
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    found, _ = jax.eval_shape(
        make(jnp.float32).init_with_output, jax.random.key(0), image
    )
    assert tuple(layer.shape[3] for layer in found.values()) == channels


def test_linear_weights():
    module = LinearWeights(ALEXNET_CHANNELS)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    tensors = foreign(variables, LPIPS_LAYERS)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "lin0.model.1.weight": (1, 64, 1, 1),
        "lin1.model.1.weight": (1, 192, 1, 1),
        "lin2.model.1.weight": (1, 384, 1, 1),
        "lin3.model.1.weight": (1, 256, 1, 1),
        "lin4.model.1.weight": (1, 256, 1, 1),
    }
    every = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    assert 0 <= every.min() < 0.1 < 0.9 < every.max() <= 1
    given = module.apply(variables, jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_array_equal(np.concatenate(given), every)


# Of the modules of the public files' `features` after which LPIPS reads.
PLACES = {"alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}


@functools.cache
def public_layers(name):
    every = ALEXNET_LAYERS if name == "alexnet" else vgg_layers(VGG16)
    return [layer for layer in every if layer.foreign.startswith("features")]


@pytest.mark.parametrize("name", TRUNKS)
def test_port_and_laws(name):
    torch = pytest.importorskip("torch")
    from tests.ports import alexnet, vgg
    from tests.ports.layout import randomize
    from tests.ports.lpips import LPIPS

    make, channels = TRUNKS[name]
    with torch.device("meta"):  # without the classifier's hundred million numbers
        rival = alexnet.AlexNet() if name == "alexnet" else vgg.VGG((2, 2, 3, 3, 3))
    randomize(rival.features.to_empty(device="cpu"), seed=4)
    port = LPIPS(PLACES[name], channels).eval()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in port.parameters():
            layer.copy_(torch.rand(layer.shape, generator=draw))
    tensors = rival.features.state_dict(prefix="features.")
    variables = convert(numpy(tensors), public_layers(name))
    linear = convert(numpy(port.state_dict()), LPIPS_LAYERS)
    truth, prediction = signed(*pair(batch=1, sides=(64, 71)))
    with torch.no_grad():
        rows = [torch.tensor(np.asarray(x)) for x in (truth, prediction)]
        want = port(rival, *(x.permute(0, 3, 1, 2) for x in rows)).numpy()
    assert (want > 0.01).all()
    score = jax.jit(functools.partial(lpips, make(jnp.float32), variables, linear))
    # The bound of a whole network with converted weights, in float32.
    np.testing.assert_allclose(score(truth, prediction), want, rtol=1e-4)
    np.testing.assert_allclose(score(prediction, truth), want, rtol=1e-4)
    np.testing.assert_array_equal(score(truth, truth), np.zeros_like(want))


def numpy(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def test_symmetric_positive_and_nearer_is_less():
    truth, prediction = signed(*pair())
    score = judge()
    there = score(truth, prediction)
    assert there.shape == (2,) and (there > 1e-3).all()
    np.testing.assert_allclose(score(prediction, truth), there, rtol=1e-6)
    np.testing.assert_array_equal(score(truth, truth), [0, 0])
    assert (score(truth, 0.8 * truth + 0.2 * prediction) < there).all()


def test_first_linear_layer_belongs_to_the_first_tap():
    trunk, variables, linear = thin()
    truth, prediction = signed(*pair(sides=(9, 13)))
    f, g = (
        jax.tree.map(np.asarray, trunk.apply(variables, x)) for x in (truth, prediction)
    )
    w = [linear["params"][f"lin{i}"]["kernel"][0, 0, :, 0] for i in (0, 1)]
    want = literal(f, g, {"second": w[0], "first": w[1]})
    np.testing.assert_allclose(judge()(truth, prediction), want, rtol=1e-5)


def test_grey_is_three_equal_channels():
    grey = signed(*pair(channels=1))
    colour = (jnp.repeat(x, 3, axis=3) for x in grey)
    np.testing.assert_allclose(judge()(*grey), judge()(*colour), rtol=1e-6)


def test_bfloat16_trunk():
    images = signed(*pair())
    got = judge(jnp.bfloat16)(*images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, judge()(*images), rtol=2e-2)


def test_a_step_down_the_gradient_brings_the_images_nearer():
    truth, prediction = signed(*pair())
    loss = jax.jit(jax.value_and_grad(lambda x, y: jnp.mean(judge()(x, y)), argnums=1))
    before, slope = loss(truth, prediction)
    after, _ = loss(truth, prediction - 0.05 * slope / jnp.abs(slope).max())
    assert after < before
    for image in (truth, jnp.full_like(truth, -1.0)):
        value, still = loss(image, image)
        np.testing.assert_allclose(value, 0, atol=1e-12)
        assert np.abs(still).max() < 1e-5 * np.abs(slope).max()


def test_what_does_not_fit():
    trunk, variables, linear = thin()
    truth, prediction = signed(*pair())
    other = LinearWeights((6, 10)).init(jax.random.key(0), truth)
    with pytest.raises(
        ValueError, match=r"lin0': \[1, 1, 10, 1\].* got .*lin0': \[1, 1, 6"
    ):
        lpips(trunk, variables, other, truth, prediction)
    one = {"params": {"lin0": linear["params"]["lin0"]}}
    with pytest.raises(ValueError, match="the linear weights must be"):
        lpips(trunk, variables, one, truth, prediction)
    with pytest.raises(ValueError, match=r"prediction must be \[2, 40, 47, 3\]"):
        lpips(*thin(), truth, prediction[:1])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        lpips(*thin(), truth[..., :2], prediction[..., :2])


@pytest.mark.parametrize(("name", "least"), [("alexnet", 31), ("vgg16", 16)])
def test_images_too_small_for_a_trunk_are_not_padded(name, least):
    make, channels = TRUNKS[name]
    trunk, weights = make(jnp.float32), LinearWeights(channels)

    def score(side):
        image = jax.ShapeDtypeStruct((1, side, 64, 1), jnp.float32)
        key = jax.random.key(0)
        nets = (jax.eval_shape(net.init, key, image) for net in (trunk, weights))
        return jax.eval_shape(functools.partial(lpips, trunk), *nets, image, image)

    assert score(least).shape == (1,)
    with pytest.raises(ValueError, match=f"sides of at least {least}"):
        score(least - 1)


def negative(linear, value):
    lin1 = linear["params"]["lin1"]["kernel"].at[0, 0, 5, 0].set(value)
    return {"params": {**linear["params"], "lin1": {"kernel": lin1}}}


@pytest.mark.parametrize("value", [-1e-6, np.nan])
def test_weights_that_are_not_those_of_lpips(value):
    trunk, variables, linear = thin()
    with pytest.raises(ValueError, match="the least weight of lin1 is"):
        lpips_metric(trunk, variables, negative(linear, value), data_range=255.0)


def batches(size, truth, prediction):
    region = np.zeros((len(truth), *SIDES, 1), np.float32)  # no pixel of the hole
    data = {"truth": truth, "prediction": prediction, "region": region}
    for start in range(0, len(truth), size):
        part = {name: array[start : start + size] for name, array in data.items()}
        yield pad_batch(part, size)


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_metric_of_grey_levels(channels, top):
    net = thin()
    truth, prediction = pair(batch=3, channels=channels)
    want = np.asarray(judge()(*signed(truth, prediction)))
    metric = lpips_metric(*net, data_range=float(top))
    scaled = (image * np.float32(top / 255) for image in (truth, prediction))
    got = evaluate({"lpips": metric}, batches(2, *scaled))["lpips"]
    np.testing.assert_allclose(got["values"], want, rtol=1e-4)
    assert got["value"] == pytest.approx(np.mean(want), rel=1e-4)
    assert (got["n"], got["infinite"], got["undefined"]) == (3, 0, 0)


def test_metric_over_two_devices_with_weights_as_arguments():
    seen = []

    class Spy(Thin):
        @nn.compact
        def __call__(self, image):
            seen.append(image.shape)
            leaves = jax.tree.leaves(self.variables)
            assert leaves and all(isinstance(x, jax.core.Tracer) for x in leaves)
            return super().__call__(image)

    _, variables, linear = thin()
    truth, prediction = pair(batch=5)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    net = Spy(jnp.float32), *jax.tree.map(np.asarray, (variables, linear))
    metric = lpips_metric(*net, data_range=255.0)
    given = batches(4, truth, prediction)
    got = evaluate({"lpips": metric}, given, sharding=sharding)["lpips"]
    assert seen == [(4, *SIDES, 3)] * 2
    want = judge()(*signed(truth, prediction))
    np.testing.assert_allclose(got["values"], want, rtol=1e-5)
