import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.ccpgan import Critic, Generator, pool_mask
from jaxinpaint.ops.attention import PERCEIVE
from tests.models import literal
from tests.models.literal import double, random_params

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def generator(width=2, channels=1, dtype="float32"):
    return Generator(width, channels, PERCEIVE, jnp.dtype(dtype))


def counts(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def abstract(module, *shapes):
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return jax.eval_shape(module.init, jax.random.key(0), *arrays)["params"]


def sizes(params):
    return {name: layer["kernel"].shape for name, layer in params.items()}


def test_generator_parameter_counts():
    image, mask = (1, 512, 512, 3), (1, 512, 512, 1)
    params = abstract(generator(32, 3), image, image, mask)
    assert counts(params["n_ref"]) == 1_448_227
    assert counts(params["n_d"]) == 1_489_699
    assert counts(params["refine"]) == 2_153_315
    assert counts(params) == 5_091_241


@pytest.mark.parametrize(
    "size, count", [(512, 2_930_049), (256, 2_733_441), (128, 2_684_289)]
)
def test_critic_parameter_counts(size, count):
    critic = Critic(64, jnp.dtype("float32"))
    assert counts(abstract(critic, (1, size, size, 3))) == count


def test_every_layer_is_the_table_s():
    image, mask = (1, 64, 64, 3), (1, 64, 64, 1)
    params = abstract(generator(32, 3), image, image, mask)
    for name, table in literal.GENERATOR.items():
        assert sizes(params[name]) == {
            row[0]: (*row[1:2] * 2, *row[4:]) for row in table
        }
    got = sizes(abstract(Critic(64, jnp.dtype("float32")), image))
    want = {row[0]: (*row[1:2] * 2, *row[4:]) for row in literal.CRITIC}
    assert got == {**want, "fc": (4 * 4 * 256, 1)}


def test_kernels_begin_as_glorot_uniform_and_biases_at_zero():
    x = np.zeros((1, 64, 64, 1), np.float32)
    net, critic = generator(4), Critic(4, jnp.dtype("float32"))
    made = {"critic": quick(critic.init)(jax.random.key(1), x)["params"]}
    made |= quick(net.init)(jax.random.key(0), x, x, x)["params"]
    spread = []
    for layer in (layer for tree in made.values() for layer in tree.values()):
        kernel = np.asarray(layer["kernel"])
        fan = np.prod(kernel.shape[:-2]) * sum(kernel.shape[-2:])
        assert np.abs(kernel).max() <= np.sqrt(6 / fan)
        spread.append(kernel.ravel() / np.sqrt(6 / fan))
        assert not np.any(layer["bias"])
    spread = np.concatenate(spread)
    # Uniform in [-1, 1]: variance 1/3, fourth moment 1/5.
    np.testing.assert_allclose(np.mean(spread**2), 1 / 3, rtol=0.02)
    np.testing.assert_allclose(np.mean(spread**4), 1 / 5, rtol=0.02)


@pytest.fixture(scope="module")
def case():
    """Arrays, and one program of the generator's images and gradient for all tests."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 64, 72, 1)).astype(np.float32)
    neighbor = image + rng.normal(size=image.shape).astype(np.float32) / 3
    neighbor = np.clip(neighbor, -1, 1)
    mask, damage = np.zeros((2, *image.shape), np.float32)
    mask[0, 10:31, 21:50] = 1  # no side aligned to 4 pixels
    mask[1, :, :16] = 1
    damage[0, 40:50, 60:] = 1
    net = generator()
    params = random_params(abstract(net, image.shape, image.shape, mask.shape), 1)
    weight = rng.normal(size=(2, *image.shape)).astype(np.float32) / image.size

    def loss(params, image, neighbor, mask, damage):
        out = net.apply({"params": params}, image, neighbor, mask, damage)
        total = (out["refined"] * weight[0] + out["coarse"] * weight[1]).sum()
        return total, out

    run = quick(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    apply = lambda *arrays: run(params, *arrays)[0][1]
    return run, apply, params, (image, neighbor, mask, damage), weight


def test_every_output_agrees_with_numpy(case):
    _, apply, params, arrays, _ = case
    got = apply(*arrays)
    want = literal.generator(double(params), *double(arrays), PERCEIVE)
    assert set(got) == set(want)
    for name, image in want.items():
        assert got[name].dtype == jnp.float32
        np.testing.assert_allclose(got[name], image, atol=2e-5, err_msg=name)
    # The test sees the attention, and both sides of the maximum and of the clip.
    assert (want["damaged"] > want["reference"]).mean() == pytest.approx(0.5, abs=0.45)
    assert 0 < (np.abs(want["refined"]) == 1).mean() < 0.9
    other = PERCEIVE._replace(softmax_scale=1.0)
    flat = literal.generator(double(params), *double(arrays), other)["refined"]
    assert np.abs(flat - want["refined"]).max() > 1e-3


@pytest.mark.parametrize("which", [0, 1, 2], ids=["params", "image", "neighbor"])
def test_gradient_agrees_with_finite_differences_of_numpy(case, which):
    run, _, params, arrays, weight = case
    _, grads = run(params, *arrays)
    rng = np.random.default_rng(which)
    at = double((params, *arrays[:2]))
    along = list(jax.tree.map(np.zeros_like, at))
    along[which] = jax.tree.map(lambda x: rng.normal(size=x.shape), at[which])
    along = tuple(along)

    def loss(step):
        moved = jax.tree.map(lambda x, d: x + step * d, at, along)
        out = literal.generator(*moved, *double(arrays[2:]), PERCEIVE)
        return (out["refined"] * weight[0] + out["coarse"] * weight[1]).sum()

    step = 1e-7  # fewer kinks of clip, maximum and ReLU are crossed than with 1e-5
    want = (loss(step) - loss(-step)) / (2 * step)
    got = jax.tree.map(lambda g, d: float(np.sum(np.float64(g) * d)), grads, along)
    np.testing.assert_allclose(sum(jax.tree.leaves(got)), want, rtol=1e-3)


def test_critic_agrees_with_numpy():
    net = Critic(3, jnp.dtype("float32"))
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 2))
    params = random_params(abstract(net, image.shape), 2)
    got = quick(net.apply)({"params": params}, np.float32(image))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, literal.critic(double(params), image), rtol=1e-4)


def test_bfloat16_stays_near_float32(case):
    _, apply, params, arrays, _ = case
    net = generator(dtype="bfloat16")
    shapes = [x.shape for x in arrays[:3]]
    assert {x.dtype for x in jax.tree.leaves(abstract(net, *shapes))} == {
        jnp.dtype("float32")
    }
    got = quick(net.apply)({"params": params}, *arrays)
    for name, want in apply(*arrays).items():
        half = name == "features"  # the images are float32
        assert got[name].dtype == (jnp.bfloat16 if half else jnp.float32)
        gap = np.abs(np.asarray(got[name], np.float32) - want)
        assert np.sqrt(np.mean(gap**2) / np.mean(want**2)) <= 2e-2, name
        # Rounded features are scores times 90 before the exponential: a few pixels
        # see other patches.
        assert gap.max() <= 1e-1 * np.abs(want).max(), name


def test_valid_pixels_stay_bit_for_bit(case):
    _, apply, _, arrays, _ = case
    image, mask = arrays[0], arrays[2]
    out = apply(*arrays)
    valid = mask == 0
    np.testing.assert_array_equal(
        np.where(valid, out["completed"], 0), np.where(valid, image, 0)
    )
    np.testing.assert_array_equal(
        np.where(valid, 0, out["completed"]), np.where(valid, 0, out["refined"])
    )


def test_the_hole_is_never_read(case):
    run, apply, params, (image, *others), _ = case
    want = apply(image, *others)
    hidden = np.where(others[1] > 0, np.nan, image)
    (_, got), grads = run(params, hidden, *others)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all()


def test_the_neighbour_under_the_hole_is_read(case):
    _, apply, _, (image, neighbor, mask, damage), _ = case
    want = apply(image, neighbor, mask, damage)["completed"]
    got = apply(image, np.where(mask > 0, -neighbor, neighbor), mask, damage)
    assert np.abs(got["completed"] - want).max() > 1e-3


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 60, 64, 1), "multiples of 8 and at least 64, got 60 x 64; pad to 64 x 64"),
        ((1, 68, 64, 1), "got 68 x 64; pad to 72 x 64"),
        ((1, 64, 64, 3), r"image must be \[B, H, W, 1\], got \[1, 64, 64, 3\]"),
    ],
)
def test_wrong_shapes_say_so(shape, message):
    x = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        generator().init(jax.random.key(0), x, x, x[..., :1])


NAMES = ("image", "neighbor", "mask", "neighbor_mask")


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.astype(np.uint8), "{} must be float32, got uint8"),
        (lambda x: x[:, :, :-8], r"{} must be \[1, 64, 72, 1\], got \[1, 64, 64, 1\]"),
        (lambda x: x[..., 0], r"{} must be \[.*1\], got \[1, 64, 72\]"),
    ],
)
def test_each_array_is_checked(which, change, message):
    arrays = [np.zeros((1, 64, 72, 1), np.float32) for _ in NAMES]
    arrays[which] = change(arrays[which])
    name = NAMES[which]
    if which == 0 and "72, 1" in message:
        name = "neighbor"  # the image sets the size
        message = r"{} must be \[1, 64, 64, 1\], got \[1, 64, 72, 1\]"
    with pytest.raises(ValueError, match=message.format(name)):
        jax.eval_shape(generator().init, jax.random.key(0), *arrays)


def test_one_hole_pixel_marks_its_cell():
    mask = np.zeros((1, 8, 12, 1), np.float32)
    mask[0, 5, 3] = 1
    want = [[0, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(pool_mask(mask)[0, :, :, 0], want)
