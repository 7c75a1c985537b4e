import hashlib

import numpy as np
import pytest

from jaxinpaint.data import masks


def rng(seed=0):
    return np.random.default_rng(seed)


def disc(radius):
    span = np.arange(-int(radius), int(radius) + 1)
    y, x = np.meshgrid(span, span, indexing="ij")
    near = y**2 + x**2 <= radius**2
    return list(zip(y[near].tolist(), x[near].tolist(), strict=True))


def eroded(hole, radius):
    """Centres of discs that lie in the hole; beyond the image all counts as hole."""
    pad = int(radius)
    padded = np.pad(hole, pad, constant_values=True)
    height, width = hole.shape
    out = np.ones_like(hole)
    for y, x in disc(radius):
        out &= padded[pad + y : pad + y + height, pad + x : pad + x + width]
    return out


def dilated(hole, radius):
    return ~eroded(~hole, radius)


def joined(hole):
    """Number of 8-connected pieces, by flooding."""
    left = set(map(tuple, np.argwhere(hole).tolist()))
    pieces = 0
    while left:
        pieces += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            for step in [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
                if step in left:
                    left.remove(step)
                    front.append(step)
    return pieces


def test_four_squares_of_the_picture_cover_19_83_percent():
    mask = masks.disjoint_boxes(rng(), 512, 512, boxes=[(114, 114)] * 4)
    assert mask.sum() == 51984
    assert round(100 * mask.mean(), 2) == 19.83


def test_boxes_of_many_shapes_are_disjoint():
    for seed in range(20):
        boxes = [(10, 4), (7, 7), (3, 20)]
        mask = masks.disjoint_boxes(rng(seed), 40, 31, boxes=boxes)
        assert mask.sum() == 40 + 49 + 60
    with pytest.raises(ValueError, match="fewer or smaller"):
        masks.disjoint_boxes(rng(), 10, 10, boxes=[(6, 6), (6, 6)])
    with pytest.raises(ValueError, match="1 to 10 rows"):
        masks.disjoint_boxes(rng(), 10, 10, boxes=[(11, 2)])


def test_square_places_are_uniform_and_reach_both_ends():
    source = rng(3)
    places = np.array(
        [
            np.argwhere(masks.square_mask(source, 10, 8, side=5)[..., 0])[0]
            for _ in range(2400)
        ]
    )
    rows, columns = (np.bincount(places[:, i]) for i in (0, 1))
    assert len(rows) == 6 and len(columns) == 4  # tops 0..5, lefts 0..3
    # Six standard deviations of a binomial count.
    assert abs(rows - 400).max() < 6 * np.sqrt(2400 * 1 / 6 * 5 / 6)
    assert abs(columns - 600).max() < 6 * np.sqrt(2400 * 1 / 4 * 3 / 4)


def test_fixed_shapes_by_hand():
    half = masks.half_mask(3, 5)[..., 0]
    np.testing.assert_array_equal(half, np.tile([1, 1, 0, 0, 0], (3, 1)))
    centre = masks.centre_mask(5, 4, side=2)[..., 0]
    want = np.zeros((5, 4))
    want[1:3, 1:3] = 1
    np.testing.assert_array_equal(centre, want)
    circle = masks.circle_mask(7, 7, centre=(3, 3), radius=2)
    assert circle.sum() == 13 and circle[1, 3] and circle[3, 5] and not circle[1, 2]
    square = masks.polygon_mask(
        9, 9, vertices=[(1.5, 2.5), (1.5, 6.5), (5.5, 6.5), (5.5, 2.5)]
    )[..., 0]
    assert square[2:6, 3:7].all() and square.sum() == 16
    triangle = masks.polygon_mask(8, 8, vertices=[(-0.5, -0.5), (7.5, -0.5), (-0.5, 7)])
    below = [sum(x < 7 - 7.5 / 8 * (y + 0.5) for x in range(8)) for y in range(8)]
    np.testing.assert_array_equal(triangle[..., 0].sum(axis=1), below)
    with pytest.raises(ValueError, match="does not lie in"):
        masks.box_mask(8, 8, top=5, left=0, box_height=4, box_width=2)


@pytest.mark.parametrize("ratio", [0.05, 0.2])
def test_damage_is_one_ragged_piece_of_exact_size(ratio):
    mask = masks.damage_mask(rng(4), 91, 120, ratio=ratio)
    assert mask.sum() == round(ratio * 91 * 120)
    masks.expect_binary("here", mask)
    hole = mask[..., 0] == 1
    assert joined(hole) == 1
    outline = (hole & ~eroded(hole, 1)).sum()
    assert outline > 1.5 * 2 * np.sqrt(np.pi * hole.sum())  # a disc has the least


@pytest.mark.parametrize("height, width", [(64, 64), (37, 101), (128, 75)])
@pytest.mark.parametrize("ratio", [0.004, 0.1, 0.3, 0.5, 0.9])
def test_irregular_ratio_is_exact(height, width, ratio):
    mask = masks.irregular_mask(
        rng(1), height, width, ratio=ratio, stroke_width=(5, 14)
    )
    assert mask.sum() == round(ratio * height * width)
    masks.expect_binary("here", mask)


def test_all_pixels_but_one():
    mask = masks.irregular_mask(rng(), 9, 9, ratio=80 / 81, stroke_width=(1, 3))
    assert mask.sum() == 80


@pytest.mark.parametrize("low, high", [(10, 28), (8, 8)])
def test_strokes_are_neither_thinner_nor_thicker_than_the_pen(low, high):
    thick = total = 0
    for seed in range(6):
        mask = masks.irregular_mask(
            rng(seed), 192, 192, ratio=0.15, stroke_width=(low, high)
        )
        # Pens reach over the border, so what lies beyond it counts as hole.
        hole = np.pad(mask[..., 0] == 1, high, constant_values=True)
        inside = np.s_[high:-high, high:-high]
        # Every hole pixel belongs to a whole pen: the discs of the smallest width
        # that fit in the hole cover it, but for the way from a pen's centre to the
        # next pixel, at most sqrt(1/2).
        fits = eroded(hole, low / 2 - 0.71)
        assert fits[inside].any()
        assert not (hole & ~dilated(fits, low / 2 + 0.71))[inside].any()
        # A wider disc fits only where strokes meet.
        thick += eroded(hole, high / 2 + 1)[inside].sum()
        total += hole[inside].sum()
    assert thick < 0.03 * total


def test_wide_pens_make_wider_strokes():
    deep = []
    for pen in (4, 8, 16):
        mask = masks.irregular_mask(
            rng(2), 128, 128, ratio=0.1, stroke_width=(pen,) * 2
        )
        hole = mask[..., 0] == 1
        deep.append(next(r for r in range(1, 40) if not eroded(hole, r).any()))
    assert deep[0] < deep[1] < deep[2]


@pytest.mark.parametrize("way", [(0, 20), (20, 0), (12, 16), (0, 0)])
def test_a_piece_of_a_stroke_is_what_lies_within_half_its_width(way):
    hole = np.zeros((40, 44), bool)
    start = np.array([9, 10])
    added = masks._paint(hole, start, start + way, 9, 10**6)
    want = np.zeros_like(hole)
    for y in range(40):
        for x in range(44):
            distances = [  # 201 pens on the way
                np.hypot(y - 9 - t * way[0], x - 10 - t * way[1])
                for t in np.linspace(0, 1, 201)
            ]
            want[y, x] = min(distances) <= 4.5 + 1e-6
    np.testing.assert_array_equal(hole, want)
    assert added == want.sum()
    if way == (0, 20):
        assert hole[:, 20].sum() == 9 and hole[5:14, 20].all()


@pytest.mark.parametrize("room", [69, 70, 100, 171])
def test_a_piece_cut_short_is_the_way_the_pen_has_gone(room):
    hole = np.zeros((40, 60), bool)
    masks._paint(hole, np.array([20, 10]), np.array([20, 40]), 9, room)
    assert hole.sum() == room
    gone = 0
    while True:  # whole pens from the start on, until one would be too much
        nearer = np.zeros_like(hole)
        masks._paint(nearer, np.array([20, 10]), np.array([20, 10 + gone]), 9, 10**6)
        if nearer.sum() > room:
            break
        assert not (nearer & ~hole).any()
        gone += 1
    assert gone > 0 and not (hole & ~nearer).any()


@pytest.mark.parametrize(
    "ratio, stroke_width, words",
    [
        (0.0, (4, 9), "at least one hole pixel"),
        (1.0, (4, 9), "one valid pixel"),
        (0.3, (9, 4), "lowest <= highest"),
        (0.3, (0, 4), "1 <= lowest"),
    ],
)
def test_irregular_refuses(ratio, stroke_width, words):
    with pytest.raises(ValueError, match=words):
        masks.irregular_mask(rng(), 32, 32, ratio=ratio, stroke_width=stroke_width)


def test_one_seed_gives_the_same_bits_everywhere():
    mask = masks.irregular_mask(rng(7), 64, 80, ratio=0.3, stroke_width=(6, 14))
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    assert digest == "c291c40ce6b163b64ac4e3d7f149c212d44cd08288949512c64a28ec21699c0c"


@pytest.mark.parametrize(
    "mask, words",
    [
        (np.full((2, 2, 1), 255, np.uint8), "255 at"),
        (np.full((2, 2, 1), 0.5), "threshold"),
        (np.zeros((2, 2)), r"\[H, W, 1\]"),
    ],
)
def test_only_zero_and_one_pass(mask, words):
    with pytest.raises(ValueError, match=words):
        masks.expect_binary("here", mask)
