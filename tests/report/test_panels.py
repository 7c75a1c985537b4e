import io
import math

import numpy as np
import pytest
from PIL import Image

from jaxinpaint.report import panels


def panel(**changes):
    truth = np.full((40, 30, 3), 100, np.uint8)
    mask = np.zeros((40, 30, 1), np.uint8)
    mask[10:14, 12:16] = 1
    completed = np.where(mask, 110, truth).astype(np.uint8)
    images = {
        "truth": truth,
        "masked": truth * (1 - mask),
        "neighbor": truth + np.uint8(1),
        "completed": completed,
        "telea": np.where(mask, 90, truth).astype(np.uint8),
    } | changes
    return panels.Panel("s", "4x4", "worst", 1.0, images, mask)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_choose_by_hand():
    #         0     1     2     3     4     5     6
    values = [30.0, 10.0, 20.0, 25.0, 15.0, 35.0, 12.0]  # rising: 1 6 4 2 3 0 5
    got = panels.choose(values, 1)
    assert got == {"worst": [1], "median": [2], "best": [5]}
    got = panels.choose(values, 2)
    assert got == {"worst": [1, 6], "median": [4, 2], "best": [5, 0]}


def test_choose_takes_ties_in_order_and_nan_as_worst():
    got = panels.choose([5.0] * 5, 1)  # worst 0, best 1, the middle of 2 3 4
    assert got == {"worst": [0], "median": [3], "best": [1]}
    got = panels.choose([3.0, math.nan, math.inf, -math.inf], 1)
    assert got == {"worst": [1], "median": [3], "best": [2]}


@pytest.mark.parametrize("count", range(8))
def test_choose_never_takes_one_twice(count):
    got = panels.choose(list(np.linspace(0, 1, count)), 2)
    taken = [index for group in got.values() for index in group]
    assert len(taken) == len(set(taken)) == min(count, 6)


def test_choose_refuses_zero():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        panels.choose([1.0], 0)


def test_difference_by_hand():
    truth = np.uint8([[[10, 20, 30], [0, 0, 0]], [[200, 200, 200], [7, 7, 7]]])
    completed = np.uint8([[[13, 14, 30], [9, 9, 9]], [[100, 250, 200], [7, 7, 8]]])
    mask = np.uint8([[[1], [0]], [[1], [1]]])
    got = panels.difference_map(truth, completed, mask)
    want = [[(3 + 6 + 0) / 3, 0.0], [(100 + 50 + 0) / 3, 1 / 3]]
    np.testing.assert_allclose(got, np.float32(want), rtol=1e-6)
    assert got[0, 1] == 0.0
    assert panels.changed_outside(truth, completed, mask) == 1


def test_difference_of_grey_does_not_wrap():
    truth, completed = np.uint8([[250, 5]]), np.uint8([[5, 250]])
    got = panels.difference_map(truth, completed, np.uint8([[1, 1]]))
    np.testing.assert_array_equal(got, [[245, 245]])


def test_outline_lies_outside():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    want = np.zeros((5, 5), bool)
    want[[1, 3, 2, 2], [2, 2, 1, 3]] = True
    np.testing.assert_array_equal(panels.outline(mask), want)
    border = np.uint8([[1, 1, 0]])  # does not wrap round the image
    np.testing.assert_array_equal(panels.outline(border), [[False, False, True]])


@pytest.mark.parametrize(
    ("rows", "columns", "want"),
    [
        ((40, 60), (50, 70), (32, 42, 68, 78)),  # side 20 + 2 * 8
        ((0, 6), (94, 100), (0, 78, 22, 100)),  # moved into the corner
        ((20, 50), (40, 46), (10, 18, 60, 68)),  # square round the longer side
        ((0, 100), (0, 50), (0, 0, 100, 100)),
    ],
)
def test_hole_box_by_hand(rows, columns, want):
    mask = np.zeros((100, 100), bool)
    mask[slice(*rows), slice(*columns)] = True
    assert panels.hole_box(mask) == want


def test_paint_ends():
    got = panels.paint(np.float32([[0, 16, 32, 200]]), 32)
    np.testing.assert_array_equal(got[0, 0], [0, 0, 4])  # magma's first colour
    np.testing.assert_array_equal(got[0, 2], [252, 253, 191])  # and its last
    np.testing.assert_array_equal(got[0, 3], got[0, 2])
    assert got[0, 0].sum() < got[0, 1].sum() < got[0, 2].sum()


def test_scale_limit_is_the_next_step():
    assert panels.scale_limit([panel()]) == 16  # |110 - 100| = 10
    far = panel(completed=np.full((40, 30, 3), 255, np.uint8))
    assert panels.scale_limit([panel(), far]) == 255


def test_draw():
    drawn = panels.draw(panel(), limit=16)
    assert [t.name for t in drawn.frames] == "truth masked neighbor completed".split()
    assert [t.name for t in drawn.zooms] == "truth neighbor completed telea".split()
    assert drawn.box == (2, 4, 22, 24) and drawn.changed == 0
    assert [t.error for t in drawn.zooms] == [None, None, 10.0, 10.0]
    frame = pixels(drawn.frames[3].picture)
    assert frame.shape == (40 * 6, 30 * 6, 3)  # 256 // 40
    np.testing.assert_array_equal(frame[11 * 6, 13 * 6], [110] * 3)
    np.testing.assert_array_equal(frame[10 * 6 - 1, 13 * 6], panels.OUTLINE)
    np.testing.assert_array_equal(frame[10 * 6 - 3, 13 * 6], [100] * 3)
    zoom = pixels(drawn.zooms[2].difference)
    scale = zoom.shape[0] // 20
    inside, outside = zoom[9 * scale, 9 * scale], zoom[0, 0]
    np.testing.assert_array_equal(inside, panels.paint(np.float32([[10]]), 16)[0, 0])
    np.testing.assert_array_equal(outside, [0, 0, 4])


def test_flow_is_drawn_whole_and_around_the_hole():
    flow = np.zeros((40, 30, 2), np.float32)
    flow[:, :20, 0], flow[:, 29, 1] = 4.0, -8.0  # the last column is outside the zoom
    drawn = panels.draw(panel()._replace(flow=flow), 16, reach=4.0)
    frame, zoom = drawn.frames[-1], drawn.zooms[-1]
    assert (frame.name, zoom.name) == ("flow", "flow")
    assert (frame.longest, zoom.longest) == (8.0, 4.0)
    assert frame.difference is zoom.difference is frame.error is None
    picture = pixels(frame.picture)
    assert picture.shape == (40 * 6, 30 * 6, 3)
    for column, want in {
        5: (0, 90, 190),
        25: (255, 255, 255),
        29: (70, 190, 130),
    }.items():
        np.testing.assert_array_equal(picture[3, column * 6 + 3], want)
    np.testing.assert_array_equal(picture[10 * 6 - 1, 13 * 6], panels.OUTLINE)
    picture = pixels(zoom.picture)
    np.testing.assert_array_equal(picture[3, 3], (0, 90, 190))
    np.testing.assert_array_equal(picture[3, -3], (255, 255, 255))
    assert [tile.name for tile in panels.draw(panel(), 16).zooms][-1] == "telea"


def test_what_is_not_composited_is_shown_whole():
    """Its map holds the valid pixels too: one is 6 levels off, |103 - 97|."""
    off = panel().images["completed"].copy()
    off[20, 20] = 106
    drawn = panels.draw(panel(raw=off)._replace(whole=("raw",)), limit=16)
    names = "truth masked neighbor completed raw".split()
    assert [t.name for t in drawn.frames] == names
    assert [t.whole for t in drawn.frames] == [False] * 4 + [True]
    assert [t.name for t in drawn.zooms if t.whole] == ["raw"]
    frame = pixels(drawn.frames[4].difference)
    assert frame.shape == (40 * 6, 30 * 6, 3)
    want = panels.paint(np.float32([[6]]), 16)[0, 0]
    np.testing.assert_array_equal(frame[20 * 6 + 3, 20 * 6 + 3], want)
    np.testing.assert_array_equal(frame[0, 0], [0, 0, 4])
    zoom, scale = pixels(drawn.zooms[-1].difference), 288 // 20
    np.testing.assert_array_equal(
        zoom[(20 - 2) * scale + 7, (20 - 4) * scale + 7], want
    )
    assert drawn.zooms[-1].error == 10.0  # in the hole alone
    composited = panels.draw(panel(raw=off), limit=16).zooms[-1]
    black = pixels(composited.difference)[(20 - 2) * scale + 7, (20 - 4) * scale + 7]
    np.testing.assert_array_equal(black, [0, 0, 4])
    assert drawn.changed == 0


def test_large_frames_shrink_and_grey_is_drawn():
    truth = np.full((600, 300, 1), 7, np.uint8)
    mask = np.zeros((600, 300), bool)
    mask[100:400, 50:250] = True
    images = {"truth": truth, "completed": truth}
    drawn = panels.draw(panels.Panel("s", "b", "c", 0.0, images, mask), 16)
    assert pixels(drawn.frames[0].picture).shape == (256, 128, 3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (panel(telea=np.zeros((40, 30, 3), np.float32)), "telea must be uint8"),
        (panel(neighbor=np.zeros((40, 31, 3), np.uint8)), "neighbor must be uint8"),
        (panel()._replace(mask=np.zeros((40, 30))), "no hole"),
        (panel()._replace(flow=np.zeros((40, 31, 2))), "flow must be \\[40, 30, 2\\]"),
        (panel()._replace(flow=np.full((40, 30, 2), np.nan)), "must be .* finite"),
        (panel()._replace(mask=np.full((40, 30), 255)), "0 \\(valid\\) and 1"),
        (panel()._replace(mask=np.ones((30, 40))), "mask must be \\[40, 30\\]"),
        (panel()._replace(images={"truth": np.zeros((2, 2))}), "must hold 'completed'"),
    ],
)
def test_wrong_panels_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        panels.draw(broken, 16)
