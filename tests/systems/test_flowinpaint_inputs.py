"""What FlowInpaint takes, what it refuses, and what its data compute beforehand."""

import numpy as np
import pytest

from configs.flowinpaint_refine import get_config
from jaxinpaint.core.checks import InpaintInputError
from jaxinpaint.systems import flowinpaint

NAMES = ("image", "previous", "following", "intermediate")


def batch(dtype="uint8", size=64, channels=1):
    rng = np.random.default_rng(0)
    shape = (2, size, size, channels)
    if dtype == "float32":
        out = {n: rng.uniform(-1, 1, shape).astype(dtype) for n in NAMES}
    else:
        top = np.iinfo(dtype).max
        out = {n: rng.integers(0, top, shape, dtype, endpoint=True) for n in NAMES}
    out["mask"] = np.zeros((2, size, size, 1), np.uint8)
    out["mask"][:, 8:20, 10:26] = 1
    return out


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_good_input(dtype):
    given = batch(dtype)
    if dtype == "float32":
        given["image"][:, 10, 12] = np.nan  # in the hole
    flowinpaint.validate_inputs("restore", given)
    flowinpaint.validate_inputs("restore", given | {"intermediate": None})
    flowinpaint.validate_inputs("restore", batch(dtype, size=70))


def nans(at):
    image = batch("float32")["previous"]
    image[1, at, at] = np.nan
    image[1, 0, 0] = np.inf
    return image


@pytest.mark.parametrize(
    "change, match",
    [
        ({"following": None}, "following is missing; .* both adjacent sections"),
        ({"previous": np.zeros((2, 64, 32, 1), np.uint8)}, r"previous must be \[2, 64"),
        ({"intermediate": np.zeros((2, 8, 8, 1), np.uint8)}, "intermediate must be"),
        ({"mask": np.zeros((2, 64, 32, 1), np.uint8)}, r"mask must be \[2, 64, 64, 1"),
        ({"mask": np.full((2, 64, 64, 1), 255, np.uint8)}, "mask must hold 0 .* 255"),
        ({"previous": nans(5)}, "sample 1 of previous has 2 values that are NaN"),
        ({"previous": np.full((2, 64, 64, 1), 7, np.float32)}, r"lie in \[-1, 1\]"),
        ({"previous": np.zeros((2, 64, 64, 1))}, "float64"),
        ({"previous": np.zeros((2, 64, 64, 1), np.int16)}, "int16"),
    ],
)
def test_bad_input(change, match):
    with pytest.raises(InpaintInputError, match=match):
        flowinpaint.validate_inputs("restore", batch() | change)


def test_a_dark_window_of_a_stack_of_sixteen_bits_is_good():
    given = batch("uint16")
    for name in NAMES:
        given[name] = given[name] % 4096
    flowinpaint.validate_inputs("restore", given)


def test_colour_and_small_sections_are_refused():
    with pytest.raises(InpaintInputError, match="single-channel sections expected"):
        flowinpaint.validate_inputs("restore", batch(channels=3))
    with pytest.raises(InpaintInputError, match="at least 64 x 64 .* got 48 x 48"):
        flowinpaint.validate_inputs("restore", batch(size=48))


@pytest.mark.parametrize("rows, match", [(63, "looks inverted"), (64, "missing whole")])
def test_large_holes_are_warned_of(rows, match):
    given = batch()
    given["mask"][1, :rows] = 1
    with pytest.warns(UserWarning, match=match):
        flowinpaint.validate_inputs("restore", given)


# The interpolated sections.


@pytest.fixture(scope="module")
def between():
    return flowinpaint.derived(get_config("smoke"))["intermediate"].function


def section(seed, dtype):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, 72, 1))
    for _ in range(20):
        x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1)) / 3
    x = (x - x.min()) / (x.max() - x.min())
    return np.rint(x * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_ends_of_the_interpolation_are_the_sections(between, dtype):
    previous, following = section(0, dtype), section(1, dtype)
    for alpha, want in ((0.0, previous), (1.0, following)):
        got = between(previous, following, alpha)
        assert got.dtype == previous.dtype
        np.testing.assert_array_equal(got, want)


def test_a_moving_section_is_found_half_way(between):
    still = section(2, "uint8")
    previous, following = np.roll(still, -2, 1), np.roll(still, 2, 1)
    got = between(previous, following, 0.5).astype(float)
    inner = (slice(16, -16), slice(16, -16))
    error = np.abs(got - still)[inner].mean()
    mean = np.abs((previous.astype(float) + following) / 2 - still)[inner].mean()
    assert error < 0.5 * mean


def test_other_options_are_another_cache():
    config = get_config("smoke")
    first = flowinpaint.derived(config)["intermediate"]
    config.intermediate.winsize = 15
    assert flowinpaint.derived(config)["intermediate"].digest != first.digest
    assert first.name == "intermediate"
