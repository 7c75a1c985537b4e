import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.fsim import _median, fsim, fsimc, phase_congruency

pytestmark = pytest.mark.usefixtures("quick_programs")


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


def slow_congruency(image):
    """Phase congruency by Kovesi's definition, in float64, of [H, W]; odd sides.

    The noise threshold is taken in space: from the energy of each filter's impulse
    response, and from those of each pair of scales.
    """
    height, width = image.shape
    x = np.arange(-(width - 1) / 2, (width + 1) / 2) / (width - 1)
    y = np.arange(-(height - 1) / 2, (height + 1) / 2) / (height - 1)
    x, y = (np.fft.ifftshift(axis) for axis in np.meshgrid(x, y))
    radius, angle = np.sqrt(x**2 + y**2), np.arctan2(-y, x)
    radius[0, 0] = 1
    spectrum = np.fft.fft2(image)
    energy_all = amplitude_all = 0
    for orientation in range(4):
        turn = orientation * np.pi / 4
        sine = np.sin(angle) * np.cos(turn) - np.cos(angle) * np.sin(turn)
        cosine = np.cos(angle) * np.cos(turn) + np.sin(angle) * np.sin(turn)
        distance = np.abs(np.arctan2(sine, cosine))
        spread = np.exp(-(distance**2) / (2 * (np.pi / 4 / 1.2) ** 2))
        answers, impulses, filters = [], [], []
        for scale in range(4):
            center = 1 / (6 * 2.0**scale)
            radial = np.exp(-(np.log(radius / center) ** 2) / (2 * np.log(0.55) ** 2))
            radial = radial / (1 + (radius / 0.45) ** 30)
            radial[0, 0] = 0
            filters.append(radial * spread)
            impulses.append(np.fft.ifft2(filters[-1]).real * np.sqrt(image.size))
            answers.append(np.fft.ifft2(spectrum * filters[-1]))
        even, odd = np.real(answers), np.imag(answers)
        length = np.sqrt(even.sum(0) ** 2 + odd.sum(0) ** 2) + 1e-4
        mean_even, mean_odd = even.sum(0) / length, odd.sum(0) / length
        energy = np.zeros(image.shape)
        for e, o in zip(even, odd, strict=True):
            energy += e * mean_even + o * mean_odd - abs(e * mean_odd - o * mean_even)
        median = np.median(np.abs(answers[0]) ** 2)
        noise = -median / np.log(0.5) / np.sum(filters[0] ** 2)
        squares = sum(np.sum(a**2) for a in impulses)
        products = sum(
            np.sum(impulses[i] * impulses[j]) for j in range(4) for i in range(j)
        )
        tau = np.sqrt((2 * noise * squares + 4 * noise * products) / 2)
        mean, deviation = tau * np.sqrt(np.pi / 2), tau * np.sqrt(2 - np.pi / 2)
        energy_all += np.maximum(energy - (mean + 2 * deviation) / 1.7, 0)
        amplitude_all += np.abs(answers).sum(0)
    return energy_all / (amplitude_all + 1e-4)


def slow_gradient(image):
    """Zhang et al. 2011, Eq. 4 with the Scharr operator, black outside."""
    height, width = image.shape
    framed = np.pad(image, 1)
    scharr = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    found = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            patch = framed[y : y + 3, x : x + 3]
            found[:, y, x] = np.sum(patch * scharr), np.sum(patch * scharr.T)
    return np.sqrt((found**2).sum(0))


def slow_fsim(truth, prediction, region, colour):
    """Zhang et al. 2011, Eq. 3 to 12, of images [H, W, 3] up to 383 pixels."""
    to_yiq = np.array(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    )
    t, p = truth @ to_yiq.T, prediction @ to_yiq.T

    def alike(a, b, constant):
        return (2 * a * b + constant) / (a**2 + b**2 + constant)

    pc_t, pc_p = slow_congruency(t[..., 0]), slow_congruency(p[..., 0])
    gradients = slow_gradient(t[..., 0]), slow_gradient(p[..., 0])
    similarity = alike(pc_t, pc_p, 0.85) * alike(*gradients, 160)
    if colour:
        chroma = [alike(t[..., c], p[..., c], 200) for c in (1, 2)]
        similarity = similarity * np.abs(chroma[0] * chroma[1]) ** 0.03
    weight = np.maximum(pc_t, pc_p) * region
    return np.sum(similarity * weight) / np.sum(weight)


@pytest.mark.parametrize("score", [fsim, fsimc])
def test_score_is_the_definition(score):
    """Odd sides, where no middle value is a mean of two."""
    truth = photo(3, 67)[:, :, :59]
    prediction = jnp.clip(damaged(truth) + 9.0 * truth[:, ::-1] / 255.0, 0.0, 255.0)
    region = box(truth, 15, 45)
    pair = [np.asarray(image[0], np.float64) for image in (truth, prediction)]
    for where in (region, ones(truth)):
        want = slow_fsim(*pair, np.asarray(where[0, ..., 0]), score is fsimc)
        got = score(truth, prediction, where, data_range=255.0)
        # Congruency is a ratio of float32 sums over 16 transforms.
        np.testing.assert_allclose(got, [want], rtol=2e-5)
    assert 0.9 < want < 0.98


def test_congruency_is_the_definition():
    image = np.asarray(photo(1, 67)[0, :, :59, 0])
    got = phase_congruency(jnp.asarray(image)[None])[0]
    want = slow_congruency(image.astype(np.float64))
    # A phase of a weak answer turns with the rounding of the transform.
    np.testing.assert_allclose(got, want, atol=1e-4)


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
