import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxinpaint.ops.optical_flow import ISOFLOW, OPENCV_CLASS, farneback, intermediate


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def section(dx, dy):
    """A closed-form texture in [-1, 1], displaced by (dx, dy)."""
    y, x = np.mgrid[:64, :96]
    u, v = x - dx, y - dy
    shades = 0.4 * np.sin(u / 5) * np.cos(v / 7) + 0.3 * np.sin(u / 11 + v / 9)
    return np.float32(shades)[None, :, :, None]


def psnr(got, want):
    inner = np.s_[:, 12:-12, 12:-12]
    return 10 * np.log10(4 / np.mean((np.asarray(got)[inner] - want[inner]) ** 2))


def drift(alpha):
    """Three sections that drift by (6, -4) px in all; the middle one is at alpha.

    Two samples, the second mirrored, so that all tests share a program.
    """
    sections = [section(6 * t, -4 * t) for t in (0, alpha, 1)]
    return [jnp.asarray(np.concatenate([s, s[:, ::-1]])) for s in sections]


@pytest.mark.parametrize("options", [ISOFLOW, OPENCV_CLASS], ids=["isoflow", "class"])
@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_motion_is_followed(options, alpha):
    previous, truth, following = drift(alpha)
    average = (1 - alpha) * previous + alpha * following
    got = intermediate(previous, following, alpha, options)
    assert psnr(got, truth) > psnr(average, truth) + 20


def test_arguments_in_reading_order_move_it_away():
    previous, truth, following = drift(0.5)
    grey = lambda image: (image + 1) * 127.5
    # What the flows give when the grids they live on are mixed up.
    flow = np.asarray(farneback(grey(previous), grey(following), ISOFLOW))
    back = np.asarray(farneback(grey(following), grey(previous), ISOFLOW))
    b, y, x, c = np.mgrid[:2, :64, :96, :1]

    def moved(image, flow):
        at = [b, y + 0.5 * flow[..., 1:], x + 0.5 * flow[..., :1], c]
        return map_coordinates(np.asarray(image), at, order=1, mode="nearest")

    right = (moved(previous, back) + moved(following, flow)) / 2
    wrong = (moved(previous, flow) + moved(following, back)) / 2
    got = intermediate(previous, following, 0.5, ISOFLOW)
    np.testing.assert_allclose(got, right, atol=1e-4)
    average = (previous + following) / 2
    assert psnr(wrong, truth) < psnr(average, truth) < psnr(got, truth) - 20


def test_weights_prefer_the_nearer_section():
    flat = [jnp.full((2, 64, 96, 1), level, jnp.float32) for level in (-0.5, 0.7)]
    got = intermediate(*flat, jnp.float32([0.25, 1.0]), ISOFLOW)
    np.testing.assert_allclose(got[0], 0.75 * -0.5 + 0.25 * 0.7, atol=1e-6)
    np.testing.assert_allclose(got[1], 0.7, atol=1e-6)


def test_either_end_is_the_section_itself():
    previous, _, following = drift(0.5)
    for alpha, want in ((0, previous), (1, following)):
        got = intermediate(previous, following, alpha, ISOFLOW)
        np.testing.assert_array_equal(got, want)


def test_reversed_stack_gives_the_same():
    previous, _, following = drift(0.5)
    got = intermediate(previous, following, 0.3, ISOFLOW)
    back = intermediate(following, previous, 0.7, ISOFLOW)
    np.testing.assert_allclose(got, back, atol=1e-5)


def test_each_sample_has_its_own_alpha():
    previous, _, following = drift(0.5)
    got = intermediate(previous, following, np.float32([0.25, 0.5]), ISOFLOW)
    for n, alpha in enumerate((0.25, 0.5)):
        want = intermediate(previous, following, alpha, ISOFLOW)
        np.testing.assert_allclose(got[n], want[n], atol=1e-6)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_flat_sections_stay_finite_and_in_range(level):
    previous, _, _ = drift(0.5)
    flat = jnp.full_like(previous, level)
    for pair in ((flat, flat), (flat, previous)):
        got = np.asarray(intermediate(*pair, 0.5, ISOFLOW))
        assert np.isfinite(got).all() and np.abs(got).max() <= 1 + 1e-6
    np.testing.assert_allclose(intermediate(flat, flat, 0.5, ISOFLOW), flat, atol=1e-6)


@pytest.mark.parametrize(
    "alpha", [-0.1, 1.5, float("nan"), np.float32([1.5]), np.float32([0.5, 0.5])]
)
def test_alpha_out_of_range(alpha):
    image = jnp.zeros((1, 64, 64, 1))
    with pytest.raises(ValueError, match="intermediate: alpha must"):
        intermediate(image, image, alpha, ISOFLOW)


def test_bad_sections():
    image = jnp.zeros((1, 64, 64, 1))
    with pytest.raises(ValueError, match="following must be"):
        intermediate(image, image[:, :, :60], 0.5, ISOFLOW)
    with pytest.raises(ValueError, match="float32"):
        intermediate(image.astype(jnp.uint8), image.astype(jnp.uint8), 0.5, ISOFLOW)
    with pytest.raises(ValueError, match="winsize must be odd"):
        intermediate(image, image, 0.5, ISOFLOW._replace(winsize=20))
