import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.ssim import ms_ssim, ssim, ssim_51, ssim_eq7

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def pair(shape, top=255, seed=0):
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, top + 1, (shape[0], 4, 4, shape[3]))
    truth = np.asarray(jax.image.resize(coarse.astype(np.float32), shape, "cubic"))
    truth = np.clip(np.rint(truth), 0, top)
    noisy = truth + draw.normal(0, 0.06 * top, shape)
    prediction = np.clip(np.rint(noisy), 0, top)
    return jnp.asarray(truth, jnp.float32), jnp.asarray(prediction, jnp.float32)


def ones(image):
    return jnp.ones_like(image[..., :1])


def test_headline_is_dm_pix():
    truth, prediction = pair((2, 40, 33, 3))
    with jax.numpy_dtype_promotion("standard"):
        want = dm_pix.ssim(truth, prediction, max_val=255)
    got = ssim(truth, prediction, ones(truth), data_range=255.0)
    assert 0.2 < want[0] < 0.9
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("top", [255, 65535])
def test_headline_is_scikit_image(top):
    metrics = pytest.importorskip("skimage.metrics")
    truth, prediction = pair((1, 40, 33, 3), top)
    want = metrics.structural_similarity(
        np.asarray(truth[0], np.float64),
        np.asarray(prediction[0], np.float64),
        data_range=top,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    got = ssim(truth, prediction, ones(truth), data_range=float(top))
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def slow_map(truth, prediction, window, top):
    """SSIM and its contrast-structure factor at each whole window of one channel.

    Wang et al. 2004, Eq. 6 to 13, with moments about the window's own mean, in float64.
    """
    side = len(window)
    a, b = (
        np.lib.stride_tricks.sliding_window_view(image, (side, side))
        for image in (truth, prediction)
    )

    def mean(windows):
        return np.einsum("yxij,ij->yx", windows, window, optimize=True)

    mean_a, mean_b = mean(a), mean(b)
    a, b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    structure = (2 * mean(a * b) + c2) / (mean(a**2) + mean(b**2) + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * structure, structure


def gaussian():
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    return window / window.sum()


def slow_ms_ssim(truth, prediction, top):
    """Wang, Simoncelli, Bovik 2003, Eq. 7, of one channel."""
    score = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        _, structure = slow_map(truth, prediction, gaussian(), top)
        score *= max(structure.mean(), 0.0) ** weight
        truth, prediction = (
            sum(
                image[i::2, j::2][: len(image) // 2, : image.shape[1] // 2]
                for i in (0, 1)
                for j in (0, 1)
            )
            / 4
            for image in (truth, prediction)
        )
    similarity, _ = slow_map(truth, prediction, gaussian(), top)
    return score * max(similarity.mean(), 0.0) ** 0.1333


@pytest.mark.parametrize("top", [255, 65535])
def test_five_scales_are_the_definition(top):
    truth, prediction = pair((1, 179, 181, 2), top)  # odd sides lose a row or column
    channels = [
        slow_ms_ssim(
            np.asarray(truth[0, ..., c], np.float64),
            np.asarray(prediction[0, ..., c], np.float64),
            top,
        )
        for c in range(2)
    ]
    assert abs(channels[0] - channels[1]) > 1e-4
    got = ms_ssim(truth, prediction, data_range=float(top))
    # Ours has the variances as differences of float32 means of squares.
    np.testing.assert_allclose(got, [np.mean(channels)], rtol=2e-5)


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("contrast", [1.0, 0.1, 0.02])
def test_large_windows_are_scikit_image(top, contrast):
    """Contrast 0.1 has variances near c2, where the divisor n - 1 is seen."""
    metrics = pytest.importorskip("skimage.metrics")
    truth, prediction = pair((1, 64, 57, 3), top)
    truth, prediction = (
        jnp.rint(top - contrast * (top - image))
        for image in (truth, prediction[:, ::-1])
    )
    want, similarity = metrics.structural_similarity(
        np.asarray(truth[0], np.float64),
        np.asarray(prediction[0], np.float64),
        data_range=top,
        channel_axis=2,
        win_size=51,
        full=True,
    )
    got = ssim_51(truth, prediction, ones(truth), data_range=float(top))
    np.testing.assert_allclose(got, [want], rtol=1e-5)
    region = np.zeros((1, 64, 57, 1), np.float32)
    region[0, 20:30, 27:] = 1  # rows 25 to 29, columns 27 to 31 have whole windows
    want = similarity[25:30, 27:32].mean()
    got = ssim_51(truth, prediction, jnp.asarray(region), data_range=float(top))
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_a_region_without_a_whole_large_window_is_undefined():
    truth, prediction = pair((1, 60, 60, 1))
    region = jnp.ones((1, 60, 60, 1)).at[:, 25:35, 25:35].set(0.0)
    assert np.isnan(ssim_51(truth, prediction, region, data_range=255.0)[0])


def test_region_averages_the_windows_centred_in_it():
    truth, prediction = pair((1, 30, 30, 1))
    region = np.zeros((1, 30, 30, 1), np.float32)
    region[0, 2:12, 7:20] = 1  # rows 2 to 4 have no whole window
    with jax.numpy_dtype_promotion("standard"):
        similarity = dm_pix.ssim(truth, prediction, max_val=255, return_map=True)
    want = np.mean(
        [similarity[0, y - 5, x - 5] for y in range(5, 12) for x in range(7, 20)]
    )
    got = ssim(truth, prediction, jnp.asarray(region), data_range=255.0)
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_region_without_a_whole_window_is_undefined():
    truth, prediction = pair((1, 30, 30, 1))
    region = jnp.zeros((1, 30, 30, 1)).at[:, :5].set(1.0)
    assert np.isnan(ssim(truth, prediction, region, data_range=255.0)[0])
    grown = region.at[0, 5, 5].set(1.0)
    assert np.isfinite(ssim(truth, prediction, grown, data_range=255.0)[0])


def eq7(x, y, top):
    """Eq. 7 of one channel, written out."""
    c1, c2 = (0.01 * 100 * top / 255) ** 2, (0.03 * 100 * top / 255) ** 2
    mx, my = x.mean(), y.mean()
    vx, vy = x.var(ddof=1), y.var(ddof=1)
    cov = ((x - mx) * (y - my)).sum() / (x.size - 1)
    return ((2 * mx * my + c1) * (2 * cov + c2)) / (
        (mx**2 + my**2 + c1) * (vx + vy + c2)
    )


@pytest.mark.parametrize("top", [255, 65535])
def test_eq7_is_the_printed_formula(top):
    truth, prediction = pair((2, 20, 17, 3), top)
    region = np.random.default_rng(1).integers(0, 2, (2, 20, 17, 1))
    inside = region[..., 0] == 1
    want = [
        np.mean(
            [
                eq7(
                    np.asarray(truth, np.float64)[i, inside[i], c],
                    np.asarray(prediction, np.float64)[i, inside[i], c],
                    top,
                )
                for c in range(3)
            ]
        )
        for i in range(2)
    ]
    got = ssim_eq7(
        truth, prediction, jnp.asarray(region, jnp.float32), data_range=float(top)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_eq7_by_hand():
    # Means 1 and 2, variances 2 and 8, covariance -4; c1 = 1, c2 = 9.
    truth = jnp.asarray([0.0, 2.0]).reshape(1, 1, 2, 1)
    prediction = jnp.asarray([4.0, 0.0]).reshape(1, 1, 2, 1)
    got = ssim_eq7(truth, prediction, ones(truth), data_range=255.0)
    np.testing.assert_allclose(got, [(2 * 2 + 1) * (-8 + 9) / (6 * 19)], rtol=1e-5)
    one_pixel = jnp.asarray([1.0, 0.0]).reshape(1, 1, 2, 1)
    assert np.isnan(ssim_eq7(truth, prediction, one_pixel, data_range=255.0)[0])


SCORES = [ssim, ssim_eq7, lambda t, p, _, **k: ms_ssim(t, p, **k), ssim_51]
NAMES = ["ssim", "ssim_eq7", "ms_ssim", "ssim_51"]


@pytest.mark.parametrize("score", SCORES, ids=NAMES)
def test_bounds_and_16_bits(score):
    truth, prediction = pair((1, 176, 176, 1))
    whole = ones(truth)
    np.testing.assert_allclose(
        score(truth, truth, whole, data_range=255.0), 1.0, rtol=1e-6
    )
    low = score(truth, prediction, whole, data_range=255.0)
    high = score(truth * 257.0, prediction * 257.0, whole, data_range=65535.0)
    np.testing.assert_allclose(low, high, rtol=1e-5)
    assert 0 < low[0] < 1
    opposite = score(truth, 255.0 - truth, whole, data_range=255.0)
    assert opposite[0] == 0 if score is SCORES[2] else opposite[0] < low[0]


def test_sides_that_are_too_small():
    small = jnp.zeros((1, 10, 40, 1))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(small, small, ones(small), data_range=255.0)
    narrow = jnp.zeros((1, 80, 50, 1))
    with pytest.raises(ValueError, match="at least 51, got 80 x 50; use ssim"):
        ssim_51(narrow, narrow, ones(narrow), data_range=255.0)
    edge = jnp.zeros((1, 175, 300, 1))
    with pytest.raises(ValueError, match="at least 176, got 175 x 300; use ssim"):
        ms_ssim(edge, edge, data_range=255.0)
