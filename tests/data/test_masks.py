import hashlib
import json

import numpy as np
import pytest

from jaxinpaint.data import masks

BOXES = {"sampler": "deepfill_box", "box": 16, "max_delta": 4}
STROKES = {"sampler": "irregular", "ratio_range": (0.1, 0.5), "stroke_width": (4, 9)}
EVALUATION = {
    "squares": (8, 20),
    "half": True,
    "centre": (30,),
    "irregular_ratios": (0.1, 0.3),
    "stroke_width": (4, 9),
}


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


def test_table_of_the_paper_at_512():
    table = {  # side, side, all worked by hand from 262144 pixels
        "32x32": (1024, 0.00390625),
        "48x48": (2304, 0.0087890625),
        "64x64": (4096, 0.015625),
        "96x96": (9216, 0.03515625),
        "128x128": (16384, 0.0625),
        "256x256": (65536, 0.25),
        "256x512": (131072, 0.5),
        "384x384": (147456, 0.5625),
        "448x448": (200704, 0.765625),
    }
    rows = masks.paper_mask_set(512)
    assert [row.label for row in rows] == list(table)
    for label, coverage, mask in rows:
        assert (int(mask.sum()), coverage) == table[label]
        assert mask.shape == (512, 512, 1) and mask.dtype == np.uint8
    named = {row.label: row.mask[..., 0] for row in rows}
    assert named["256x512"][:, :256].all() and not named["256x512"][:, 256:].any()
    assert named["384x384"][64:448, 64:448].all()
    assert named["448x448"][32:480, 32:480].all()


@pytest.mark.parametrize("size", [256, 64, 16])
def test_paper_masks_scale_without_changing_their_coverage(size):
    full = masks.paper_mask_set(512)
    small = masks.paper_mask_set(size)
    assert [row.label for row in small] == [row.label for row in full]
    if size % 32 == 0:
        assert [row.coverage for row in small] == [row.coverage for row in full]
    for row in small:
        assert row.coverage == row.mask.mean()
        assert 0 < row.mask.sum() < size**2


def test_paper_masks_are_those_of_the_evaluation_at_512():
    both = dict(EVALUATION, squares=(48, 256), half=True, centre=(384,))
    both["irregular_ratios"] = ()
    rows = {r.label: r.mask for r in masks.paper_mask_set(512, index=1, seed=5)}
    for label, index, mask in masks.evaluation_masks(both, 512, 512, 2, 5):
        if index == 1:
            np.testing.assert_array_equal(mask, rows[label])


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


def draw(config, size, count, *, seed=0, source=1):
    return masks.training_masks(config, size, seed)(rng(source), count)


ALL = dict(BOXES) | STROKES


@pytest.mark.parametrize(
    "sampler", ["deepfill_box", "paper_sizes", "irregular", "mixed"]
)
def test_training_masks_hold_the_contract(sampler):
    config = dict(ALL, sampler=sampler)
    drawn = draw(config, 32, 200)
    assert drawn.shape == (200, 32, 32, 1) and drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, 1}
    holes = drawn.sum(axis=(1, 2, 3))
    assert holes.min() >= 1 and holes.max() <= 32 * 32 - 1
    np.testing.assert_array_equal(drawn, draw(config, 32, 200))
    assert (drawn != draw(config, 32, 200, source=2)).any()


def test_deepfill_boxes_follow_the_formula():
    drawn = draw(BOXES, 32, 3000)[..., 0]
    tops, sides = [], []
    for mask in drawn:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)  # one full rectangle
        tops.append((rows[0], columns[0]))
        sides.append((len(rows), len(columns)))
    sides, tops = np.array(sides), np.array(tops)
    # Box 16, delta 4: a and b in 0..2 take 0, 2 or 4 from the side; t in 0..16.
    for axis in (0, 1):
        values, counts = np.unique(sides[:, axis], return_counts=True)
        assert values.tolist() == [12, 14, 16]
        assert abs(counts - 1000).max() < 6 * np.sqrt(3000 * 2 / 9)
        corner = tops[:, axis] - (16 - sides[:, axis]) // 2
        assert corner.min() == 0 and corner.max() == 16
        counts = np.bincount(corner)
        assert abs(counts - 3000 / 17).max() < 6 * np.sqrt(3000 * 16 / 17**2)


def test_paper_sizes_are_the_eight_scaled():
    drawn = draw({"sampler": "paper_sizes"}, 64, 800)
    sides, counts = np.unique(np.sqrt(drawn.sum(axis=(1, 2, 3))), return_counts=True)
    assert sides.tolist() == [4, 6, 8, 12, 16, 32, 48, 56]  # paper's over 8
    assert abs(counts - 100).max() < 6 * np.sqrt(800 * 7 / 64)


def test_irregular_ratios_are_uniform_in_their_range():
    ratios = draw(STROKES, 64, 2000).mean(axis=(1, 2, 3))
    assert ratios.min() >= 0.1 - 1 / 8192 and ratios.max() <= 0.5 + 1 / 8192
    # Largest gap to the uniform distribution; 1.95 / sqrt(n) has probability 1e-3.
    gap = abs(np.sort(ratios) - np.linspace(0.1, 0.5, 2000)).max() / 0.4
    assert gap < 1.95 / np.sqrt(2000)


def test_irregular_draws_seldom_repeat():
    drawn = np.packbits(draw(STROKES, 64, 500).reshape(500, -1), axis=1)
    assert len(np.unique(drawn, axis=0)) > 490
    other = draw(STROKES, 64, 500, seed=1)  # other canvases
    assert len(np.unique(np.packbits(other.reshape(500, -1), axis=1), axis=0)) > 490
    assert (np.packbits(other.reshape(500, -1), axis=1) != drawn).any(axis=1).all()


def test_a_fixed_ratio_is_met_closely():
    ratios = draw(dict(STROKES, ratio_range=(0.25, 0.25)), 64, 50).mean(axis=(1, 2, 3))
    assert abs(ratios - 0.25).max() <= 1 / 4096


def test_mixed_takes_a_third_of_each():
    drawn = draw(dict(ALL, sampler="mixed"), 32, 900)[..., 0]
    strokes = squares = 0
    for mask in drawn:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        if mask.sum() != rows * columns:
            strokes += 1
        elif rows == columns and rows not in (12, 14, 16):
            squares += 1
    spread = 6 * np.sqrt(900 * 2 / 9)
    assert abs(strokes - 300) < spread
    assert abs(squares - 300 * 20 / 23) < spread  # sides 2..24, of which 3 are boxes'


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sampler": "box"}, "deepfill_box"),
        ({"sampler": "deepfill_box", "box": 32}, "below size"),
        ({"sampler": "deepfill_box", "max_delta": 16}, "above max_delta"),
        ({"sampler": "irregular", "ratio_range": (0.5, 0.1)}, "lowest <= highest"),
        ({"sampler": "irregular", "ratio_range": (0.0, 0.1)}, "0 < lowest"),
    ],
)
def test_training_masks_refuse(change, words):
    with pytest.raises(ValueError, match=words):
        masks.training_masks(dict(ALL) | change, 32, 0)


def test_evaluation_labels_order_and_polarity():
    got = list(masks.evaluation_masks(EVALUATION, 40, 60, 2, 0))
    assert [(label, i) for label, i, _ in got] == [
        (label, i)
        for label in ("8x8", "20x20", "30x40", "30x30", "10%", "30%")
        for i in (0, 1)
    ]
    holes = {label: int(mask.sum()) for label, _, mask in got}
    assert holes == {
        "8x8": 64,
        "20x20": 400,
        "30x40": 1200,
        "30x30": 900,
        "10%": 240,
        "30%": 720,
    }
    half = next(mask for label, _, mask in got if label == "30x40")
    assert half[:, :30].all() and not half[:, 30:].any()  # 1 is the hole


def test_adding_labels_or_images_changes_no_other_mask():
    def table(mask_set, count):
        rows = masks.evaluation_masks(mask_set, 40, 60, count, 9)
        return {(label, i): mask for label, i, mask in rows}

    few = table(dict(EVALUATION, squares=(20,), irregular_ratios=(0.3,)), 2)
    many = table(dict(EVALUATION, squares=(4, 20, 8)), 5)
    assert few.keys() < many.keys()
    for key, mask in few.items():
        np.testing.assert_array_equal(mask, many[key])
    assert (many["20x20", 0] != many["20x20", 1]).any()
    assert (many["30%", 0] != many["30%", 1]).any()


def test_one_label_twice_is_refused():
    twice = dict(EVALUATION, centre=(20,))
    with pytest.raises(ValueError, match="once"):
        next(masks.evaluation_masks(twice, 40, 60, 1, 0))


def test_manifest_names_every_mask_and_the_set():
    entries = [("a", 0, np.uint8([[[1], [0], [1]], [[0], [0], [1]]]))]
    got = masks.manifest(entries, seed=11)
    # 101 001 row by row is 10100100 = 0xa4.
    bits = hashlib.sha256(bytes([0xA4])).hexdigest()
    row = {
        "label": "a",
        "index": 0,
        "height": 2,
        "width": 3,
        "hole_pixels": 3,
        "ratio": 0.5,
        "sha256": bits,
    }
    text = (
        '[{"height":2,"hole_pixels":3,"index":0,"label":"a","ratio":0.5,'
        f'"sha256":"{bits}","width":3}}]'
    )
    assert got == {
        "generator": "jaxinpaint.data.masks",
        "version": 1,
        "seed": 11,
        "masks": [row],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    assert json.loads(json.dumps(got)) == got
    other = masks.manifest([("a", 0, 1 - entries[0][2])], seed=11)
    assert other["sha256"] != got["sha256"]


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
    with pytest.raises(ValueError, match=words):
        masks.manifest([("a", 0, mask)], seed=0)
