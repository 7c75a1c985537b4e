import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from jaxinpaint.ops.expansion import correlate, expand, resample


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bilinear(plane, size):
    """One pixel at a time, centres at halves, clamped to the outermost centres."""
    height, width = plane.shape
    out = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = np.clip((i + 0.5) * height / size[0] - 0.5, 0, height - 1)
            x = np.clip((j + 0.5) * width / size[1] - 0.5, 0, width - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            for row, across in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, along in ((left, 1 - (x - left)), (left + 1, x - left)):
                    weight = across * along
                    if (row, column) == (top, left):
                        out[i, j] = 0
                    out[i, j] += weight * plane[row, column]
    return out


@pytest.mark.parametrize("size", [(13, 17), (6, 8), (7, 9), (26, 34), (5, 17)])
@pytest.mark.parametrize("taps", [(1.0,), (0.25, 0.5, 0.25), (0.1, 0.2, 0.3, 0.3, 0.1)])
def test_resample_is_blur_then_bilinear(size, taps):
    planes = noise(2, 13, 17)
    got = resample(jnp.asarray(planes), size, taps)
    for n in range(2):
        blurred = correlate1d(planes[n].astype(float), taps, 0, mode="mirror")
        blurred = correlate1d(blurred, taps, 1, mode="mirror")
        np.testing.assert_allclose(got[n], bilinear(blurred, size), atol=1e-5)


def test_doubling_by_hand():
    rows = jnp.float32([0, 1, 2, 3])[:, None]
    got = resample(rows, (8, 1), (1.0,))[:, 0]
    np.testing.assert_array_equal(got, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_correlate_equals_scipy():
    planes = noise(2, 9, 12)
    rows, columns = np.float32([0.5, -1, 2, 0.25, 3]), np.float32([1, 2, -0.5])
    got = correlate(jnp.asarray(planes), jnp.asarray(rows), jnp.asarray(columns))
    want = correlate1d(planes, rows, 1, mode="nearest")
    want = correlate1d(want, columns, 2, mode="nearest")
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("radius, sigma", [(5, 1.2), (7, 1.5)])
def test_polynomials_are_found_again(radius, sigma):
    y, x = np.mgrid[-12:13, -12:13]
    shades = 7 + 3 * y - 2 * x + 0.5 * y**2 - 0.25 * x**2 + 0.125 * x * y
    got = expand(jnp.asarray(shades[None], jnp.float32), radius, sigma)
    middle = got[:, 0, 12, 12]
    np.testing.assert_allclose(middle, [3, -2, 0.5, -0.25, 0.125], rtol=1e-4)


def test_least_squares_by_hand():
    shades = noise(1, 11, 11, seed=2)
    y, x = np.mgrid[-5:6, -5:6]
    basis = np.stack([y**0, y, x, y**2, x**2, x * y], axis=-1).reshape(-1, 6)
    weights = np.exp(-(y**2 + x**2) / (2 * 1.1**2)).reshape(-1, 1)
    normal = basis.T @ (weights * basis)
    want = np.linalg.solve(normal, basis.T @ (weights[:, 0] * shades.ravel()))
    got = expand(jnp.asarray(shades), 5, 1.1)[:, 0, 5, 5]
    np.testing.assert_allclose(got, want[1:], rtol=1e-4, atol=1e-5)
