import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.losses.reconstruction import masked_l1, spatial_discount
from tests.losses.grids import A, B, M


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_counts_only_the_hole():
    truth = np.zeros((2, 2, 2, 3), np.float32)
    made = np.zeros_like(truth)
    made[0, 0, 0] = [1, 2, 3]  # in the hole
    made[1, 1, 1] = 9  # outside
    mask = np.zeros((2, 2, 2, 1), np.float32)
    mask[0, 0, :] = 1  # two hole pixels, the second one right
    assert masked_l1(truth, made, mask) == pytest.approx(6 / (3 * 2))


def test_without_a_hole_it_is_zero():
    x = np.ones((1, 2, 2, 1), np.float32)
    assert masked_l1(x, -x, 0 * x) == 0.0


def test_golden_numbers_of_both_regions():
    """Specification of FlowInpaint, 5.7."""
    with jax.enable_x64(True):
        hole = masked_l1(jnp.asarray(A), jnp.asarray(B), jnp.asarray(M))
        valid = masked_l1(jnp.asarray(A), jnp.asarray(B), jnp.asarray(1 - M))
    assert hole == pytest.approx(0.7230158730, abs=1e-10)
    assert valid == pytest.approx(0.7119937695, abs=1e-10)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_constant_error_weighs_the_same_in_a_hole_of_any_size(rows):
    x = np.zeros((2, 8, 8, 1), np.float32)
    mask = np.zeros_like(x)
    mask[:, :rows] = 1
    assert masked_l1(x, x + 0.5, mask) == pytest.approx(0.5, rel=1e-6)


def test_shapes_must_agree():
    x = np.ones((1, 2, 2, 3), np.float32)
    with pytest.raises(ValueError, match=r"weight must be \[1, 2, 2, 1\]"):
        masked_l1(x, x, x)


def test_discount_by_hand():
    # side 4: the nearer border is 0, 1, 2, 1 away; the larger factor counts.
    want = np.float32(
        [[1, 1, 1, 1], [1, 0.5, 0.5, 0.5], [1, 0.5, 0.25, 0.5], [1, 0.5, 0.5, 0.5]]
    )
    np.testing.assert_allclose(spatial_discount(4, 0.5)[..., 0], want)
