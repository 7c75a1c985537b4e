import io

import numpy as np
import pytest
from PIL import Image

from jaxinpaint.report.panels import OUTLINE
from jaxinpaint.report.sheet import GAP, LINE, SIDE, sheet


def drawn(images, hole):
    return np.array(Image.open(io.BytesIO(sheet(images, hole, hole))))


def frame(picture, row, column, height, width):
    top = LINE + row * (height + LINE + GAP)
    left = column * (width + GAP)
    return picture[top : top + height, left : left + width]


def test_frames_stand_side_by_side_with_the_hole_outlined():
    given = np.full((160, 160, 3), 40, np.uint8)
    made = np.full((160, 160, 3), 90, np.uint8)
    hole = np.zeros((160, 160), bool)
    hole[60:70, 80:90] = True
    picture = drawn({"given": given, "restored": made}, hole)
    assert picture.shape == (2 * (SIDE + LINE + GAP), 3 * (SIDE + GAP), 3)
    first, second, third = (frame(picture, 0, i, SIDE, SIDE) for i in range(3))
    assert (first == 40).all()
    yellow = (second == OUTLINE).all(axis=-1)
    rows, columns = np.nonzero(yellow)
    # Twice the size, and the line runs outside of 120:140 and 160:180.
    assert (rows.min(), rows.max() + 1) == (119, 141)
    assert (columns.min(), columns.max() + 1) == (159, 181)
    assert (second[120:140, 160:180] == 90).all()
    white = np.zeros((SIDE, SIDE), bool)
    white[120:140, 160:180] = True
    np.testing.assert_array_equal((third == 255).all(axis=-1), white)
    closer = frame(picture, 1, 2, SIDE, SIDE)
    assert 0.1 < (closer == 255).mean() < 0.5  # the hole fills more of it


def test_sixteen_bits_and_grey_and_flat_pictures():
    given = np.full((40, 80, 1), 0x8012, np.uint16)
    hole = np.zeros((40, 80), bool)
    hole[10:14, 20:24] = True
    picture = drawn({"given": given, "restored": given}, hole)
    assert (frame(picture, 0, 0, SIDE // 2, SIDE) == 0x80).all()


def test_a_hole_all_over_is_enlarged_where_it_is_densest():
    given = np.zeros((90, 90, 1), np.uint8)
    given[60:80, 5:25] = 200
    hole = np.zeros((90, 90), bool)
    hole[0, :] = hole[:, 0] = hole[-1] = True
    hole[60:80, 5:25] = True
    picture = drawn({"given": given, "restored": given}, hole)
    assert (frame(picture, 1, 0, SIDE, SIDE) == 200).mean() > 0.4  # 400 of 900 pixels


def test_no_hole_is_refused():
    with pytest.raises(ValueError, match="needs a hole"):
        sheet({"given": np.zeros((9, 9, 1), np.uint8)}, *2 * [np.zeros((9, 9), bool)])
