import jax
import numpy as np
import pytest

from jaxinpaint.ops.upsample import upsample_conv


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def literally(x, kernel):
    """Repeats every pixel twice, then sums the nine taps, zeros outside."""
    big = np.pad(x.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    b, h, w, _ = x.shape
    out = np.zeros((b, 2 * h, 2 * w, kernel.shape[-1]))
    for i, j in np.ndindex(3, 3):
        out += big[:, i : i + 2 * h, j : j + 2 * w] @ kernel[i, j]
    return out


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 2), (1, 4, 2, 6)])
def test_equals_repeat_then_convolve(shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=shape)
        kernel = rng.normal(size=(3, 3, shape[-1], 4))
        got = upsample_conv(jax.numpy.asarray(x), jax.numpy.asarray(kernel))
        np.testing.assert_allclose(got, literally(x, kernel), rtol=0, atol=1e-13)


def test_wrong_kernel_says_so():
    with pytest.raises(ValueError, match=r"kernel must be \[3, 3, 2, D\]"):
        upsample_conv(np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 5, 1)))
