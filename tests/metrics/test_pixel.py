import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.pixel import mae, mse, psnr


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def levels(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


def ones(image):
    return jnp.ones_like(image[..., :1])


def test_values_worked_by_hand():
    truth, prediction = levels(10, 20, 30, 40), levels(10, 23, 30, 36)
    region = levels(0, 1, 0, 1)
    kwargs = {"data_range": 255.0}
    np.testing.assert_allclose(
        mse(truth, prediction, region, **kwargs), 12.5, rtol=1e-6
    )
    np.testing.assert_allclose(mae(truth, prediction, region, **kwargs), 3.5, rtol=1e-6)
    np.testing.assert_allclose(
        mse(truth, prediction, ones(truth), **kwargs), 6.25, rtol=1e-6
    )
    np.testing.assert_allclose(
        mae(truth, prediction, ones(truth), **kwargs), 1.75, rtol=1e-6
    )
    # IPA-MedGAN specification: the PSNR of an MSE of 24.90 is 34.17 dB.
    wrong = levels(10 + 24.90**0.5)
    np.testing.assert_allclose(
        psnr(levels(10), wrong, levels(1), **kwargs), 34.17, atol=5e-3
    )


def test_colours_are_averaged_not_summed():
    truth = jnp.zeros((1, 2, 2, 3))
    prediction = truth.at[..., 1].set(255.0)
    got = psnr(truth, prediction, ones(truth), data_range=255.0)
    np.testing.assert_allclose(got, 10 * np.log10(3), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_sums_are_exact_enough(bits):
    data_range = 2.0**bits - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    draw = np.random.default_rng(bits)
    truth, prediction = draw.integers(0, 2**bits, (2, 2, 256, 256, 3), dtype=dtype)
    region = draw.integers(0, 2, (2, 256, 256, 1))
    error = (truth.astype(np.float64) - prediction) * region
    count = region.sum(axis=(1, 2, 3)) * 3
    want_mse = (error**2).sum(axis=(1, 2, 3)) / count
    arrays = [jnp.asarray(a, jnp.float32) for a in (truth, prediction, region)]
    np.testing.assert_allclose(mse(*arrays, data_range=data_range), want_mse, rtol=1e-5)
    np.testing.assert_allclose(
        mae(*arrays, data_range=data_range),
        np.abs(error).sum(axis=(1, 2, 3)) / count,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        psnr(*arrays, data_range=data_range),
        10 * np.log10(data_range**2 / want_mse),
        atol=1e-4,
    )


@pytest.mark.parametrize("top", [255, 65535])
def test_psnr_and_mse_are_scikit_image(top):
    metrics = pytest.importorskip("skimage.metrics")
    draw = np.random.default_rng(2)
    truth = draw.integers(0, top + 1, (1, 40, 33, 3))
    noisy = np.rint(truth + draw.normal(0, 0.04 * top, truth.shape))
    prediction = np.clip(noisy, 0, top)
    images = [jnp.asarray(image, jnp.float32) for image in (truth, prediction)]
    arrays = (*images, ones(images[0]))
    both = truth[0].astype(np.float64), prediction[0]
    want = metrics.peak_signal_noise_ratio(*both, data_range=top)
    # Float32 sums are good to 1e-6 of the error: 4e-6 dB.
    np.testing.assert_allclose(psnr(*arrays, data_range=float(top)), want, atol=2e-5)
    want = metrics.mean_squared_error(*both)
    np.testing.assert_allclose(mse(*arrays, data_range=float(top)), want, rtol=1e-5)


def test_one_level_of_65535_in_one_pixel_is_seen():
    truth = jnp.full((1, 512, 512, 1), 65535.0)
    prediction = truth.at[0, 3, 5, 0].add(-1.0)
    got = psnr(truth, prediction, ones(truth), data_range=65535.0)
    np.testing.assert_allclose(got, 10 * np.log10(65535.0**2 * 512**2), rtol=1e-6)


def test_equal_images_are_infinite_and_an_empty_region_is_undefined():
    truth = levels(1, 2, 3)
    assert psnr(truth, truth, ones(truth), data_range=255.0)[0] == np.inf
    other = levels(1, 9, 3)
    region = levels(1, 0, 1)
    assert psnr(truth, other, region, data_range=255.0)[0] == np.inf
    for score in (psnr, mse, mae):
        assert np.isnan(score(truth, other, levels(0, 0, 0), data_range=255.0)[0])


@pytest.mark.parametrize("score", [psnr, mse, mae])
def test_errors_name_the_array(score):
    good = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"prediction must be \[2, 4, 4, 3\]"):
        score(good, good[:1], ones(good), data_range=255.0)
    with pytest.raises(ValueError, match=r"region must be \[2, 4, 4, 1\]"):
        score(good, good, good, data_range=255.0)
    with pytest.raises(ValueError, match="prediction must be float32, got uint8"):
        score(good, good.astype(jnp.uint8), ones(good), data_range=255.0)
