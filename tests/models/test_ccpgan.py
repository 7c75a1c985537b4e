import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.ccpgan import Critic, Generator, pool_mask
from jaxinpaint.ops.attention import PERCEIVE


def generator(width=4, channels=1):
    return Generator(width, channels, PERCEIVE, jnp.dtype("float32"))


def counts(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def abstract(module, *shapes):
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return jax.eval_shape(module.init, jax.random.key(0), *arrays)["params"]


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


def test_layers_carry_the_lineage_s_names():
    image, mask = (1, 64, 64, 3), (1, 64, 64, 1)
    params = abstract(generator(32, 3), image, image, mask)
    assert params["n_d"]["conv14"]["kernel"].shape == (3, 3, 128, 64)
    assert params["n_ref"]["conv14"]["kernel"].shape == (3, 3, 64, 64)
    assert params["n_ref"]["conv13_upsample"]["kernel"].shape == (3, 3, 128, 64)
    assert params["refine"]["allconv11"]["kernel"].shape == (3, 3, 256, 128)
    assert params["refine"]["pmconv10"]["bias"].shape == (128,)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    image, neighbor = rng.uniform(-1, 1, (2, 2, 64, 72, 1)).astype(np.float32)
    mask = np.zeros((2, 64, 72, 1), np.float32)
    mask[0, 10:30, 20:50] = 1
    mask[1, :, :16] = 1
    net = generator()
    params = net.init(jax.random.key(0), image, neighbor, mask)
    return jax.jit(net.apply), params, image, neighbor, mask


def test_valid_pixels_stay_bit_for_bit(small):
    apply, params, image, neighbor, mask = small
    out = apply(params, image, neighbor, mask)
    valid = mask == 0
    np.testing.assert_array_equal(
        np.where(valid, out["completed"], 0), np.where(valid, image, 0)
    )
    np.testing.assert_array_equal(
        np.where(valid, 0, out["completed"]), np.where(valid, 0, out["refined"])
    )
    np.testing.assert_array_equal(
        out["coarse"], np.maximum(out["damaged"], out["reference"])
    )


def test_the_hole_is_never_read(small):
    apply, params, image, neighbor, mask = small
    want = apply(params, image, neighbor, mask)
    got = apply(params, np.where(mask > 0, np.nan, image), neighbor, mask)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_the_neighbour_under_the_hole_is_read(small):
    apply, params, image, neighbor, mask = small
    want = apply(params, image, neighbor, mask)["completed"]
    got = apply(params, image, np.where(mask > 0, -neighbor, neighbor), mask)
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


@pytest.mark.parametrize("which", [0, 1, 2])
def test_integers_are_refused(which):
    arrays = [np.zeros((1, 64, 64, 1), np.float32) for _ in range(3)]
    arrays[which] = arrays[which].astype(np.uint8)
    with pytest.raises(ValueError, match="must be float32, got uint8"):
        generator().init(jax.random.key(0), *arrays)


def test_one_hole_pixel_marks_its_cell():
    mask = np.zeros((1, 8, 12, 1), np.float32)
    mask[0, 5, 3] = 1
    want = [[0, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(pool_mask(mask)[0, :, :, 0], want)
