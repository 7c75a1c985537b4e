import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.fsim import _median, fsim, fsimc, phase_congruency


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def photo(channels=3, side=64):
    y, x, c = np.meshgrid(*map(np.arange, (side, side, channels)), indexing="ij")
    image = 120 + 70 * np.sin(0.2 * x + 0.003 * x * y + c) + 40 * (y > 30 + c)
    return jnp.asarray(np.rint(image)[None], jnp.float32)


def damaged(truth):
    """Noise in rows 20 to 40, columns 20 to 40."""
    noise = np.random.default_rng(0).normal(0, 40, truth[:, 20:40, 20:40].shape)
    changed = np.array(truth)
    changed[:, 20:40, 20:40] += np.rint(noise)
    return jnp.asarray(np.clip(changed, 0, 255), jnp.float32)


def box(truth, start, stop):
    region = jnp.zeros_like(truth[..., :1])
    return region.at[:, start:stop, start:stop].set(1.0)


def ones(image):
    return jnp.ones_like(image[..., :1])


def test_equal_images_score_one_flat_ones_too():
    truth = photo()
    np.testing.assert_allclose(
        fsimc(truth, truth, ones(truth), data_range=255.0), 1.0, rtol=1e-6
    )
    flat = jnp.full((1, 64, 64, 1), 100.0)
    np.testing.assert_allclose(
        fsim(flat, flat, ones(flat), data_range=255.0), 1.0, rtol=1e-6
    )


def test_symmetric_and_falls_with_damage():
    truth = photo()
    prediction = damaged(truth)
    whole = ones(truth)
    forward = fsimc(truth, prediction, whole, data_range=255.0)
    backward = fsimc(prediction, truth, whole, data_range=255.0)
    np.testing.assert_allclose(forward, backward, rtol=1e-6)
    worse = fsimc(truth, 255.0 - prediction, whole, data_range=255.0)
    assert worse[0] < forward[0] < 0.99


def test_region_restricts_the_pooling():
    truth = photo(1)
    prediction = damaged(truth)
    whole = fsim(truth, prediction, ones(truth), data_range=255.0)[0]
    hole = fsim(truth, prediction, box(truth, 20, 40), data_range=255.0)[0]
    far = fsim(truth, prediction, box(truth, 56, 64), data_range=255.0)[0]
    assert hole < whole < far
    assert far > 0.98
    empty = fsim(truth, prediction, box(truth, 5, 5), data_range=255.0)[0]
    assert np.isnan(empty)


def test_region_is_reduced_like_the_image():
    # 384 pixels are halved: a hole given at full size scores like the halved pair.
    small = photo(1, 192)
    large = jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)
    region = box(small, 20, 40)
    doubled = jnp.repeat(jnp.repeat(region, 2, 1), 2, 2)
    want = fsim(small, damaged(small), region, data_range=255.0)
    worse = jnp.repeat(jnp.repeat(damaged(small), 2, 1), 2, 2)
    got = fsim(large, worse, doubled, data_range=255.0)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_colour_counts_in_fsimc_alone():
    truth = photo()
    # (1, -1.157, 1.434) leaves the luma as it is: 0.299 - 0.587 a + 0.114 b = 0.
    shift = 20.0 * jnp.asarray([1.0, -(0.299 + 0.114) / 0.587, 1.0]).reshape(1, 1, 1, 3)
    tinted = truth + shift
    whole = ones(truth)
    np.testing.assert_allclose(
        fsim(truth, tinted, whole, data_range=255.0), 1.0, rtol=1e-4
    )
    assert fsimc(truth, tinted, whole, data_range=255.0)[0] < 0.995


def test_grey_has_no_chroma():
    truth = photo(1)
    prediction = damaged(truth)
    whole = ones(truth)
    want = fsim(truth, prediction, whole, data_range=255.0)
    np.testing.assert_array_equal(
        fsimc(truth, prediction, whole, data_range=255.0), want
    )
    as_rgb = [jnp.repeat(image, 3, axis=3) for image in (truth, prediction)]
    np.testing.assert_allclose(fsim(*as_rgb, whole, data_range=255.0), want, rtol=1e-5)


def test_16_bits_score_like_8():
    truth = photo(1)
    prediction = damaged(truth)
    whole = ones(truth)
    low = fsim(truth, prediction, whole, data_range=255.0)
    high = fsim(truth * 257.0, prediction * 257.0, whole, data_range=65535.0)
    np.testing.assert_allclose(low, high, rtol=1e-4)


def test_phase_congruency_marks_an_edge_at_any_contrast():
    step = (np.arange(64) >= 32).astype(np.float32)
    image = np.tile(step, (64, 1))[None]
    low, high = (
        np.asarray(phase_congruency(jnp.asarray(50.0 + contrast * image)))[0]
        for contrast in (20.0, 200.0)
    )
    assert low.min() >= 0 and low.max() <= 1
    assert low[32].argmax() in (0, 31, 32, 63)  # the edge, or where the image wraps
    np.testing.assert_allclose(low, high, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 6)])
def test_median_is_the_lower_middle_value(size):
    values = np.random.default_rng(3).exponential(size=(2, 3, *size))
    values = values.astype(np.float32)
    values[0, 0] = 0.0
    flat = np.sort(values.reshape(2, 3, -1))
    want = flat[..., (flat.shape[-1] - 1) // 2]
    np.testing.assert_array_equal(_median(jnp.asarray(values)), want)


def test_other_channel_counts_are_refused():
    image = jnp.zeros((1, 16, 16, 2))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        fsimc(image, image, ones(image), data_range=255.0)
