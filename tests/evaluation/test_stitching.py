"""Tiles put together to a slide, by hand and against a slow average."""

import numpy as np
import pytest

from jaxinpaint.evaluation.stitching import (
    FIRST,
    Canvas,
    apart,
    count_pieces,
    score_slide,
)

CLASSES = ("normal", "sclerosed")


def ones(side, value=1):
    return np.full((side, side, 1), value, np.uint8)


def test_overlaps_are_averaged_and_the_slide_grows():
    # Large enough that the canvas grows in both directions.
    rng = np.random.default_rng(0)
    side, height, width = 128, 400, 300
    truth = (rng.random((height, width, 2)) > 0.6).astype(np.uint8)
    total = np.zeros((height, width, 2))
    count = np.zeros((height, width, 1))
    canvas = Canvas(2)
    places = [(0, 0), (0, 100), (64, 172), (272, 172), (200, 0)]
    for top, left in places:
        tile = rng.random((side, side, 2)).astype(np.float32)
        box = np.s_[top : top + side, left : left + side]
        canvas.add(top, left, tile, truth[box], ones(side))
        total[box] += tile
        count[box] += 1
    assert FIRST < height and FIRST < width
    mean, label, covered = canvas.done()
    assert mean.shape == (height, width, 2)
    np.testing.assert_allclose(mean, total / np.maximum(count, 1), atol=1e-6)
    np.testing.assert_array_equal(covered, count[..., 0] > 0)
    np.testing.assert_array_equal(label, truth * (count > 0))


def test_padding_is_no_part_of_the_slide():
    valid = ones(8)
    valid[5:], valid[:, 6:] = 0, 0
    canvas = Canvas(2)
    canvas.add(0, 0, np.ones((8, 8, 2), np.float32), np.ones((8, 8, 2)), valid)
    mean, label, covered = canvas.done()
    assert mean.shape == (5, 6, 2)
    assert mean.min() == 1 and label.min() == 1 and covered.all()


def test_padding_beyond_the_canvas_is_cut():
    side = FIRST - 4
    valid = ones(side)
    valid[10:] = 0
    canvas = Canvas(1)
    canvas.add(20, 4, np.ones((side, side, 1), np.float32), ones(side), valid)
    mean, _, covered = canvas.done()
    assert mean.shape == (30, FIRST, 1)
    assert covered.sum() == 10 * side


def scored(tiles, least=1, threshold=0.5):
    canvas = Canvas(2)
    for top, left, probabilities, label in tiles:
        side = len(probabilities)
        canvas.add(top, left, probabilities, label, ones(side))
    return score_slide(canvas, "test1", "slide", CLASSES, threshold, least)


def test_every_pixel_counts_once():
    """Two tiles share half their pixels; there the mean decides."""
    label = np.zeros((4, 4, 2), np.uint8)
    label[..., 0] = 1
    left = np.zeros((4, 4, 2), np.float32)
    left[..., 0] = 0.9
    right = np.zeros((4, 4, 2), np.float32)
    right[..., 0] = 0.2  # the mean of 0.9 and 0.2 is above a half, 0.2 is not
    result, found = scored([(0, 0, left, label), (0, 2, right, label)])
    # Columns 0 to 3 are found, 4 and 5 are missed.
    np.testing.assert_array_equal(result.table, [[16, 0, 8], [0, 0, 0]])
    assert found.shape == (4, 6, 2)
    result, _ = scored([(0, 0, left, label), (0, 2, right, label)], threshold=0.6)
    np.testing.assert_array_equal(result.table[0], [8, 0, 16])


def test_what_no_tile_covers_is_not_counted():
    tile = np.ones((4, 4, 2), np.float32)
    nothing = np.zeros((4, 4, 2), np.uint8)
    result, _ = scored([(0, 0, tile, nothing), (4, 4, tile, nothing)])
    np.testing.assert_array_equal(result.table, [[0, 32, 0]] * 2)
    assert result.uncovered == 32


def test_glomeruli_are_counted_whole():
    probabilities = np.zeros((8, 8, 2), np.float32)
    probabilities[0, 0] = probabilities[1, 1] = 0.9, 0.0  # touch by a corner: one
    probabilities[4:6, 4:6] = 0.6, 0.8  # both claim it: the sclerosed has it
    probabilities[7, 0] = 0.9, 0.0  # one pixel: too small
    label = np.zeros((8, 8, 2), np.uint8)
    label[:2, :2, 0] = 1
    result, found = scored([(0, 0, probabilities, label)], least=2)
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
