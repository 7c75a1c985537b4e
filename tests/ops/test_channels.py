import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.ops.channels import gather, room, spread


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_zeros_stand_after_each_part():
    x = jnp.asarray([[1.0, 2, 3, 4, 5, 6]])
    got = spread(x, 1, (1, 3, 2), 2)
    np.testing.assert_array_equal(got, [[1, 0, 2, 3, 4, 0, 5, 6]])
    np.testing.assert_array_equal(gather(got, 1, (1, 3, 2), 2), x)
    assert [room(part, 8) for part in (1, 8, 17)] == [8, 8, 24]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis(axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5, 5)), jnp.float32)
    wide = spread(x, axis, (2, 3), 4)
    np.testing.assert_array_equal(wide, np.insert(x, [2, 2, 5], 0, axis=axis))
    np.testing.assert_array_equal(gather(wide, axis, (2, 3), 4), x)


def test_nothing_happens_where_all_parts_fit():
    x = jnp.ones((2, 24))
    assert spread(x, 1, (8, 16), 8) is x
    assert gather(x, 1, (8, 16), 8) is x
    assert spread(x, 1, (5, 19), 1) is x


@pytest.mark.parametrize("function", [spread, gather])
def test_wrong_parts_say_so(function):
    with pytest.raises(ValueError, match=r"parts \(3, 4\) ask for .* along axis 1"):
        function(jnp.ones((2, 9)), 1, (3, 4), 8)
