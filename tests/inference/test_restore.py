"""A restored image: what was valid is bit for bit what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ccpgan import get_config
from jaxinpaint import systems
from jaxinpaint.core import checks
from jaxinpaint.inference.restore import restorer

SIZES = [(70, 83), (61, 200), (64, 64), (40, 100)]


def blur(variables, frozen, batch, key):
    """Nine-pixel mean of what is valid, and valid pixels that are a little off."""
    known = jnp.where(batch["mask"] > 0, 0.0, batch["image"])
    window = (1, 3, 3, 1)
    total = jax.lax.reduce_window(known, 0.0, jax.lax.add, window, (1,) * 4, "SAME")
    guess = 0.1 * total + 0.01 * batch["neighbor"]
    return {"completed": jnp.where(batch["mask"] > 0, guess, 0.999 * known)}


@pytest.fixture(scope="module")
def restore():
    config = get_config("smoke")
    system = systems.build(config)._replace(predict=blur)
    return restorer(config, system, {}, {})


def sample(height=64, width=64, channels=1, dtype="uint8", count=1):
    """Noise, with a hole that touches the lower right border."""
    rng = np.random.default_rng(0)
    shape = (count, height, width, channels)
    if dtype == "float32":
        image, neighbor = rng.uniform(-1, 1, (2, *shape)).astype(np.float32)
    else:
        top = np.iinfo(dtype).max + 1
        image, neighbor = rng.integers(0, top, (2, *shape)).astype(dtype)
    mask = np.zeros((*shape[:3], 1), np.uint8)
    mask[:, height // 2 :, width // 2 :] = 1
    return {"image": image, "neighbor": neighbor, "mask": mask}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_valid_pixels_are_kept_bit_for_bit(restore, height, width, dtype):
    channels = 3 if width == 83 else 1
    batch = sample(height, width, channels, dtype)
    out = restore(batch)
    assert (out.shape, out.dtype) == (batch["image"].shape, batch["image"].dtype)
    hole = np.broadcast_to(batch["mask"] > 0, out.shape)
    np.testing.assert_array_equal(out[~hole], batch["image"][~hole])
    assert (out[hole] != batch["image"][hole]).mean() > 0.9


def test_levels_are_scaled_there_and_back(restore):
    """One hole pixel among eight of level 204, by hand: 0.1 * 8 * 0.6 + 0.01 * -0.6.

    (0.474 + 1) * 127.5 = 187.9.
    """
    image = np.full((1, 64, 64, 1), 204, np.uint8)
    mask = np.zeros_like(image)
    mask[0, 30, 30] = 1
    batch = {"image": image, "neighbor": np.full_like(image, 51), "mask": mask}
    assert restore(batch)[0, 30, 30, 0] == 188
    assert batch["image"][0, 30, 30, 0] == 204  # the caller's array is untouched


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30, 0.25])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_what_lies_in_the_hole_is_never_read(restore, height, width, garbage):
    """The hole reaches the border, where padding repeats what is at the edge."""
    batch = sample(height, width, dtype="float32")
    spoilt = np.where(batch["mask"] > 0, np.float32(garbage), batch["image"])
    out = restore({**batch, "image": spoilt})
    np.testing.assert_array_equal(out, restore(batch))
    assert np.isfinite(out).all()


def test_an_empty_mask_gives_the_image_back(restore):
    batch = sample(70, 83)
    batch["mask"][:] = 0
    out = restore(batch)
    np.testing.assert_array_equal(out, batch["image"])
    assert not np.shares_memory(out, batch["image"])


def test_in_a_batch_each_image_has_its_own_mask(restore):
    batch = sample(count=2)
    batch["mask"][0] = 0
    out = restore(batch)
    np.testing.assert_array_equal(out[0], batch["image"][0])
    alone = restore({name: array[1:] for name, array in batch.items()})
    np.testing.assert_array_equal(out[1:], alone)


def test_the_networks_keep_these_promises():
    """CCPGAN with random weights, at a size off its stride."""
    config = get_config("smoke")
    system = systems.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0)).variables["generator"]
    rng = np.random.default_rng(1)
    draw = lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
    variables = {"generator": jax.tree.map(draw, shapes)}
    restore = restorer(config, system, variables, {})
    batch = sample(61, 83, dtype="float32")
    out = restore(batch)
    hole = batch["mask"] > 0
    np.testing.assert_array_equal(out[~hole], batch["image"][~hole])
    assert np.isfinite(out).all() and np.std(out[hole]) > 0
    spoilt = np.where(hole, np.float32(np.nan), batch["image"])
    np.testing.assert_array_equal(restore({**batch, "image": spoilt}), out)


def refused(batch, error, match):
    config = get_config("smoke")
    with pytest.raises(error, match=match):
        systems.validate_inputs(config.system, "restore", batch)


@pytest.mark.parametrize("name", ["image", "neighbor", "mask"])
def test_a_missing_tensor_is_refused(restore, name):
    batch = sample()
    for lacking in ({**batch, name: None}, {k: batch[k] for k in batch if k != name}):
        with pytest.raises(
            checks.ShapeMismatchError, match=f"restore: {name} is missing"
        ):
            restore(lacking)


def test_no_neighbor_mask_may_be_said_outright(restore):
    batch = sample()
    np.testing.assert_array_equal(
        restore({**batch, "neighbor_mask": None}), restore(batch)
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("image", (64, 64, 1)),
        ("neighbor", (1, 64, 72, 1)),
        ("neighbor", (1, 64, 64, 3)),
        ("neighbor", (2, 64, 64, 1)),
        ("mask", (1, 64, 64, 3)),
        ("mask", (1, 72, 64, 1)),
        ("neighbor_mask", (1, 64, 64, 2)),
    ],
)
def test_shapes_that_disagree_are_refused(name, shape):
    batch = {**sample(), name: np.zeros(shape, np.uint8)}
    refused(batch, checks.ShapeMismatchError, rf"restore: {name} must be \[")


def test_sizes_that_padding_would_make_equal_still_disagree(restore):
    batch = {**sample(70, 83), "neighbor": sample(72, 88)["neighbor"]}
    with pytest.raises(checks.ShapeMismatchError, match="neighbor must be"):
        restore(batch)


@pytest.mark.parametrize("name", ["mask", "neighbor_mask"])
@pytest.mark.parametrize("value", [255, 2, 0.5, np.nan])
def test_a_mask_of_other_values_is_refused(name, value):
    batch = sample()
    marks = np.zeros((1, 64, 64, 1), np.float32)
    marks[0, 3, 5] = value
    refused({**batch, name: marks}, checks.MaskValueError, "0 .valid. and 1 .hole.")


def with_hole(rows, cols):
    batch = sample(100, 100)
    batch["mask"][:] = 0
    batch["mask"][:, :rows, :cols] = 1
    return batch


def test_all_hole_is_refused():
    refused(with_hole(100, 100), checks.MaskCoverageError, "sample 0 .* all hole")


def test_a_mask_that_looks_inverted_is_refused():
    refused(with_hole(100, 96), checks.MaskValueError, "96.0% hole.* inverted")


def test_a_hole_beyond_the_evaluated_range_warns(restore):
    with pytest.warns(UserWarning, match="77.0% hole, outside the evaluated range"):
        restore(with_hole(100, 77))
    restore(with_hole(100, 76))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_where_it_counts(value):
    for name in ("image", "neighbor"):
        batch = sample(dtype="float32")
        batch[name][0, 1, 2] = value
        refused(batch, checks.NonFiniteInputError, rf"{name} is .* at \(0, 1, 2, 0\)")
    batch = sample(dtype="float32")
    batch["neighbor"][0, -1, -1] = value  # the neighbour has no hole there
    refused(batch, checks.NonFiniteInputError, "neighbor is")


def test_a_value_out_of_range_is_refused_where_it_counts():
    for name in ("image", "neighbor"):
        batch = sample(dtype="float32")
        batch[name][0, 1, 2] = 255.0
        refused(batch, checks.RangeError, rf"{name} must lie in \[-1, 1\], got 255")


def dense(batch):
    """A hole pixel in every 16 x 16: no undamaged patch of 24 x 24 is left."""
    marks = np.zeros((1, *batch["image"].shape[1:3], 1), np.uint8)
    marks[:, 4::16, 4::16] = 1
    return marks


def test_no_patch_in_either_image_is_refused():
    batch = sample(96, 96)
    batch |= {"mask": dense(batch), "neighbor_mask": dense(batch)}
    refused(batch, checks.NoValidKeyError, "sample 0 has no undamaged patch")


def test_patches_in_the_neighbor_alone_warn(restore):
    batch = sample(96, 96)
    with pytest.warns(UserWarning, match="neighbo"):
        restore({**batch, "mask": dense(batch)})
