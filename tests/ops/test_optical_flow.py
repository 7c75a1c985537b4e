import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxinpaint.ops.optical_flow import (
    ISOFLOW,
    OPENCV_CLASS,
    FarnebackOptions,
    farneback,
)

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "farneback.json").read_text()
)
PRESETS = {"isoflow": ISOFLOW, "opencv_class": OPENCV_CLASS}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def pattern(a, b):
    y, x = np.mgrid[:64, :96]
    return np.rint(
        127.5
        + 50 * np.sin((x - a) / 5) * np.cos((y - b) / 7)
        + 40 * np.sin((x - a) / 11 + (y - b) / 9)
    )


def tissue(dx, dy, grain):
    """Walls with fine texture, displaced by (dx, dy), under a grain of its own."""
    y, x = np.mgrid[:64, :96]
    u, v = x - dx, y - dy
    walls = np.sin(0.021 * u * u / 8 + 0.35 * v) * np.cos(0.017 * v * v / 8 - 0.29 * u)
    shades = 130 + 70 * np.tanh(3 * walls) + 25 * np.sin(0.9 * u + 0.6 * v)
    grains = 14 * np.sin(grain * (12.9898 * x * x + 78.233 * y + x * y))
    return np.rint(np.clip(shades + grains, 0, 255))


y, x = np.mgrid[:64, :96]
PAIRS = {
    "pattern": (pattern(3, -2), pattern(0, 0)),
    "tissue": (
        tissue(2.6 + 1.5 * np.sin(y / 20), -1.7 + np.cos(x / 25), 1.0),
        tissue(0, 0, 1.7),
    ),
}


def flow_between(previous, following, options):
    """One flow; the batch has two, so that tests of one size share a program."""
    images = [np.stack([i, i[::-1]])[..., None] for i in (previous, following)]
    batch = [jnp.asarray(i, jnp.float32) for i in images]
    return np.asarray(farneback(*batch, options)[0])


def opencv_flow(previous, following, options):
    cv2 = pytest.importorskip("cv2")
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if options.window == "gaussian" else 0
    return cv2.calcOpticalFlowFarneback(previous, following, None, *options[:-1], flags)


@pytest.mark.parametrize(
    "options", sorted({tuple(case["options"]) for case in GOLDEN["cases"]})
)
def test_equals_opencv(options):
    cases = [case for case in GOLDEN["cases"] if tuple(case["options"]) == options]
    pairs = [PAIRS[case["pair"]] for case in cases]
    for case, pair in zip(cases, pairs, strict=True):
        assert [int(image.sum()) for image in pair] == GOLDEN["sums"][case["pair"]]
    first, second = jnp.asarray(np.array(pairs)[..., None], jnp.float32).swapaxes(0, 1)
    got = np.asarray(farneback(first, second, FarnebackOptions(*options)))
    for n, case in enumerate(cases):
        np.testing.assert_allclose(got[n].mean((0, 1)), case["mean"], atol=2e-5)
        np.testing.assert_allclose(got[n, 5::12, 5::12], case["samples"], atol=1e-4)


# The definition's own table: mean, then flow at rows and columns of three pixels.
@pytest.mark.parametrize(
    "options, mean, middle, upper_left, lower_right",
    [
        (
            ISOFLOW,
            (-2.734462, 1.825513),
            (-2.98061, 1.98700),
            (-2.72334, 1.70301),
            (-2.38650, 1.56719),
        ),
        (
            OPENCV_CLASS,
            (-2.728791, 1.820257),
            (-2.98297, 1.98857),
            (-2.66703, 1.60302),
            (-2.48564, 1.61218),
        ),
        (
            ISOFLOW._replace(window="box", winsize=15),
            (-2.744923, 1.830411),
            (-2.98050, 1.98693),
            (-2.68656, 1.65583),
            (-2.41495, 1.55677),
        ),
        (
            ISOFLOW._replace(poly_n=7, poly_sigma=1.5),
            (-2.719851, 1.809733),
            (-2.97889, 1.98584),
            (-2.72271, 1.67263),
            (-2.34402, 1.52307),
        ),
        (
            ISOFLOW._replace(levels=1, iterations=1),
            (-2.748890, 1.837242),
            (-2.98148, 1.98734),
            (-2.78863, 1.72595),
            (-2.46657, 1.61372),
        ),
    ],
    ids=["isoflow", "opencv_class", "box15", "poly7", "short"],
)
def test_table_of_the_definition(options, mean, middle, upper_left, lower_right):
    got = flow_between(pattern(3, -2), pattern(0, 0), options)
    np.testing.assert_allclose(got.mean((0, 1)), mean, atol=2e-5)
    np.testing.assert_allclose(got[32, 48], middle, atol=5e-5)
    np.testing.assert_allclose(got[5, 7], upper_left, atol=5e-5)
    np.testing.assert_allclose(got[60, 90], lower_right, atol=5e-5)


def sections(name):
    """Two sections with one between them, [2, H, W]."""
    if name == "fibsem":
        path = SAMPLES / "fibsem_medulla/training_sample1_z2600-2647.tif"
    else:
        path = SAMPLES / "sstem_vnc/stack1/raw"
    if not path.exists():
        pytest.skip(f"no sample data at {path}")
    if name == "fibsem":
        return tifffile.imread(path)[[20, 22]]
    files = sorted(path.iterdir())[:3:2]
    return np.stack([np.asarray(Image.open(f)) for f in files])[:, 300:556, 300:556]


# Both are float32 forms of one law. Where noise leaves nearly singular equations under
# a small window, OpenCV is 2e-4 px off the float64 solution, and this flow 4e-4 px.
BOUNDS = {
    ("fibsem", "isoflow"): 1e-4,
    ("fibsem", "opencv_class"): 1e-3,
    ("sstem", "isoflow"): 1e-4,
    ("sstem", "opencv_class"): 5e-3,
}


def compare(pair, preset, bound):
    for previous, following in (pair, pair[::-1]):
        want = opencv_flow(previous, following, PRESETS[preset])
        error = np.abs(flow_between(previous, following, PRESETS[preset]) - want)
        assert error.max() <= bound
        assert np.median(error) <= 1e-5


@pytest.mark.parametrize("name, preset", BOUNDS)
def test_equals_opencv_on_sections(name, preset):
    compare(sections(name)[:, :111, :73], preset, BOUNDS[name, preset])


@pytest.mark.slow
@pytest.mark.parametrize("name, preset", BOUNDS)
def test_equals_opencv_on_large_sections(name, preset):
    compare(sections(name), preset, BOUNDS[name, preset])


@pytest.mark.parametrize(
    "preset, height, width", [("isoflow", 45, 61), ("opencv_class", 33, 47)]
)
def test_odd_sizes(preset, height, width):
    y, x = np.mgrid[:height, :width]
    image = lambda x, y: np.float32(
        127.5 + 60 * np.sin(x / 4) * np.cos(y / 5) + 30 * np.sin((x + y) / 9)
    )
    first, second = image(x, y), image(x - 1.5, y + 2.25)
    want = opencv_flow(first, second, PRESETS[preset])
    got = flow_between(first, second, PRESETS[preset])
    np.testing.assert_allclose(got, want, atol=1e-4)
    inner = got[12:-12, 12:-12].mean((0, 1))
    np.testing.assert_allclose(inner, [1.5, -2.25], atol=0.1)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_images_do_not_move(preset):
    flow = flow_between(*[pattern(0, 0)] * 2, PRESETS[preset])
    assert np.abs(flow[20:40, 20:60]).max() < 1e-4
    assert np.abs(flow).max() < 0.2  # samples at the last column have no neighbour


def test_flat_images_do_not_move():
    flat = np.full((64, 96), 77.0)
    np.testing.assert_allclose(flow_between(flat, flat, ISOFLOW), 0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_degenerate_images_stay_finite(preset):
    y, x = np.mgrid[:64, :96]
    stripes = 127.5 + 100 * np.sin((x + y) / 6)  # say nothing along themselves
    for pair in ((np.zeros((64, 96)), pattern(0, 0)), (stripes, np.roll(stripes, 2))):
        flow = flow_between(*pair, PRESETS[preset])
        assert np.isfinite(flow).all() and np.abs(flow).max() < 20


@pytest.mark.parametrize(
    "name, value, rule",
    [
        ("winsize", 32, "odd"),
        ("winsize", 1, "at least 3"),
        ("poly_n", 6, "5 or 7"),
        ("poly_sigma", 0.0, "positive"),
        ("pyr_scale", 1.0, "between 0 and 1"),
        ("pyr_scale", 0.0, "between 0 and 1"),
        ("levels", -1, "at least 0"),
        ("iterations", 0, "at least 1"),
        ("window", "hann", "gaussian"),
    ],
)
def test_options_that_make_no_sense(name, value, rule):
    image = jnp.zeros((1, 64, 64, 1))
    with pytest.raises(ValueError, match=f"farneback: {name} must .*{rule}.*{value}"):
        farneback(image, image, ISOFLOW._replace(**{name: value}))


@pytest.mark.parametrize(
    "previous, following, what",
    [
        ((1, 64, 64, 3), (1, 64, 64, 3), "previous must be"),
        ((1, 64, 64, 1), (1, 64, 65, 1), "following must be"),
        ((1, 64, 31, 1), (1, 64, 31, 1), "at least 32 x 32"),
    ],
)
def test_shapes_that_do_not_fit(previous, following, what):
    with pytest.raises(ValueError, match=what):
        farneback(jnp.zeros(previous), jnp.zeros(following), ISOFLOW)


def test_integers_are_not_guessed_at():
    image = jnp.zeros((1, 64, 64, 1), jnp.uint8)
    with pytest.raises(ValueError, match="float32"):
        farneback(image, image, ISOFLOW)
