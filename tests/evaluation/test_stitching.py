"""Tiles put together to a slide, by hand and against a slow average."""

import numpy as np
import pytest

from jaxinpaint.evaluation.stitching import (
    Canvas,
    apart,
    count_pieces,
    score_slide,
)

CLASSES = ("normal", "sclerosed")


def test_overlaps_are_averaged_and_what_lies_beyond_is_cut():
    rng = np.random.default_rng(0)
    side, height, width = 32, 100, 75
    total = np.zeros((height, width, 2))
    count = np.zeros((height, width, 1))
    canvas = Canvas(height, width, 2)
    for top, left in [(0, 0), (0, 25), (16, 43), (68, 43), (50, 0), (80, 60)]:
        tile = rng.random((side, side, 2)).astype(np.float32)
        canvas.add(top, left, tile)
        for y in range(side):
            for x in range(side):
                if top + y < height and left + x < width:
                    total[top + y, left + x] += tile[y, x]
                    count[top + y, left + x] += 1
    mean, covered = canvas.done()
    np.testing.assert_allclose(mean, total / np.maximum(count, 1), atol=1e-6)
    np.testing.assert_array_equal(covered, count[..., 0] > 0)
    assert 0 < covered.sum() < covered.size


def scored(tiles, label, least=1, threshold=0.5):
    canvas = Canvas(*label.shape)
    for top, left, probabilities in tiles:
        canvas.add(top, left, probabilities)
    return score_slide(canvas, label, "test1", "slide", CLASSES, threshold, least)


def test_every_pixel_counts_once():
    """Two tiles share half their pixels; there the mean decides."""
    label = np.zeros((4, 6, 2), np.uint8)
    label[..., 0] = 1
    left = np.zeros((4, 4, 2), np.float32)
    left[..., 0] = 0.9
    right = np.zeros((4, 4, 2), np.float32)
    right[..., 0] = 0.2  # the mean of 0.9 and 0.2 is above a half, 0.2 is not
    result, found = scored([(0, 0, left), (0, 2, right)], label)
    # Columns 0 to 3 are found, 4 and 5 are missed.
    np.testing.assert_array_equal(result.table, [[16, 0, 8], [0, 0, 0]])
    assert found.shape == (4, 6, 2)
    result, _ = scored([(0, 0, left), (0, 2, right)], label, threshold=0.6)
    np.testing.assert_array_equal(result.table[0], [8, 0, 16])


def test_what_no_tile_covers_is_not_counted():
    tile = np.ones((4, 4, 2), np.float32)
    label = np.zeros((8, 8, 2), np.uint8)
    label[0, 7] = 1
    result, _ = scored([(0, 0, tile), (4, 4, tile)], label)
    np.testing.assert_array_equal(result.table, [[0, 32, 0]] * 2)
    assert result.uncovered == 32
    assert result.true == {"normal": 1, "sclerosed": 1}  # of the slide all the same


def test_glomeruli_are_counted_whole():
    probabilities = np.zeros((8, 8, 2), np.float32)
    probabilities[0, 0] = probabilities[1, 1] = 0.9, 0.0  # touch by a corner: one
    probabilities[4:6, 4:6] = 0.6, 0.8  # both claim it: the sclerosed has it
    probabilities[7, 0] = 0.9, 0.0  # one pixel: too small
    label = np.zeros((8, 8, 2), np.uint8)
    label[:2, :2, 0] = 1
    result, found = scored([(0, 0, probabilities)], label, least=2)
    assert result.found == {"normal": 1, "sclerosed": 1}
    assert result.true == {"normal": 1, "sclerosed": 0}
    assert result.percent(result.found) == 50.0
    assert result.percent(result.true) == 0.0
    assert result.percent({"normal": 0, "sclerosed": 0}) is None
    assert found[4, 4].all()  # scores keep both


def test_a_pixel_goes_to_the_more_probable_class():
    found = np.array([[[True, True], [True, True], [True, True], [True, False]]])
    probabilities = np.array([[[0.9, 0.8], [0.6, 0.7], [0.7, 0.7], [0.9, 0.1]]])
    want = [[[True, False], [False, True], [False, True], [True, False]]]
    np.testing.assert_array_equal(apart(found, probabilities), want)
    nothing = np.zeros((1, 4, 2), bool)
    assert not apart(nothing, probabilities).any()


@pytest.mark.parametrize("least, want", [(1, 3), (2, 2), (5, 0)])
def test_the_smallest_that_counts(least, want):
    maps = np.zeros((6, 6, 1), bool)
    maps[0, 0] = maps[2, :2] = maps[4, :4] = True
    assert count_pieces(maps, ["only"], least) == {"only": want}
