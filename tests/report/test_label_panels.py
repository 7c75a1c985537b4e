"""Outlines of classes, pixel by pixel, and which images are shown."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxinpaint.report.label_panels import (
    COLOURS,
    EDGE,
    SIDE,
    LabelPanel,
    outlined,
    pictures,
    spread,
)

GREY = np.full((9, 9, 3), 128, np.uint8)


def label(**squares):
    made = np.zeros((9, 9, 2), np.uint8)
    for name, (low, high) in squares.items():
        made[low:high, low:high, ("normal", "sclerosed").index(name)] = 1
    return made


def test_a_line_of_two_pixels_inside_and_a_dark_edge_outside():
    drawn = outlined(GREY, label(normal=(2, 8)))
    blue, grey = list(COLOURS[0]), [128] * 3
    row = drawn[4].tolist()
    want = [grey, list(EDGE), blue, blue, grey, grey, blue, blue, list(EDGE)]
    assert row == want
    assert drawn[0].tolist() == [grey] * 9


def test_the_second_class_is_dashed():
    drawn = outlined(GREY, label(sclerosed=(1, 9)))
    line = drawn[1, 1:].tolist()
    assert line == [list(COLOURS[1])] * 3 + [list(EDGE)] * 5
    assert drawn[4, 4].tolist() == [128] * 3
    # Where the image ends, a glomerulus goes on: no line.
    assert drawn[8, 5].tolist() == [128] * 3


def test_an_edge_covers_no_other_class():
    both = label(normal=(0, 4))
    both[:, 4:, 1] = 1
    drawn = outlined(GREY, both)
    assert drawn[1, 3].tolist() == list(COLOURS[0])
    assert drawn[0, 4].tolist() == list(COLOURS[1])


def test_nothing_is_outlined_where_nothing_is():
    np.testing.assert_array_equal(outlined(GREY, label()), GREY)


def test_pictures_are_fitted():
    tall = np.zeros((2 * SIDE, SIDE, 3), np.uint8)
    panel = LabelPanel("t", "test1", "", tall, {"truth": tall[..., :2]})
    sizes = {n: Image.open(io.BytesIO(p)).size for n, p in pictures(panel).items()}
    assert sizes == {"image": (SIDE // 2, SIDE), "truth": (SIDE // 2, SIDE)}
    small = LabelPanel("t", "test1", "", GREY, {})
    (picture,) = pictures(small).values()
    assert Image.open(io.BytesIO(picture)).size == (9 * (SIDE // 9),) * 2


def test_a_label_of_another_size_is_refused():
    panel = LabelPanel("tile", "test1", "", GREY, {"found": label()[:5]})
    with pytest.raises(
        ValueError, match=r"'tile': found must be \[9, 9\], got \[5, 9\]"
    ):
        pictures(panel)


def test_images_from_worst_to_best():
    values = [0.5, float("nan"), 0.1, 0.9, 0.7, 0.3]
    assert spread(values, 3) == [2, 0, 3]
    assert spread(values, 9) == [2, 5, 0, 4, 3]
    assert spread(values, 1) == [2]
    assert spread([float("nan")], 2) == []
    with pytest.raises(ValueError, match="at least 1"):
        spread(values, 0)
