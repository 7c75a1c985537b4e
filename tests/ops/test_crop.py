import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.ops.crop import crop


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_each_image_has_its_own_box():
    x = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype(np.float32)
    corner = np.int32([[0, 0], [5, 3], [2, 1]])
    got = crop(jnp.asarray(x), jnp.asarray(corner), 4)
    for image, made, (top, left) in zip(x, got, corner, strict=True):
        np.testing.assert_array_equal(made, image[top : top + 4, left : left + 4])


def test_a_corner_too_far_out_is_moved_in():
    x = jnp.arange(16.0, dtype=jnp.float32).reshape(1, 4, 4, 1)
    got = crop(x, jnp.asarray([[9, 3]], jnp.int32), 2)
    np.testing.assert_array_equal(got[0, ..., 0], [[10, 11], [14, 15]])
