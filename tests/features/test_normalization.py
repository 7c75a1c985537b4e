import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.normalization import CAFFE, IMAGENET, SIGNED, normalize


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def pixel(*levels):
    """One pixel of 8-bit levels, scaled to [-1, 1]."""
    return jnp.asarray(levels, jnp.float32).reshape(1, 1, 1, -1) / 127.5 - 1.0


def test_imagenet_by_hand():
    got = normalize(pixel(255, 0, 51), IMAGENET)[0, 0, 0]
    want = [0.515 / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_caffe_by_hand():
    # Red first in, blue first out, in levels of 0..255.
    got = normalize(pixel(255, 0, 51), CAFFE)[0, 0, 0]
    np.testing.assert_allclose(
        got, [51 - 103.939, -116.779, 255 - 123.68], rtol=1e-6, atol=1e-5
    )


def test_grey_is_three_equal_channels():
    got = normalize(pixel(100), CAFFE)[0, 0, 0]
    np.testing.assert_allclose(
        got, [100 - 103.939, 100 - 116.779, 100 - 123.68], rtol=1e-5
    )


def test_signed_gives_the_image_back_and_clips_nothing():
    image = np.random.default_rng(0).normal(0, 2, (2, 5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(normalize(image, SIGNED), image)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_stays(dtype):
    assert normalize(jnp.zeros((1, 2, 2, 1), dtype), IMAGENET).dtype == dtype


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (1, 4, 4, 4), (4, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="normalize: image must"):
        normalize(jnp.zeros(shape), IMAGENET)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="got uint8; integer images are scaled"):
        normalize(jnp.zeros((1, 2, 2, 3), jnp.uint8), IMAGENET)
