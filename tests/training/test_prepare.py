"""The host batch against the declaration, and the symmetries of a square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.checks import DTypeError, ShapeMismatchError
from jaxinpaint.training.prepare import check_spec, flip

SPEC = {
    "image": jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32),
    "mask": jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32),
}


def host(rows=4, image="uint8", mask="uint8", **more):
    return {
        "image": np.zeros((rows, 8, 8, 3), image),
        "mask": np.zeros((rows, 8, 8, 1), mask),
        **more,
    }


@pytest.mark.parametrize("image", ["uint8", "uint16", "float32"])
def test_levels_and_floats_fit(image):
    check_spec("train", host(image=image), SPEC, 1)


def test_each_process_brings_its_share():
    check_spec("train", host(rows=2), SPEC, 2)
    with pytest.raises(ShapeMismatchError, match=r"image must be \[2, 8, 8, 3\], got"):
        check_spec("train", host(rows=4), SPEC, 2)


def test_a_missing_or_an_extra_tensor_is_refused():
    with pytest.raises(ShapeMismatchError, match="asks for .*mask.*, the data give"):
        check_spec("train", {"image": host()["image"]}, SPEC, 1)
    with pytest.raises(ShapeMismatchError, match="give .*neighbor"):
        check_spec("train", host(neighbor=host()["image"]), SPEC, 1)


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "float16"])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(DTypeError, match=f"image must be float32, .* got {dtype}"):
        check_spec("train", host(image=dtype), SPEC, 1)


def symmetries(square):
    turns = [np.rot90(square, k) for k in range(4)]
    return [*turns, *(turn.T for turn in turns)]


def test_a_sample_keeps_its_tensors_aligned_and_all_eight_symmetries_occur():
    """All tensors hold the same numbers, so that they must stay equal."""
    square = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    rows = np.tile(square[None, :, :, None], (64, 1, 1, 1))
    batch = {"image": rows, "neighbor": rows + 100, "mask": rows + 200}
    out = jax.tree.map(np.asarray, flip(batch, jax.random.key(3)))
    np.testing.assert_array_equal(out["neighbor"], out["image"] + 100)
    np.testing.assert_array_equal(out["mask"], out["image"] + 200)
    seen = [
        [np.array_equal(sample[..., 0], one) for one in symmetries(square)]
        for sample in out["image"]
    ]
    assert np.array_equal(np.sum(seen, axis=1), np.ones(64))
    assert np.all(np.sum(seen, axis=0) > 0)


def test_channels_stay_where_they_are():
    rows = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)
    out = flip({"image": rows}, jax.random.key(0))["image"]
    np.testing.assert_array_equal(
        np.sort(np.asarray(out).reshape(8, 16, 3), axis=1),
        np.sort(rows.reshape(8, 16, 3), axis=1),
    )
