import itertools

import numpy as np
import pytest

from jaxinpaint.data import contours


def drawn(text):
    """A map from rows of '.' and '#'."""
    return np.array([[c == "#" for c in row] for row in text.split()], np.uint8)


def disc(side, radius, centre=None):
    cy, cx = centre or ((side - 1) / 2,) * 2
    y, x = np.mgrid[:side, :side]
    return ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2).astype(np.uint8)


def test_corners_connect_and_gaps_do_not():
    labels, count = contours.components(drawn("#..#  .#..  ....  ##.#"))
    assert count == 4 and labels.dtype == np.int32
    np.testing.assert_array_equal(
        labels, [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0], [3, 3, 0, 4]]
    )


def test_the_largest_piece_and_of_equals_the_first():
    np.testing.assert_array_equal(
        contours.largest(drawn("##...  .....  ...##  ...#.")),
        drawn(".....  .....  ...##  ...#."),
    )
    np.testing.assert_array_equal(
        contours.largest(drawn("#.#  #.#")), drawn("#..  #..")
    )
    assert not contours.largest(np.zeros((3, 4), np.uint8)).any()


def test_a_diagonal_ring_closes_and_a_bay_stays_open():
    filled = contours.fill_holes(drawn(".#...  #.#..  .#.##  ...#.  ...##"))
    np.testing.assert_array_equal(filled, drawn(".#...  ###..  .#.##  ...#.  ...##"))
    assert filled.dtype == np.uint8


def brute_force(points):
    """Of all circles on two or three points, the smallest that holds all."""
    best = (*points[0], 0.0) if len(np.unique(points, axis=0)) == 1 else None
    for a, b in itertools.combinations(points, 2):
        best = better(best, (a + b) / 2, np.linalg.norm(a - b) / 2, points)
    for (ay, ax), (by, bx), (cy, cx) in itertools.combinations(points, 3):
        d = 2 * (ay * (bx - cx) + by * (cx - ax) + cy * (ax - bx))
        if abs(d) < 1e-12:
            continue
        aa, bb, cc = ay**2 + ax**2, by**2 + bx**2, cy**2 + cx**2
        y = (aa * (bx - cx) + bb * (cx - ax) + cc * (ax - bx)) / d
        x = (aa * (cy - by) + bb * (ay - cy) + cc * (by - ay)) / d
        best = better(best, np.array([y, x]), np.hypot(ay - y, ax - x), points)
    return best


def better(best, centre, radius, points):
    holds = np.linalg.norm(points - centre, axis=1).max() <= radius + 1e-9
    if holds and (best is None or radius < best[2]):
        return (*centre, radius)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_the_circle_is_the_smallest_of_all(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    points = rng.integers(0, 9, (count, 2)).astype(float)
    if seed % 2:
        points = rng.normal(size=(count, 2)) * [3, 40]
    np.testing.assert_allclose(
        contours.enclosing_circle(points), brute_force(points), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "points, circle",
    [
        ([(0, 0), (0, 4), (3, 0), (1, 1)], (1.5, 2.0, 2.5)),  # specification 5.5
        ([(7, 9)], (7, 9, 0)),
        ([(7, 9), (7, 9), (7, 9)], (7, 9, 0)),
        ([(0, 0), (6, 8)], (3, 4, 5)),
        ([(2, 2), (0, 0), (6, 6), (5, 5)], (3, 3, 3 * 2**0.5)),
        ([(4, 5), (4, -1), (4, 2)], (4, 2, 3)),
        ([(0, 3), (8, 3), (2, 3)], (4, 3, 4)),
        ([(0, 0), (0, 2), (2, 0), (2, 2)], (1, 1, 2**0.5)),
    ],
)
def test_circles_by_hand(points, circle):
    np.testing.assert_allclose(contours.enclosing_circle(np.array(points)), circle)


def test_the_circle_of_a_big_piece_holds_every_pixel():
    y, x, radius = contours.enclosing_circle(
        np.argwhere(disc(256, 111.3, (120, 131.5)))
    )
    assert abs(y - 120) < 1 and abs(x - 131.5) < 1 and 110 < radius <= 111.3 + 1e-9


def slow_rescale(mask, scale, centre, size):
    out = np.zeros((size, size), np.uint8)
    for i, j in np.ndindex(size, size):
        y = centre[0] + (i - (size - 1) / 2) / scale
        x = centre[1] + (j - (size - 1) / 2) / scale
        level, top, left = 0.0, int(np.floor(y)), int(np.floor(x))
        for row, column in itertools.product((top, top + 1), (left, left + 1)):
            if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                level += weight * mask[row, column]
        out[i, j] = level >= 0.5 - 1e-6
    return out


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("centre", [(9.5, 11.0), (14.25, 3.0)])
def test_rescaling_equals_a_loop_over_pixels(scale, centre):
    mask = disc(24, 8.2, (11, 9))
    got = contours.rescale(mask, scale, centre, 32)
    np.testing.assert_array_equal(got, slow_rescale(mask, scale, centre, 32))
    assert got.dtype == np.uint8 and got.any()


def test_rescaling_moves_the_centre_to_the_middle_and_scales_the_radius():
    got = contours.rescale(disc(64, 10, (20, 41)), 3.0, (20, 41), 96)
    y, x, radius = contours.enclosing_circle(np.argwhere(got))
    assert abs(y - 47.5) < 0.1 and abs(x - 47.5) < 0.1 and 29.5 < radius < 32


def test_rescaling_by_one_about_the_middle_changes_nothing():
    mask = disc(64, 19.7)
    np.testing.assert_array_equal(contours.rescale(mask, 1.0, (31.5, 31.5), 64), mask)


def test_rescaling_keeps_the_largest_piece_alone():
    mask = disc(64, 12, (20, 20)) | disc(64, 3, (55, 55))
    kept = contours.rescale(mask, 1.0, (31.5, 31.5), 64)
    np.testing.assert_array_equal(kept, disc(64, 12, (20, 20)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: contours.components(np.zeros((2, 2, 1), np.uint8)), r"\[2, 2, 1\]"),
        (lambda: contours.fill_holes(np.full((2, 2), 255, np.uint8)), "fill_holes"),
        (lambda: contours.enclosing_circle(np.zeros((0, 2))), r"\[0, 2\]"),
        (lambda: contours.enclosing_circle(np.array([[0, np.nan]])), "not finite"),
        (lambda: contours.rescale(disc(8, 2), 0.0, (4, 4), 8), "0.0 and 8"),
        (lambda: contours.rescale(disc(8, 2), 1.0, (4, 4), 0), "1.0 and 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
