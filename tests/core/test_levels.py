import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.levels import from_levels, scale_batch, to_levels


@pytest.mark.parametrize(("dtype", "count"), [("uint8", 256), ("uint16", 65536)])
def test_every_level_comes_back(dtype, count):
    levels = np.arange(count).astype(dtype)
    there = np.asarray(jax.jit(from_levels)(levels))
    assert there.dtype == np.float32
    assert (there[0], there[-1]) == (-1.0, 1.0)
    np.testing.assert_array_equal(there, -there[::-1])
    back = to_levels(there, dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize(
    ("dtype", "level", "value"),
    [
        ("uint8", 51, -0.6),  # 51 / 127.5 = 0.4
        ("uint8", 204, 0.6),
        ("uint16", 13107, -0.6),  # 13107 / 32767.5 = 0.4
        ("uint16", 65535, 1.0),
    ],
)
def test_levels_are_scaled_as_by_hand(dtype, level, value):
    got = from_levels(jnp.asarray([level], dtype))
    np.testing.assert_allclose(got, [value], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "level"),
    [(-1.0, 0), (0.0, 128), (1.0, 255), (-7.0, 0), (1.5, 255), (1 / 127.5, 129)],
)
def test_halves_go_up_and_what_lies_outside_to_the_nearest_level(value, level):
    """0.0 is level 127.5."""
    assert to_levels(np.float64([value]), "uint8") == level


@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_another_dtype_has_no_levels(dtype):
    with pytest.raises(KeyError, match=dtype):
        from_levels(jnp.zeros(3, dtype))


def test_marks_are_no_levels_and_floats_pass():
    image = np.float32([[-0.25, 1.0]])
    batch = {
        "image": np.uint8([[0, 255]]),
        "neighbor": np.uint16([[0, 65535]]),
        "previous": image,
        "mask": np.uint8([[0, 1]]),
        "neighbor_mask": np.uint8([[1, 0]]),
        "label": np.uint8([[0, 3]]),
    }
    got = jax.jit(scale_batch)(batch)
    assert {array.dtype for array in got.values()} == {jnp.dtype("float32")}
    for name in ("image", "neighbor"):
        np.testing.assert_array_equal(got[name], [[-1, 1]])
    for name in ("mask", "neighbor_mask", "label"):
        np.testing.assert_array_equal(got[name], batch[name])
    np.testing.assert_array_equal(got["previous"], image)
