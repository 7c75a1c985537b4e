import numpy as np
import pytest

from jaxinpaint.data.reduction import (
    nearest_factor,
    reduced_mask,
    reduced_region,
    reduced_side,
)


def reader(image):
    return lambda top, left, height, width: image[
        top : top + height, left : left + width
    ]


def by_area(image, factor):
    """Mean of each area, pixel by pixel, in thirty-second parts of a pixel."""
    fine = image.repeat(32, axis=0).repeat(32, axis=1).astype(float)
    height, width = (reduced_side(n, factor) for n in image.shape[:2])
    step = round(32 * factor)
    out = np.zeros((height, width, *image.shape[2:]))
    for y in range(height):
        for x in range(width):
            block = fine[y * step : (y + 1) * step, x * step : (x + 1) * step]
            out[y, x] = block.mean(axis=(0, 1))
    return out


def test_half_size_is_the_mean_of_four_rounded_half_up():
    image = np.zeros((3, 5, 3), np.uint8)
    image[:2, :2, 0] = [[1, 1], [0, 0]]  # 0.5 rounds up
    image[:2, :2, 1] = [[1, 0], [0, 0]]  # 0.25
    image[:2, 2:4, 2] = [[255, 255], [255, 254]]  # 254.75
    got = reduced_region(reader(image), (3, 5), 2.0, (0, 0, 1, 2), 64)
    assert got.tolist() == [[[1, 0, 0], [0, 0, 255]]]
    assert (reduced_side(3, 2.0), reduced_side(5, 2.0)) == (1, 2)  # odd ones dropped


def test_a_mask_of_half_size_needs_two_of_four():
    mask = np.uint8([[1, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    assert reduced_mask(mask, 2.0).tolist() == [[0, 1]]


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.25, 3.0, 4.78125])
def test_other_factors_average_areas(factor):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (37, 29, 3), np.uint8)
    height, width = (reduced_side(n, factor) for n in (37, 29))
    whole = reduced_region(reader(image), (37, 29), factor, (0, 0, height, width), 99)
    want = by_area(image, factor)
    np.testing.assert_array_equal(whole, np.floor(want + 0.5 + 1e-9))
    mask = (image[..., 0] > 128).astype(np.uint8)
    np.testing.assert_array_equal(
        reduced_mask(mask, factor), by_area(mask, factor) >= 0.5 - 1e-9
    )
    # The same in blocks, and in regions.
    blocks = reduced_region(reader(image), (37, 29), factor, (0, 0, height, width), 10)
    np.testing.assert_array_equal(blocks, whole)
    part = reduced_region(reader(image), (37, 29), factor, (2, 1, 3, 4), 99)
    np.testing.assert_array_equal(part, whole[2:5, 1:5])


def test_no_more_is_read_at_once_than_a_block():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    sides = []

    def read(top, left, height, width):
        sides.append((height, width))
        return image[top : top + height, left : left + width]

    reduced_region(read, (60, 80), 2.0, (0, 0, 30, 40), 16)
    assert max(max(side) for side in sides) == 16 and len(sides) == 4 * 5


def test_nothing_changes_at_a_factor_of_one():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    got = reduced_region(reader(image), (6, 7), 1.0, (1, 2, 4, 5), 2)
    np.testing.assert_array_equal(got, image[1:5, 2:7])
    np.testing.assert_array_equal(
        reduced_mask(image[..., 0] % 2, 1.0), image[..., 0] % 2
    )


@pytest.mark.parametrize(
    "factor, want", [(1 / 0.499, 2.0), (1.01, 1.0), (0.97, 1.0), (1.5, 1.5), (0.5, 0.5)]
)
def test_rounded_resolutions_are_whole_factors(factor, want):
    assert nearest_factor(factor) == want
