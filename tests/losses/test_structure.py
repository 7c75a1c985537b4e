"""Golden numbers of another program in float64: specification of FlowInpaint 5.7."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.losses.structure import ssim_loss
from tests.losses.grids import A, B


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def smooth(seed, size=24):
    x = np.random.default_rng(seed).uniform(-1, 1, (2, size, size, 1))
    return np.float32((x + np.roll(x, 1, 1) + np.roll(x, 1, 2)) / 3)


def test_golden_numbers():
    with jax.enable_x64(True):
        got = 1.0 - ssim_loss(jnp.asarray(A), jnp.asarray(B))
        assert got == pytest.approx(0.0061299817, abs=1e-10)
        corner = 1.0 - ssim_loss(jnp.asarray(A[:, :4, :4]), jnp.asarray(B[:, :4, :4]))
        assert corner == pytest.approx(-0.2269062581, abs=1e-10)


def test_it_is_the_structural_similarity_of_dm_pix():
    first, second = smooth(0), smooth(1)
    with jax.numpy_dtype_promotion("standard"):
        want = dm_pix.ssim(
            (first + 1) / 2, (second + 1) / 2, filter_size=7, filter_sigma=1.5
        )
    assert ssim_loss(first, second) == pytest.approx(1 - float(want.mean()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_any_size_is_finite_and_equal_images_are_no_loss(size):
    x = smooth(2, 8)[:, :size, :size]
    value, gradient = jax.value_and_grad(lambda y: ssim_loss(x, y))(-x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert np.any(np.asarray(gradient) != 0)
    assert ssim_loss(x, x) == pytest.approx(0, abs=1e-6)


def test_flat_images_differ_by_their_level_alone():
    # Without variance only the means count: 2 * 0.25 * 0.75, with C1 = 1e-4.
    x = np.full((1, 9, 9, 1), -0.5, np.float32)
    want = 1 - (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim_loss(x, -x) == pytest.approx(want, rel=1e-3)  # c2 is 9e-4


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"prediction must be \[2, 24, 24, 1\]"):
        ssim_loss(smooth(0), smooth(0, 8))
