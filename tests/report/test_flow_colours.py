"""Flow as colours, by hand; told apart by people who do not see red or green."""

import itertools

import numpy as np
import pytest

from jaxinpaint.report import flow_colours
from jaxinpaint.report.flow_colours import paint_flow

# Dichromats, severity 1.0 of Machado et al. 2009 (IEEE TVCG 15(6)), on linear RGB.
SEEN_BY = {
    "protanope": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deuteranope": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
}


def colour(dx, dy, limit=4.0):
    return paint_flow(np.float32([[[dx, dy]]]), limit)[0, 0]


def test_no_flow_is_white():
    np.testing.assert_array_equal(colour(0, 0), [255, 255, 255])


@pytest.mark.parametrize(
    ("flow", "want"),
    [
        ((4, 0), (0, 90, 190)),  # right: blue
        ((0, 4), (120, 20, 110)),  # down: purple
        ((-4, 0), (245, 170, 0)),  # left: orange
        ((0, -4), (70, 190, 130)),  # up: green
        ((2, 0), (128, 172, 222)),  # half way from white, halves to even
        ((-1, 0), (252, 234, 191)),  # a quarter
        ((9, 9), (60, 55, 150)),  # longer than the limit; between right and down
        ((9, -9), (35, 140, 160)),  # between up and right, where the circle closes
    ],
)
def test_colours_by_hand(flow, want):
    np.testing.assert_array_equal(colour(*flow), want)


def test_the_direction_alone_sets_the_hue():
    """Along one ray, the distance from white grows with the length."""
    for angle in np.linspace(0, 2 * np.pi, 13):
        ray = [
            255.0 - colour(length * np.cos(angle), length * np.sin(angle))
            for length in (1, 2, 3, 4)
        ]
        for length, apart in enumerate(ray, 1):
            np.testing.assert_allclose(apart, ray[3] * length / 4, atol=1.0)


def simulated(pixel, matrix):
    share = np.asarray(pixel) / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = np.clip(np.asarray(matrix) @ linear, 0, 1)
    return 255 * np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )


@pytest.mark.parametrize("viewer", SEEN_BY)
def test_directions_differ_for_people_who_do_not_see_red_or_green(viewer):
    """All of eight directions a quarter turn or more apart, not opposite ones alone."""
    angles = np.arange(8) * np.pi / 4
    seen = [
        simulated(colour(4 * np.cos(a), 4 * np.sin(a)), SEEN_BY[viewer]) for a in angles
    ]
    for i, j in itertools.combinations(range(8), 2):
        apart = np.linalg.norm(seen[i] - seen[j])
        if min(j - i, 8 - j + i) == 4:
            assert apart > 90, (i, j)
        elif min(j - i, 8 - j + i) >= 2:
            assert apart > 40, (i, j)


def test_the_wheel_points_from_its_centre():
    wheel = flow_colours.wheel(101)
    np.testing.assert_array_equal(wheel[50, 50], [255, 255, 255])
    np.testing.assert_array_equal(wheel[0, 0], [255, 255, 255])
    for place, want in {(50, 100): 0, (100, 50): 1, (50, 0): 2, (0, 50): 3}.items():
        np.testing.assert_array_equal(wheel[place], flow_colours.RIM[want])


def test_the_scale_is_shared_and_a_round_number():
    small, large = np.zeros((10, 10, 2)), np.zeros((10, 10, 2))
    small[..., 0] = 0.4
    assert flow_colours.flow_limit([small]) == 0.5
    large[..., :] = (3.0, 4.0)
    assert flow_colours.flow_limit([small, large]) == 5
    assert flow_colours.longest(large) == 5.0
    assert flow_colours.flow_limit([large * 1000]) == 200
    assert flow_colours.flow_limit([]) == 0.5
    large = np.tile(large, (2, 1, 1))
    large[0, 0] = 90.0  # one vector in two hundred does not pale the rest
    assert flow_colours.flow_limit([large]) == 5


@pytest.mark.parametrize(
    "flow", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.full((1, 1, 2), np.nan)]
)
def test_what_is_no_flow_is_refused(flow):
    with pytest.raises(ValueError, match="finite, got"):
        paint_flow(flow, 1.0)
