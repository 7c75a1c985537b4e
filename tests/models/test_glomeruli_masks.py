import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.glomeruli_masks import MaskDiscriminator, MaskGenerator
from tests.compiling import quick
from tests.features import hashed

F32, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")
DRAW, JUDGE = MaskGenerator(64, 100, F32), MaskDiscriminator(64, F32)


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract(net, array):
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), array)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def run(net, array, train):
    apply = functools.partial(net.apply, train=train, mutable=["batch_stats"])
    with jax.default_matmul_precision("highest"):
        made, new = quick(apply)(hashed.variables(abstract(net, array)), array)
    assert made.dtype == F32
    assert train == any(np.any(m) for m in means(new["batch_stats"]))
    return np.asarray(made)


def means(tree):
    return [norm["mean"] for norm in tree.values()]


def test_parameters():
    made, judged = abstract(DRAW, spec(1, 100)), abstract(JUDGE, spec(1, 64, 64, 3))
    assert count(made["params"]) == 3_576_704
    assert count(judged["params"]) == 2_765_568
    want = {"deconv1": 819_200, "deconv2": 2_097_152, "deconv3": 524_288}
    want |= {"deconv4": 131_072, "deconv5": 3_072}
    want |= {"bn1": 1_024, "bn2": 512, "bn3": 256, "bn4": 128}
    assert {name: count(layer) for name, layer in made["params"].items()} == want
    want = {"conv1": 3_072, "conv2": 131_072, "conv3": 524_288, "conv4": 2_097_152}
    want |= {"conv5": 8_192, "bn2": 256, "bn3": 512, "bn4": 1_024}
    assert {name: count(layer) for name, layer in judged["params"].items()} == want


@pytest.mark.parametrize(
    ("train", "summary"),
    [
        (False, (-0.003197, 0.010773, -0.047560, 0.038056, 1e-4)),
        (True, (-0.144838, 0.397050, -0.986803, 0.964098, 2e-3)),
    ],
)
def test_generator_has_the_check_values(train, summary):
    got = run(DRAW, hashed.image((4, 100)), train)
    assert got.shape == (4, 64, 64, 3)
    hashed.expect_summary(got, *summary)


@pytest.mark.parametrize(
    ("train", "mean", "std", "logits", "tolerance"),
    [
        (False, -0.253844, 0.742820, [-1.474534, -0.230219, 0.345443, 0.343936], 1e-4),
        (True, -0.821021, 1.093010, [-2.653596, -0.651690, -0.054562, 0.075763], 2e-3),
    ],
)
def test_discriminator_has_the_check_values(train, mean, std, logits, tolerance):
    got = run(JUDGE, hashed.image((4, 64, 64, 3)), train)
    np.testing.assert_allclose([got.mean(), got.std()], [mean, std], atol=tolerance)
    np.testing.assert_allclose(got, logits, atol=tolerance)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MaskGenerator(16, 100, F32), (1, 100)),
        (MaskDiscriminator(16, F32), (1, 64, 64, 3)),
    ],
)
def test_initial_values_are_those_of_the_example(net, shape):
    init = quick(functools.partial(net.init, train=True))
    made = init(jax.random.key(0, impl="rbg"), np.zeros(shape, np.float32))["params"]
    found = {"kernel": [], "scale": [], "bias": []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        found[path[-1].key].append(np.ravel(leaf))
    for name, mean in (("kernel", 0), ("scale", 1)):
        values = np.concatenate(found[name])
        size = np.sqrt(values.size)
        assert abs(values.mean() - mean) < 4 * 0.02 / size
        assert values.std() == pytest.approx(0.02, rel=3 / size)
    assert not np.any(np.concatenate(found["bias"]))


def test_a_pixel_of_the_first_map_comes_from_every_number():
    """The first layer turns a pixel into 4 x 4: a matrix product for each of them."""
    x, net = hashed.image((2, 6)), MaskGenerator(1, 6, F32)
    variables = hashed.variables(abstract(net, x))
    _, kept = net.apply(
        variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    (first,) = kept["intermediates"]["deconv1"]["__call__"]
    kernel = variables["params"]["deconv1"]["kernel"][::-1, ::-1]
    want = np.einsum("bc,ijcd->bijd", x, kernel)
    np.testing.assert_allclose(first, want, rtol=1e-5, atol=1e-5)


def test_compute_in_bfloat16_stays_near():
    image = hashed.image((2, 64, 64, 3))
    for make, array in (
        (lambda dtype: MaskGenerator(8, 100, dtype), hashed.image((2, 100))),
        (lambda dtype: MaskDiscriminator(8, dtype), image),
    ):
        state = hashed.variables(abstract(make(HALF), array))
        assert {x.dtype for x in jax.tree.leaves(abstract(make(HALF), array))} == {F32}
        got, want = (
            quick(functools.partial(make(dtype).apply, train=False))(state, array)
            for dtype in (HALF, F32)
        )
        assert got.dtype == F32
        error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
        assert 0 < error < 2e-2


@pytest.mark.parametrize(
    ("net", "array", "message"),
    [
        (DRAW, spec(4, 99), r"latent must be \[B, 100\], got \[4, 99\]"),
        (DRAW, spec(4, 100, dtype=jnp.int32), "latent must be float32, got int32"),
        (JUDGE, spec(4, 32, 32, 3), r"image must be \[B, 64, 64, 3\]"),
        (
            JUDGE,
            spec(4, 64, 64, 3, dtype=jnp.uint8),
            "image must be float32, got uint8",
        ),
        (MaskGenerator(0, 100, F32), spec(4, 100), "width is 0; give 1 or more"),
        (MaskDiscriminator(0, F32), spec(4, 64, 64, 3), "width is 0; give 1 or more"),
    ],
)
def test_wrong_use_says_so(net, array, message):
    with pytest.raises(ValueError, match=f"glomeruli_masks.*: {message}"):
        abstract(net, array)
