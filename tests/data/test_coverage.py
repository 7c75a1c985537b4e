import hashlib
import math

import numpy as np
import pytest

from jaxinpaint.data import coverage
from jaxinpaint.data.masks import expect_binary


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("height, width", [(64, 64), (37, 101), (256, 256)])
@pytest.mark.parametrize("ratio", [0.004, 0.1, 0.3, 0.5, 0.9])
def test_the_number_of_hole_pixels_is_exact(height, width, ratio):
    mask = coverage.exact_mask(rng(1), height, width, ratio=ratio)
    assert mask.shape == (height, width, 1) and mask.dtype == np.uint8
    assert mask.sum() == round(ratio * height * width)
    expect_binary("here", mask)


def test_all_pixels_but_one():
    assert coverage.exact_mask(rng(), 9, 12, ratio=107 / 108).sum() == 107
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="at least one hole pixel"):
            coverage.exact_mask(rng(), 9, 12, ratio=ratio)


LINES = [
    [(9.0, 10.0), (9.0, 30.0)],
    [(9.25, 10.5), (25.0, 22.75), (4.0, 33.0)],
    [(0.0, 0.0), (39.0, 3.5), (39.0, 43.0), (12.0, 43.0)],
    [(20.0, 20.0), (20.0, 20.0)],
    [(39.0, 43.0), (39.0, 43.0), (30.0, 43.0)],
]


def slow_distances(line):
    """Of every pixel centre to the nearest of 4001 points on each piece, refined."""
    out = np.full((40, 44), np.inf)
    for y in range(40):
        for x in range(44):
            for (y0, x0), (y1, x1) in zip(line, line[1:], strict=False):
                length2 = (y1 - y0) ** 2 + (x1 - x0) ** 2
                t = 0.0
                if length2:
                    t = ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length2
                t = min(max(t, 0.0), 1.0)
                far = math.hypot(y - y0 - t * (y1 - y0), x - x0 - t * (x1 - x0))
                out[y, x] = min(out[y, x], far)
    return out


def paint(hole, line, reach, room):
    scratch = np.full(hole.shape, np.inf)
    count = coverage._paint(hole, scratch, np.array(line), reach, room)
    assert np.isinf(scratch).all()  # ready for the next stroke
    return count


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("reach", [1.0, 4.6])
def test_a_stroke_is_what_lies_within_half_its_width(line, reach):
    hole = np.zeros((40, 44), bool)
    want = slow_distances(line) <= reach
    assert paint(hole, line, reach, 10**6) == want.sum()
    np.testing.assert_array_equal(hole, want)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("room", [1, 5, 30])
def test_the_last_stroke_keeps_the_nearest_new_pixels(line, room):
    hole = np.zeros((40, 44), bool)
    hole[:, 12:25:3] = True
    before, far = hole.copy(), slow_distances(line)
    # Rounded, so that equal distances are equal however they were computed.
    new = [(round(far[i], 9), i) for i in zip(*np.nonzero(~before), strict=True)]
    nearest = sorted(one for one in new if one[0] <= 4.6)[:room]
    assert paint(hole, line, 4.6, room) == len(nearest) == room
    assert {(y, x) for _, (y, x) in nearest} == set(
        zip(*np.nonzero(hole & ~before), strict=True)
    )
    assert (hole >= before).all()


def test_the_walk_has_the_figures_of_the_paper_s_generator():
    counts, mirrors, lengths, degrees, clipped = [], [], [], [], 0
    source = rng(3)
    piece = math.hypot(256, 320) / 8
    for _ in range(1500):
        line, mirrored = coverage._zigzag(source, 256, 320)
        counts.append(len(line) - 1)
        mirrors.append(mirrored)
        assert (line >= 0).all() and (line <= (255, 319)).all()
        assert (line[0] == line[0].astype(int)).all()
        angles = []
        for i, (y, x) in enumerate(np.diff(line, axis=0)):
            inside = (line[i + 1] > 0).all() and (line[i + 1] < (255, 319)).all()
            if not inside or not (y or x):
                clipped += 1
                continue
            assert (y < 0) == (i % 2 == 0)  # up first, then down
            lengths.append(math.hypot(y, x))
            angles.append(math.degrees(math.atan2(abs(y), x)))
        degrees += angles
        if angles:  # lowest and highest of a stroke lie on either side of 72
            assert min(angles) >= 48 and max(angles) <= 96
    assert set(counts) == set(range(4, 12))
    each = np.bincount(counts)[4:]
    assert abs(each - 1500 / 8).max() < 6 * np.sqrt(1500 * 7 / 64)
    for axis in (0, 1):
        share = np.mean([mirrored[axis] for mirrored in mirrors])
        assert abs(share - 0.5) < 6 * 0.5 / np.sqrt(1500)
    assert clipped < 0.45 * sum(counts)
    assert max(lengths) <= 2 * piece + 1e-9
    # Pieces that stay inside are the shorter ones: N(R, R / 2) without its tail.
    assert 0.7 * piece < np.mean(lengths) < 1.05 * piece
    assert abs(np.mean(degrees) - 72) < 1


def test_strokes_scale_with_the_image():
    deep = {}
    for size in (64, 128, 256):
        mask = coverage.exact_mask(rng(5), size, size, ratio=0.3)
        hole, depth = mask[..., 0] == 1, 0
        while hole.any():  # peeled off, a pixel at a time
            core = np.pad(hole, 1)
            hole = core[1:-1, 1:-1] & core[:-2, 1:-1] & core[2:, 1:-1]
            hole &= core[1:-1, :-2] & core[1:-1, 2:]
            depth += 1
        deep[size] = depth
    assert deep[64] < deep[128] < deep[256]
    assert deep[256] >= 6 and deep[64] <= 20  # of at least 12 and few times 10 pixels


def test_one_seed_gives_the_same_bits_everywhere():
    mask = coverage.exact_mask(rng(7), 64, 80, ratio=0.3)
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    assert digest == "a6d5bc6f702785edad4eb9bd2edf513abdd833ac8b426b5ab5e72893a132f386"


@pytest.mark.parametrize(
    "ratio, least, most, first, last",
    [
        (0.1, 9.7, 10.0, 64, 97),
        (0.3, 29.4, 30.0, 103, 153),
        (0.5, 49.2, 50.0, 167, 192),
    ],
)
def test_rectangles_at_256(ratio, least, most, first, last):
    """Coverage as the specification measured it, heights worked by hand."""
    heights, source = [], rng(2)
    for _ in range(4000):
        hole = coverage.rectangle_mask(source, 256, 256, ratio=ratio)[..., 0] == 1
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        assert rows[0] + rows[-1] == columns[0] + columns[-1] == 255  # in the middle
        assert least <= round(100 * hole.mean(), 1) <= most
        heights.append(len(rows))
    want = np.bincount([n // 2 * 2 for n in range(first, last + 1)]) / (
        last + 1 - first
    )
    got = np.bincount(heights) / 4000
    assert len(got) == len(want)
    assert (abs(got - want) < 6 * np.sqrt(want / 4000) + 1e-9).all()


def test_a_rectangle_by_hand():
    # 0.65 * 20 = 13 to 15 rows, halved to 6 or 7; 400 * 0.5 / 13 = 15.4 columns.
    seen = set()
    for seed in range(20):
        hole = coverage.rectangle_mask(rng(seed), 20, 20, ratio=0.5)[..., 0]
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        seen.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert seen == {(4, 15, 3, 16), (3, 16, 3, 16), (3, 16, 4, 15)}


def test_rectangles_of_other_images():
    hole = coverage.rectangle_mask(rng(), 41, 90, ratio=0.3)[..., 0]
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    assert (rows[0] + rows[-1] + 1) // 2 == 20 and 16 <= len(rows) <= 24
    assert (columns[0] + columns[-1] + 1) // 2 == 45
    assert 0.25 < hole.mean() <= 0.3
    with pytest.raises(ValueError, match=r"ratio is 0.2; it is one of \[0.1, 0.3"):
        coverage.rectangle_mask(rng(), 64, 64, ratio=0.2)
    with pytest.raises(ValueError, match="4 x 4 is too small for rectangles of 10%"):
        coverage.rectangle_mask(rng(), 4, 4, ratio=0.1)
