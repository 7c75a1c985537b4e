import hashlib
import json

import numpy as np
import pytest

from jaxinpaint.data import mask_sets

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
    rows = mask_sets.paper_mask_set(512)
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
    full = mask_sets.paper_mask_set(512)
    small = mask_sets.paper_mask_set(size)
    assert [row.label for row in small] == [row.label for row in full]
    if size % 32 == 0:
        assert [row.coverage for row in small] == [row.coverage for row in full]
    for row in small:
        assert row.coverage == row.mask.mean()
        assert 0 < row.mask.sum() < size**2


def test_paper_masks_are_those_of_the_evaluation_at_512():
    both = dict(EVALUATION, squares=(48, 256), half=True, centre=(384,))
    both["irregular_ratios"] = ()
    rows = {r.label: r.mask for r in mask_sets.paper_mask_set(512, index=1, seed=5)}
    for label, index, mask in mask_sets.evaluation_masks(both, 512, 512, 2, 5):
        if index == 1:
            np.testing.assert_array_equal(mask, rows[label])


def draw(config, size, count, *, seed=0, source=1):
    return mask_sets.training_masks(config, size, seed)(rng(source), count)


ALL = dict(BOXES) | STROKES | {"ratios": (0.1, 0.3, 0.5)}


@pytest.mark.parametrize(
    "sampler",
    ["deepfill_box", "paper_sizes", "irregular", "mixed", "exact", "rectangle"],
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


@pytest.mark.parametrize("size", [64, 45])
def test_exact_ratios_are_each_drawn_as_often(size):
    config = {"sampler": "exact", "ratios": (0.1, 0.3, 0.5)}
    holes = draw(config, size, 600).sum(axis=(1, 2, 3))
    values, counts = np.unique(holes, return_counts=True)
    assert values.tolist() == [round(r * size**2) for r in (0.1, 0.3, 0.5)]
    assert abs(counts - 200).max() < 6 * np.sqrt(600 * 2 / 9)
    one = draw(dict(config, ratios=(0.25,)), size, 20)
    assert set(one.sum(axis=(1, 2, 3))) == {round(size**2 / 4)}
    assert len(np.unique(np.packbits(one.reshape(20, -1), axis=1), axis=0)) == 20


def test_rectangles_are_each_drawn_as_often():
    config = {"sampler": "rectangle", "ratios": (0.3, 0.5)}
    rows = draw(config, 64, 600)[..., 0].any(axis=2).sum(axis=1)
    # 26 to 38 rows at 30 %, 42 to 48 at 50 %, all made even.
    assert set(rows) == {26, 28, 30, 32, 34, 36, 38, 42, 44, 46, 48}
    assert abs((rows > 40).sum() - 300) < 6 * np.sqrt(600 / 4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sampler": "exact", "ratios": ()}, "ratios is empty"),
        ({"sampler": "exact", "ratios": (0.3, 1.0)}, "one valid pixel"),
        ({"sampler": "rectangle", "ratios": (0.3, 0.2)}, "ratio is 0.2"),
        ({"sampler": "box"}, "deepfill_box"),
        ({"sampler": "deepfill_box", "box": 32}, "below size"),
        ({"sampler": "deepfill_box", "max_delta": 16}, "above max_delta"),
        ({"sampler": "irregular", "ratio_range": (0.5, 0.1)}, "lowest <= highest"),
        ({"sampler": "irregular", "ratio_range": (0.0, 0.1)}, "0 < lowest"),
    ],
)
def test_training_masks_refuse(change, words):
    with pytest.raises(ValueError, match=words):
        mask_sets.training_masks(dict(ALL) | change, 32, 0)


def test_evaluation_labels_order_and_polarity():
    got = list(mask_sets.evaluation_masks(EVALUATION, 40, 60, 2, 0))
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
        rows = mask_sets.evaluation_masks(mask_set, 40, 60, count, 9)
        return {(label, i): mask for label, i, mask in rows}

    few = table(dict(EVALUATION, squares=(20,), irregular_ratios=(0.3,)), 2)
    many = table(dict(EVALUATION, squares=(4, 20, 8)), 5)
    assert few.keys() < many.keys()
    for key, mask in few.items():
        np.testing.assert_array_equal(mask, many[key])
    assert (many["20x20", 0] != many["20x20", 1]).any()
    assert (many["30%", 0] != many["30%", 1]).any()


def test_flow_masks_are_offered_beside_the_others():
    more = dict(EVALUATION, irregular_ratios=())
    more |= {"exact_ratios": (0.1, 0.3, 0.5), "rectangle_ratios": (0.3,)}
    got = list(mask_sets.evaluation_masks(more, 40, 60, 2, 9))
    labels = list(dict.fromkeys(label for label, _, _ in got))
    assert labels == ["8x8", "20x20", "30x40", "30x30"] + [
        *("10%", "30%", "50%", "rectangle 30%")
    ]
    holes = {label: int(mask.sum()) for label, _, mask in got}
    assert [holes[label] for label in ("10%", "30%", "50%")] == [240, 720, 1200]
    rows = {(label, i): mask for label, i, mask in got}
    assert (rows["30%", 0] != rows["30%", 1]).any()
    fewer = dict(more, exact_ratios=(0.3,), squares=())
    for label, index, mask in mask_sets.evaluation_masks(fewer, 40, 60, 1, 9):
        np.testing.assert_array_equal(mask, rows[label, index])
    twice = dict(more, irregular_ratios=(0.3,))  # both are called 30%
    with pytest.raises(ValueError, match="once"):
        next(mask_sets.evaluation_masks(twice, 40, 60, 1, 9))


def test_a_key_that_nothing_reads_is_refused():
    wrong = dict(EVALUATION, exact_ratio=(0.3,))
    with pytest.raises(ValueError, match=r"nothing reads \['exact_ratio'\]"):
        next(mask_sets.evaluation_masks(wrong, 40, 60, 1, 0))


def test_one_label_twice_is_refused():
    twice = dict(EVALUATION, centre=(20,))
    with pytest.raises(ValueError, match="once"):
        next(mask_sets.evaluation_masks(twice, 40, 60, 1, 0))


def test_manifest_names_every_mask_and_the_set():
    entries = [("a", 0, np.uint8([[[1], [0], [1]], [[0], [0], [1]]]))]
    got = mask_sets.manifest(entries, seed=11)
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
        "generator": "jaxinpaint.data.mask_sets",
        "version": 1,
        "seed": 11,
        "masks": [row],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    assert json.loads(json.dumps(got)) == got
    other = mask_sets.manifest([("a", 0, 1 - entries[0][2])], seed=11)
    assert other["sha256"] != got["sha256"]


def test_a_manifest_describes_masks_of_zero_and_one_alone():
    inverted = np.full((2, 2, 1), 255, np.uint8)
    with pytest.raises(ValueError, match="manifest: a 3: mask must hold.*255 at"):
        mask_sets.manifest([("a", 3, inverted)], seed=0)
