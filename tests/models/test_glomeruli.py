import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.glomeruli import (
    AOTBlock,
    Discriminator,
    Generator,
    SelfAttention,
    gate,
)
from tests.compiling import quick
from tests.features import hashed

F32, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")
RATES = (1, 2, 4, 8)
CHANNELS = (64, 128, 256, 512, 512, 1)


def generator(**changed):
    fields = {"width": 64, "aot_blocks": 8, "rates": RATES, "attention_chunk": 512}
    return Generator(**(fields | {"remat": False, "dtype": F32} | changed))


def thin(**changed):
    fields = {"width": 4, "aot_blocks": 2, "attention_chunk": 100}
    return generator(**(fields | changed))


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


WINDOW, HOLE = spec(1, 256, 256, 3), spec(1, 256, 256, 1)


def abstract(net, *arrays, **kwargs):
    init = functools.partial(net.init, **kwargs)
    return jax.eval_shape(init, jax.random.key(0), *arrays)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def disc(side, radius, batch):
    at = np.arange(side) - (side - 1) / 2
    inside = at[:, None] ** 2 + at[None] ** 2 <= radius**2
    return np.repeat(inside[None, :, :, None], batch, axis=0).astype(np.float32)


def run(net, *arrays, **kwargs):
    """One pass over variables filled by the specification's rule."""
    variables = hashed.variables(abstract(net, *arrays, **kwargs))
    if "train" in kwargs:
        kwargs["mutable"] = ["batch_stats"]
    with jax.default_matmul_precision("highest"):
        made = quick(functools.partial(net.apply, **kwargs))(variables, *arrays)
    return np.asarray(made[0] if "train" in kwargs else made)


# ---- parameters ----


def test_parameters_of_the_generator():
    found = abstract(generator(), WINDOW, HOLE, train=False)
    assert count(found["params"]) == 15_718_596
    assert count(found["batch_stats"]) == 1_280
    params = found["params"]
    want = {"encode1": 12_544, "encode2": 131_072, "encode3": 524_288}
    want |= {"encode1_bn": 128, "encode2_bn": 256, "encode3_bn": 512}
    want |= {f"aot_{i}": 1_770_240 for i in range(1, 9)}
    want |= {"attention": 82_241, "decode1": 524_288, "decode1_bn": 256}
    want |= {"decode2": 262_144, "decode2_bn": 128, "decode3": 18_819}
    assert {name: count(layer) for name, layer in params.items()} == want
    assert count(params["attention"]["query"]) == 8_224
    assert count(params["attention"]["value"]) == 65_792
    assert params["attention"]["gamma"].shape == (1,)
    block = {name: count(layer) for name, layer in params["aot_1"].items()}
    want = {f"branch_{rate}": 147_520 for rate in RATES}
    assert block == want | {"fuse": 590_080, "gate": 590_080}


@pytest.mark.parametrize(
    ("channels", "parameters", "statistics", "cells"),
    [
        (CHANNELS, 6_960_961, 2_816, 4),
        ((64, 128, 256, 512, 1), 2_765_633, 1_792, 8),  # the other reading
    ],
)
def test_parameters_of_a_discriminator(channels, parameters, statistics, cells):
    net = Discriminator(channels, F32)
    found = abstract(net, WINDOW, train=False)
    assert count(found["params"]) == parameters
    assert count(found["batch_stats"]) == statistics
    scores = jax.eval_shape(functools.partial(net.apply, train=False), found, WINDOW)
    assert (scores.shape, scores.dtype) == ((1, cells, cells, 1), F32)


def test_initial_values_are_those_of_the_specification():
    net = thin(width=16, aot_blocks=1)
    arrays = np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 64, 64, 1), np.float32)
    init = quick(functools.partial(net.init, train=True))
    made = init(jax.random.key(0, impl="rbg"), *arrays)["params"]
    kernels = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        if path[-1].key == "kernel":
            kernels.append(np.ravel(leaf))
        else:
            assert np.all(leaf == (path[-1].key == "scale")), path
    kernels = np.concatenate(kernels)
    assert kernels.std() == pytest.approx(0.02, rel=0.02)
    assert np.abs(kernels).max() > 0.06  # no uniform of that deviation


# ---- the specification's check values (10.2) ----


def test_block_has_the_check_values():
    got = run(AOTBlock(RATES, F32), hashed.image((1, 32, 32, 256)))
    hashed.expect_summary(got, -0.008134, 0.628419, -3.256993, 3.374121, 1e-4)
    corner = [-0.184049, 0.608295, -0.344180, 0.699102]
    middle = [0.212422, -0.163722, -0.805957, -0.263854]
    np.testing.assert_allclose(got[0, 0, 0, :4], corner, atol=1e-4)
    np.testing.assert_allclose(got[0, 16, 16, :4], middle, atol=1e-4)


@pytest.mark.parametrize("chunk", [0, 512, 300])
def test_attention_has_the_check_values(chunk):
    got = run(SelfAttention(chunk, F32), hashed.image((1, 32, 32, 256)))
    hashed.expect_summary(got, -0.000276, 0.705885, -2.550043, 2.409702, 1e-4)
    corner = [0.018744, 0.928135, 0.307204, 0.845085]
    np.testing.assert_allclose(got[0, 0, 0, :4], corner, atol=1e-4)


GENERATED = {
    False: (
        (-0.022751, 0.472270, -0.975501, 0.960491, 1e-4),
        ([-0.161370, -0.441074, 0.140596], [-0.559256, 0.689609, -0.708486]),
    ),
    True: (
        (-0.104058, 0.616895, -0.999400, 0.998430, 2e-3),
        ([-0.433826, -0.846675, 0.550548], None),
    ),
}


@pytest.mark.parametrize("train", [False, True])
def test_generator_has_the_check_values(train):
    image, mask = hashed.image((2, 64, 64, 3)), disc(64, 20, 2)
    assert mask[0].sum() == 1264
    got = run(generator(), image, mask, train=train)
    summary, (corner, middle) = GENERATED[train]
    hashed.expect_summary(got, *summary)
    np.testing.assert_allclose(got[0, 0, 0], corner, atol=summary[-1])
    if middle is not None:
        np.testing.assert_allclose(got[0, 32, 32], middle, atol=summary[-1])


JUDGED = {
    False: (
        (-0.268320, 0.315783, -0.649751, 0.268758, 1e-4),
        [-0.361191, 0.268758, -0.164305, -0.649751]
        + [0.188545, -0.525563, -0.485690, -0.417365],
    ),
    True: (
        (-0.512890, 0.474969, -1.318838, 0.340595, 2e-3),
        [-1.318838, 0.340595, -0.230208, -0.659270]
        + [-0.354416, -0.283520, -1.004042, -0.593424],
    ),
}


@pytest.mark.parametrize("train", [False, True])
def test_discriminator_has_the_check_values(train):
    got = run(Discriminator(CHANNELS, F32), hashed.image((2, 128, 128, 3)), train=train)
    summary, scores = JUDGED[train]
    assert got.shape == (2, 2, 2, 1)
    hashed.expect_summary(got, *summary)
    np.testing.assert_allclose(np.ravel(got), scores, atol=summary[-1])


# ---- laws ----


def test_gate_of_numbers_worked_by_hand():
    x = np.float32([0, 2, 4, 10]).reshape(1, 2, 2, 1)
    # mean 4, squares 16 + 4 + 0 + 36 = 56, over 3 pixels
    z = 2 * (x - 4) / np.sqrt(56 / 3) - 1
    np.testing.assert_allclose(gate(x), 1 / (1 + np.exp(-5 * z)), rtol=1e-5)


def test_gate_of_a_constant_map_is_almost_shut_and_has_a_gradient():
    exact, rounded = (jnp.full((1, 8, 8, 2), level) for level in (0.25, 0.3))
    np.testing.assert_allclose(gate(exact), 1 / (1 + np.exp(5)), rtol=1e-5)
    assert np.all(gate(rounded) < 0.02)  # the mean is a rounding error off
    for x in (exact, rounded):
        assert np.isfinite(jax.grad(lambda x: gate(x).sum())(x)).all()


def test_block_s_gradient_is_finite_on_a_constant_image():
    block, x = AOTBlock(RATES, F32), jnp.full((2, 16, 16, 8), 0.5)
    variables = hashed.variables(abstract(block, x))
    loss = lambda v, x: jnp.square(block.apply(v, x)).mean()
    gradients = quick(jax.grad(loss, (0, 1)))(variables, x)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    assert np.any(gradients[1])


def test_attention_without_gain_is_the_identity():
    net, x = SelfAttention(7, F32), hashed.image((2, 4, 5, 16))
    variables = net.init(jax.random.key(0), x)
    np.testing.assert_array_equal(net.apply(variables, x), x)
    variables["params"]["gamma"] += 0.5
    assert np.abs(net.apply(variables, x) - x).max() > 1e-5


@pytest.fixture(scope="module")
def small():
    """A thin generator's variables, images and holes, and what it paints."""
    image, mask = hashed.image((2, 64, 72, 3)), np.zeros((2, 64, 72, 1), np.float32)
    mask[:, 20:40, 10:50] = 1.0
    variables = hashed.variables(abstract(thin(), image, mask, train=False))
    return variables, image, mask


def paint(net, *arrays):
    return np.asarray(quick(functools.partial(net.apply, train=False))(*arrays))


def test_the_hole_is_never_read(small):
    variables, image, mask = small
    net, hidden = thin(), np.where(mask > 0, np.float32(np.nan), image)
    want = paint(net, *small)
    np.testing.assert_array_equal(paint(net, variables, hidden, mask), want)
    loss = lambda x: jnp.square(net.apply(variables, x, mask, train=False)).sum()
    gradient = np.asarray(quick(jax.grad(loss))(image))
    assert not np.any(gradient * mask)
    assert np.any(gradient)
    # The mask is an input of its own: blank pixels that are known are another image.
    other = paint(net, variables, np.where(mask > 0, 0, image), np.zeros_like(mask))
    assert np.abs(other - want).max() > 1e-3


def test_remat_and_chunks_change_no_value(small):
    """Nor a gradient."""
    variables, image, mask = small

    def update(net):
        def loss(params):
            state = variables | {"params": params}
            kwargs = {"train": True, "mutable": ["batch_stats"]}
            made, new = net.apply(state, image, mask, **kwargs)
            return jnp.square(made).mean(), (made, new)

        return quick(jax.grad(loss, has_aux=True))(variables["params"])

    want = update(thin(attention_chunk=0))
    got = update(thin(attention_chunk=100, remat=True))
    for ours, theirs in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale + 1e-7)


def test_compute_in_bfloat16_stays_near(small):
    variables, image, mask = small
    for leaf in jax.tree.leaves(abstract(thin(dtype=HALF), image, mask, train=True)):
        assert leaf.dtype == F32
    got, want = (paint(thin(dtype=dtype), *small) for dtype in (HALF, F32))
    assert got.dtype == F32
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert 0 < error < 2e-2
    # The image is not rounded to bfloat16.
    assert np.any(got != np.asarray(jnp.asarray(got, HALF), np.float32))


def test_transposed_convolution_in_loops():
    """Twice the side; a pixel is spread by the kernel turned round, one row cut off."""
    net = thin()
    seen = {}

    def record(run, args, kwargs, context):
        result = run(*args, **kwargs)
        if context.module.name == "decode2":
            seen.update(x=args[0], made=result)
        return result

    image, mask = hashed.image((1, 64, 64, 3)), disc(64, 20, 1)
    variables = hashed.variables(abstract(net, image, mask, train=False))
    with nn.intercept_methods(record):
        net.apply(variables, image, mask, train=False)
    x, made = np.asarray(seen["x"][0]), np.asarray(seen["made"][0])
    kernel = variables["params"]["decode2"]["kernel"]
    assert made.shape == (64, 64, 4) and x.shape == (32, 32, 16)
    want = np.zeros((66, 66, 4))
    for row in range(32):
        for column in range(32):
            spot = np.einsum("c,ijcd->ijd", x[row, column], kernel[::-1, ::-1])
            want[2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += spot
    np.testing.assert_allclose(made, want[1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_a_score_sees_190_pixels():
    """Of six layers: 1 + 3 (1 + 2 + 4 + 8 + 16 + 32), and not one more."""
    net = Discriminator((2, 2, 2, 2, 2, 1), F32)
    image = np.zeros((1, 256, 256, 3), np.float32)
    variables = hashed.variables(abstract(net, image, train=False))
    variables["params"] = jax.tree.map(np.abs, variables["params"])  # none cancels
    score = lambda x: net.apply(variables, x, train=False)[0, 1, 1, 0]
    seen = np.asarray(quick(jax.grad(score))(image))[0].sum(axis=(1, 2))
    rows = np.flatnonzero(seen)
    assert (rows[0], rows[-1]) == (64 - 63, 64 - 63 + 189)


# ---- errors ----


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 1}, "width is 1; the attention needs 2 at least"),
        ({"rates": ()}, r"rates is \(\); give positive dilations"),
        ({"rates": (1, 0)}, r"rates is \(1, 0\); give positive dilations"),
        ({"rates": (1, 2, 3)}, "as many as divide the 16 channels of a block"),
        ({"rates": (1, 1)}, "give each only once"),
        ({"aot_blocks": -1}, "aot_blocks is -1; give 0 or more"),
    ],
)
def test_generator_s_wrong_fields_say_so(changed, message):
    with pytest.raises(ValueError, match=f"glomeruli.Generator: .*{message}"):
        abstract(thin(**changed), WINDOW, HOLE, train=False)


FIT = "height and width must be multiples of 4 and at least"


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (spec(1, 60, 64, 3), spec(1, 60, 64, 1), f"{FIT} 64, got 60 x 64; pad to 64"),
        (spec(1, 66, 64, 3), spec(1, 66, 64, 1), f"{FIT} 64, got 66 x 64; pad to 68"),
        (spec(1, 64, 64, 4), spec(1, 64, 64, 1), r"image must be \[B, H, W, 3\]"),
        (spec(2, 64, 64, 3), spec(1, 64, 64, 1), r"mask must be \[2, 64, 64, 1\]"),
        (
            spec(1, 64, 64, 3, dtype=jnp.uint8),
            spec(1, 64, 64, 1),
            "image must be float",
        ),
        (spec(1, 64, 64, 3), spec(1, 64, 64, 1, dtype=jnp.bool), "mask must be float"),
    ],
)
def test_generator_s_wrong_arrays_say_so(image, mask, message):
    with pytest.raises(ValueError, match=f"glomeruli.Generator: {message}"):
        abstract(thin(), image, mask, train=False)


def test_far_dilations_need_a_larger_window():
    with pytest.raises(ValueError, match=f"{FIT} 84, got 80 x 80"):
        image, mask = spec(1, 80, 80, 3), spec(1, 80, 80, 1)
        abstract(thin(rates=(1, 20)), image, mask, train=False)


@pytest.mark.parametrize(
    ("channels", "image", "message"),
    [
        ((4, 4), WINDOW, r"channels is \(4, 4\); give two or more, positive, the last"),
        ((1,), WINDOW, r"channels is \(1,\); give two or more"),
        ((4, 0, 1), WINDOW, r"channels is \(4, 0, 1\); give two or more"),
        (CHANNELS, spec(1, 60, 60, 3), f"{FIT} 64, got 60 x 60"),
        (CHANNELS, spec(1, 64, 64, 1), r"image must be \[B, H, W, 3\]"),
        (CHANNELS, spec(1, 64, 64, 3, dtype=jnp.uint8), "image must be float32"),
    ],
)
def test_discriminator_s_wrong_use_says_so(channels, image, message):
    with pytest.raises(ValueError, match=f"glomeruli.Discriminator: {message}"):
        abstract(Discriminator(channels, F32), image, train=False)
