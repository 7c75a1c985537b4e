import sys

import numpy as np
import pytest

from jaxinpaint.metrics.baselines import (
    BASELINES,
    constant,
    copy_neighbor,
    mean_neighbors,
    navier_stokes,
    telea,
)


def scene(dtype, channels=1, side=32):
    """A slope with a hole that touches the left side; neighbours 7 up, 4 down."""
    y, x, c = np.meshgrid(*map(np.arange, (side, side, channels)), indexing="ij")
    image = (40 + 3 * x + y + 10 * c).astype(dtype)
    if dtype == np.uint16:
        image = image * np.uint16(257)
    mask = np.zeros((side, side, 1), np.uint8)
    mask[8:18, 0:9] = 1
    mask[22:25, 20:24] = 1
    return image, mask, image + np.array(7, dtype), image - np.array(4, dtype)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_only_hole_pixels_change(name, dtype, channels):
    if name in ("telea", "navier_stokes"):
        pytest.importorskip("cv2")
    image, mask, above, below = scene(dtype, channels)
    before = image.copy()
    blanked = np.where(mask == 1, np.array(0, dtype), image)
    got = BASELINES[name](blanked, mask, above, above, below)
    hole = mask[..., 0] == 1
    assert got.dtype == dtype and got.shape == image.shape
    np.testing.assert_array_equal(got[~hole], image[~hole])
    assert (got[hole] > 0).all()
    np.testing.assert_array_equal(image, before)
    # What was under the hole does not matter.
    np.testing.assert_array_equal(
        BASELINES[name](image, mask, above, above, below), got
    )
    whole = np.zeros_like(mask)
    np.testing.assert_array_equal(
        BASELINES[name](image, whole, above, above, below), image
    )


def test_values_worked_by_hand():
    image = np.array([[[10, 0], [11, 2], [99, 99]]], np.uint8)
    mask = np.array([[[0], [0], [1]]], np.uint8)
    np.testing.assert_array_equal(constant(image, mask)[0, 2], [10, 1])  # 10.5, 1
    one = np.array([[[0, 0], [0, 0], [255, 1]]], np.uint8)
    other = np.array([[[0, 0], [0, 0], [250, 2]]], np.uint8)
    np.testing.assert_array_equal(copy_neighbor(image, mask, one)[0, 2], [255, 1])
    np.testing.assert_array_equal(
        mean_neighbors(image, mask, one, other)[0, 2], [252, 2]
    )
    for previous, following in ((None, other), (other, None)):
        np.testing.assert_array_equal(
            mean_neighbors(image, mask, previous, following)[0, 2], [250, 2]
        )


@pytest.mark.parametrize("fill", [telea, navier_stokes])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opencv_continues_a_slope(fill, dtype):
    pytest.importorskip("cv2")
    image, mask, _, _ = scene(dtype)
    hole = mask[..., 0] == 1
    hole[:, :12] = False  # the hole inside the image
    step = 257 if dtype == np.uint16 else 1
    error = np.abs(fill(image, mask).astype(int) - image)[hole]
    flat = np.abs(constant(image, mask).astype(int) - image)[hole]
    assert error.max() <= 4 * step < flat.mean()


@pytest.mark.parametrize("fill", [telea, navier_stokes])
def test_16_bits_fill_like_8(fill):
    pytest.importorskip("cv2")
    image, mask, _, _ = scene(np.uint8)
    deep = fill(image.astype(np.uint16) * 257, mask) / 257
    # 8 bits are rounded at every step of the march, up to 9 of them here.
    assert np.abs(deep - fill(image, mask)).max() <= 5


def test_radius_reaches_opencv():
    cv2 = pytest.importorskip("cv2")
    image, mask, _, _ = scene(np.uint8, 3)
    image = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    mask[:, :9] = 0  # the hole inside the image, where OpenCV needs no help
    blanked = np.where(mask == 1, np.uint8(0), image)
    want = cv2.inpaint(blanked, mask * 255, 2, cv2.INPAINT_TELEA)
    np.testing.assert_array_equal(telea(image, mask, radius=2), want)
    assert (telea(image, mask) != want).any()


def test_copy_takes_the_section_there_is():
    image, mask, above, below = scene(np.uint8)
    copy = BASELINES["copy_neighbor"]
    hole = mask[..., 0] == 1
    for sections, want in (
        ((below, above, image), below),
        ((None, above, below), above),
        ((None, None, below), below),
    ):
        got = copy(image, mask, *sections)
        np.testing.assert_array_equal(got[hole], want[hole])


@pytest.mark.parametrize("name", ["copy_neighbor", "mean_neighbors"])
def test_no_section_is_an_error(name):
    image, mask, _, _ = scene(np.uint8)
    with pytest.raises(ValueError, match=f"{name}: there is no adjacent section"):
        BASELINES[name](image, mask, None, None, None)


@pytest.mark.parametrize("fill", [constant, telea, navier_stokes])
def test_all_hole_is_an_error(fill):
    image, mask, _, _ = scene(np.uint8)
    with pytest.raises(ValueError, match="all hole"):
        fill(image, np.ones_like(mask))


def test_errors_name_the_array():
    image, mask, above, _ = scene(np.uint8)
    with pytest.raises(ValueError, match="got 255 at"):
        constant(image, mask * 255)
    with pytest.raises(ValueError, match=r"mask must be \[32, 32, 1\]"):
        constant(image, mask[..., 0])
    with pytest.raises(ValueError, match="image must be uint8 or uint16"):
        constant(image.astype(np.float32), mask)
    with pytest.raises(ValueError, match="neighbor must be uint8, got uint16"):
        copy_neighbor(image, mask, above.astype(np.uint16))
    with pytest.raises(ValueError, match=r"neighbor must be \[32, 32, 1\]"):
        copy_neighbor(image, mask, above[:-1])


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    image, mask, _, _ = scene(np.uint8)
    with pytest.raises(ImportError, match=r"jaxinpaint\[baselines\]"):
        telea(image, mask)
