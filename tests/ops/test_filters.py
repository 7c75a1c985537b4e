import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.ops.filters import block_mean, gaussian_taps, separable


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_gaussian_taps_fall_like_a_gaussian():
    taps = gaussian_taps(11, 1.5)
    assert sum(taps) == pytest.approx(1.0)
    assert taps[5] / taps[6] == pytest.approx(np.exp(1 / (2 * 1.5**2)))
    assert taps == pytest.approx(taps[::-1])


def test_separable_is_a_correlation_with_the_outer_product():
    image = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    rows, columns = (1.0, -2.0, 0.5), (3.0, 0.0, 1.0, -4.0)
    want = np.zeros((2, 5, 3, 3), np.float32)
    for y in range(5):
        for x in range(3):
            for i, a in enumerate(rows):
                for j, b in enumerate(columns):
                    want[:, y, x] += a * b * image[:, y + i, x + j]
    got = separable(jnp.asarray(image), rows, columns)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_separable_has_the_gradient_of_a_correlation():
    image = jnp.zeros((1, 3, 3, 1))
    gradient = jax.grad(lambda x: separable(x, (1.0, 2.0, 3.0), (5.0, 7.0)).sum())(
        image
    )
    want = np.outer([1, 2, 3], [5, 12, 7])
    np.testing.assert_array_equal(gradient[0, :, :, 0], want)


def test_separable_refuses_an_image_below_the_filter():
    with pytest.raises(ValueError, match="at least 3 x 5 pixels"):
        separable(jnp.zeros((1, 8, 4, 1)), (1.0,) * 3, (1.0,) * 5)


def test_block_mean_drops_the_incomplete_block():
    image = jnp.asarray([[0.0, 2, 9], [4, 6, 9]]).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(block_mean(image, 2), np.full((1, 1, 1, 1), 3.0))
    np.testing.assert_array_equal(block_mean(image, 1), image)
