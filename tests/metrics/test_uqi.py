import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.uqi import uqi


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def slow_map(truth, prediction):
    """The definition's window sums in Python's whole numbers, of one channel."""
    height, width = truth.shape
    scores = np.zeros((height - 7, width - 7))
    for y in range(height - 7):
        for x in range(width - 7):
            a = [int(v) for v in truth[y : y + 8, x : x + 8].ravel()]
            b = [int(v) for v in prediction[y : y + 8, x : x + 8].ravel()]
            s1, s2 = sum(a), sum(b)
            s11, s22 = sum(v * v for v in a), sum(v * v for v in b)
            s12 = sum(v * w for v, w in zip(a, b, strict=True))
            p, q = s1 * s2, s1 * s1 + s2 * s2
            v = 64 * (s11 + s22) - q
            if v * q != 0:
                scores[y, x] = 4 * (64 * s12 - p) * p / (v * q)
            else:
                scores[y, x] = 2 * p / q if q != 0 else 1
    return scores


def on(*images, top=255.0):
    """Scores the whole of two images [H, W]."""
    truth, prediction = (
        jnp.asarray(image, jnp.float32)[None, ..., None] for image in images
    )
    return float(uqi(truth, prediction, jnp.ones_like(truth), data_range=top)[0])


def scene(bits, seed=0):
    """Levels with black, white and grey constant parts, flat in one image or both."""
    draw = np.random.default_rng(seed)
    top = 2**bits - 1
    y, x = np.mgrid[:40, :37]
    truth = np.rint(top * (0.5 + 0.3 * np.sin(x / 5) * np.cos(y / 7))).astype(int)
    prediction = np.clip(
        truth + draw.integers(-top // 20, top // 20, truth.shape), 0, top
    )
    truth[:12, :20] = prediction[:12, :12] = 0
    truth[-12:, :14] = prediction[-12:, :14] = top
    prediction[-12:, 10:14] = top - 1
    truth[14:28, 22:] = top // 3
    prediction[14:28, 26:] = top // 2
    return truth, prediction


@pytest.mark.parametrize("bits", [8, 16])
def test_it_is_the_definition_in_whole_numbers(bits):
    truth, prediction = scene(bits)
    want = slow_map(truth, prediction)
    # Every rule is met: 1 of nothing, brightness alone, 0 of one constant window.
    constant = [
        np.lib.stride_tricks.sliding_window_view(i, (8, 8)) for i in scene(bits)
    ]
    flat = [np.ptp(windows, axis=(2, 3)) == 0 for windows in constant]
    assert (want[flat[0] ^ flat[1]] == 0).sum() > 20
    assert (flat[0] & flat[1] & (want == 1)).sum() > 20
    assert (flat[0] & flat[1] & (want < 1)).sum() > 20
    assert on(truth, prediction, top=2.0**bits - 1) == pytest.approx(
        want.mean(), rel=1e-5
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_region_averages_the_windows_whose_fifth_pixel_is_in_it(bits):
    truth, prediction = scene(bits)
    other = scene(bits, 1)
    region = np.zeros(truth.shape, np.float32)
    region[2:19, 15:30] = 1  # rows 2 and 3 are no window's
    region[37:, 3] = 1  # nor are the last three
    maps = [slow_map(truth, prediction), slow_map(*other)]
    want = np.mean(
        [m[y - 4, x - 4] for m in maps for y in range(4, 19) for x in range(15, 30)]
    )
    both = [
        np.stack(channels, axis=-1)[None]
        for channels in zip((truth, prediction), other, strict=True)
    ]
    got = uqi(
        *(jnp.asarray(image, jnp.float32) for image in both),
        jnp.asarray(region)[None, ..., None],
        data_range=2.0**bits - 1,
    )
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_ramps_worked_by_hand_and_printed():
    g = np.arange(64).reshape(8, 8)
    assert on(g, g + 10) == pytest.approx(0.96316080, abs=1e-7)
    # Deviation: the specification prints 0.84317460 for g / 2. By its own formula the
    # covariance is v / 2, the variances are v and v / 4, and the means go as 1 to 1 / 2:
    # 0.8 * 0.8.
    assert on(g, g / 2) == pytest.approx(0.64, abs=1e-7)


def test_one_window_by_hand():
    # 32 pixels 0 and 32 pixels 2 against the same of 3 and 5, then against the
    # opposite: variances and covariance 1, means 1 and 4.
    g = np.repeat([[0, 2]], 32, axis=0).reshape(8, 8)
    assert on(g, g + 3) == pytest.approx(2 * 1 * 4 / (1 + 16), rel=1e-6)
    assert on(g, 5 - g) == pytest.approx(-2 * 1 * 4 / (1 + 16), rel=1e-6)


@pytest.mark.parametrize("top", [255, 65535])
def test_constant_windows_are_exact(top):
    flat = np.full((20, 20), top)
    assert on(flat, flat, top=float(top)) == 1.0
    assert on(flat * 0, flat * 0, top=float(top)) == 1.0
    darker = on(flat, flat - 1, top=float(top))  # brightness alone: close to 1
    want = 2 * top * (top - 1) / (top**2 + (top - 1) ** 2)
    assert darker == pytest.approx(want, rel=1e-6)
    # One pixel one level lower: its 8 x 8 windows of 13 x 13 score 0, at any depth.
    dented = flat.copy()
    dented[10, 10] -= 1
    assert on(flat, dented, top=float(top)) == pytest.approx(1 - 64 / 169, rel=1e-6)
    # Levels whose squares do not fit float32: the dent is the same in both.
    assert on(dented, dented, top=float(top)) == pytest.approx(1.0, rel=1e-6)


def test_rounding_decides_where_the_background_is_constant():
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    head = (y - 32) ** 2 + (x - 32) ** 2 < 20**2
    truth = np.rint(np.where(head, 110 + 50 * np.sin(x / 3) * np.cos(y / 4), 0))
    noise = draw.normal(0, 0.2, truth.shape)
    inside = np.rint(np.clip(truth + head * draw.normal(0, 4, truth.shape), 0, 255))
    noisy = np.where(head, inside, np.maximum(noise, 0))
    clean, rounded, raw = (on(truth, i) for i in (inside, np.rint(noisy), noisy))
    assert clean > rounded + 0.1 > raw + 0.2


def test_symmetric_bounded_and_blind_to_scale():
    truth, prediction = scene(8)
    forward = on(truth, prediction)
    assert on(prediction, truth) == pytest.approx(forward, rel=1e-6)
    assert -1 <= on(truth, 255 - truth) < 0 < forward < on(truth, truth) <= 1 + 1e-6
    deep = on(truth * 257, prediction * 257, top=65535.0)
    assert deep == pytest.approx(forward, rel=1e-5)


def test_no_window_is_undefined_and_a_small_image_an_error():
    image = jnp.ones((1, 8, 9, 1))
    region = jnp.zeros_like(image).at[:, :, :4].set(1.0).at[:, :4].set(1.0)
    assert np.isnan(uqi(image, image, region, data_range=255.0)[0])
    region = region.at[0, 4, 4].set(1.0)
    assert uqi(image, image, region, data_range=255.0)[0] == 1.0
    small = image[:, :7]
    with pytest.raises(ValueError, match="sides of at least 8, got 7 x 9"):
        uqi(small, small, small, data_range=255.0)
