"""Tiles paint every pixel of a hole, see around it, and leave all else as it is."""

import numpy as np
import pytest

from jaxinpaint.inference.tiles import MOST_HOLE, cover, cut, restore_pictures

SIDE, OVERLAP = 40, 8


def strokes(height, width, seed, count=6):
    rng = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    for _ in range(count):
        y, x = rng.integers(0, [height, width])
        h, w = rng.integers(1, [height // 2, width // 2])
        hole[y : y + (h if rng.random() < 0.5 else 3), x : x + w] = True
    return hole


def squares(height, width, *boxes):
    hole = np.zeros((height, width), bool)
    for top, left, rows, columns in boxes:
        hole[top : top + rows, left : left + columns] = True
    return hole


@pytest.mark.parametrize("seed", range(12))
def test_every_pixel_of_the_hole_and_no_other(seed):
    hole = strokes(150, 211, seed)
    painted = np.zeros(hole.shape)
    for tile in cover(hole, SIDE, OVERLAP, blind=False):
        part = hole[tile.rows, tile.columns]
        assert part.shape == tile.weight.shape  # inside the picture
        assert min(part.shape) >= SIDE
        assert part.mean() <= MOST_HOLE or part.size == hole.size
        assert (tile.weight >= 0).all() and tile.weight.any()
        painted[tile.rows, tile.columns] += tile.weight
    np.testing.assert_array_equal(painted > 0, hole)


def test_small_pictures_are_one_tile_and_empty_holes_none():
    hole = squares(30, 40, (5, 5, 20, 30))
    (tile,) = cover(hole, SIDE, OVERLAP, blind=False)
    assert (tile.rows, tile.columns) == (slice(0, 30), slice(0, 40))
    np.testing.assert_array_equal(tile.weight, hole)
    assert cover(np.zeros((30, 40), bool), SIDE, OVERLAP, blind=False) == []


def test_a_hole_that_fits_lies_in_the_middle_of_its_tile():
    (tile,) = cover(squares(200, 200, (100, 90, 20, 24)), SIDE, OVERLAP, blind=False)
    # Its middle is (110, 102).
    assert (tile.rows, tile.columns) == (slice(90, 130), slice(82, 122))


def test_near_holes_share_a_tile_and_far_ones_do_not():
    near = squares(200, 200, (100, 100, 4, 4), (110, 112, 4, 4))
    assert len(cover(near, SIDE, OVERLAP, blind=False)) == 1
    far = squares(200, 200, (100, 100, 4, 4), (100, 150, 4, 4))
    assert len(cover(far, SIDE, OVERLAP, blind=False)) == 2


def test_a_hole_at_the_border_moves_its_tile_inside():
    (tile,) = cover(squares(200, 200, (0, 190, 10, 10)), SIDE, OVERLAP, blind=False)
    assert (tile.rows, tile.columns) == (slice(0, 40), slice(160, 200))


def test_narrow_pictures_are_covered_over_their_whole_width():
    hole = squares(30, 300, (2, 100, 26, 10))
    (tile,) = cover(hole, SIDE, OVERLAP, blind=False)
    assert (tile.rows, tile.columns) == (slice(0, 30), slice(85, 125))


def test_tiles_grow_until_they_see_something():
    hole = squares(400, 400, (100, 100, 150, 150))
    tiles = cover(hole, SIDE, OVERLAP, blind=False)
    assert {tile.weight.shape for tile in tiles} > {(40, 40)}
    shares = [hole[tile.rows, tile.columns].mean() for tile in tiles]
    assert max(shares) <= MOST_HOLE
    everything = np.ones((400, 400), bool)
    blind = cover(everything, SIDE, OVERLAP, blind=True)
    assert {tile.weight.shape for tile in blind} == {(40, 40)}
    # 12 tiles of 40 that overlap by 8 reach 392 pixels; 13 are needed on each axis.
    assert len(blind) == 13 * 13


def test_tiles_overlap_as_asked():
    line = squares(60, 500, (28, 10, 4, 480))
    starts = sorted(t.columns.start for t in cover(line, 40, 12, blind=False))
    assert starts[0] == 0 and starts[-1] == 460
    assert max(np.diff(starts)) <= 28


@pytest.mark.parametrize("overlap", [-1, 14])
def test_an_overlap_that_does_not_fit(overlap):
    with pytest.raises(ValueError, match="overlap by 0 to 13"):
        cover(np.ones((50, 50), bool), 40, overlap, blind=False)


class Painter:
    """Paints each tile with a level of its own, all over it."""

    def __init__(self, *levels):
        self.levels, self.batches = list(levels), []

    def __call__(self, batch):
        self.batches.append({k: v.copy() for k, v in batch.items()})
        image = batch["image"].copy()
        for row in image:
            row[...] = self.levels.pop(0) if self.levels else 255
        return {"completed": image}


def picture(hole, dtype="uint8", channels=1):
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max + 1
    image = rng.integers(0, top, (*hole.shape, channels)).astype(dtype)
    return {"image": image, "mask": hole[..., None].astype(np.uint8)}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_valid_pixels_stay_bit_for_bit(dtype):
    hole = strokes(150, 211, 3)
    given = picture(hole, dtype, 3)
    before = given["image"].copy()
    tiles = cover(hole, SIDE, OVERLAP, blind=False)
    (made,) = restore_pictures(Painter(), [given], [tiles], 1)
    assert made.dtype == before.dtype
    np.testing.assert_array_equal(made[~hole], before[~hole])
    np.testing.assert_array_equal(given["image"], before)
    assert (made[hole] == 255).all()


def test_where_tiles_meet_they_are_blended():
    """By hand: two tiles of 9 columns that share 3."""
    hole = squares(9, 15, (4, 0, 1, 15))
    tiles = cover(hole, 9, 3, blind=False)
    assert [t.columns for t in tiles] == [slice(0, 9), slice(6, 15)]
    (made,) = restore_pictures(Painter(100, 200), [picture(hole)], [tiles], 1)
    # Weights fall to the edges as ..., 4, 3, 2, 1 and 1, 2, 3, 4, ...; columns 6, 7 and
    # 8 have 3 and 1, 2 and 2, 1 and 3.
    want = [100] * 6 + [125, 150, 175] + [200] * 6
    np.testing.assert_array_equal(made[4, :, 0], want)


def test_tiles_of_one_size_share_batches_across_pictures():
    one = squares(200, 200, (100, 100, 4, 4), (20, 20, 4, 4))
    two = squares(200, 90, (50, 40, 4, 4))
    small = squares(24, 24, (9, 9, 4, 4))
    holes = [one, two, small]
    pictures = [picture(hole) for hole in holes]
    tiles = [cover(hole, SIDE, OVERLAP, blind=False) for hole in holes]
    painter = Painter(10, 20, 30, 30, 40, 40)  # filled up with the last one
    made = restore_pictures(painter, pictures, tiles, 2)
    shapes = [batch["image"].shape for batch in painter.batches]
    assert shapes == [(2, 40, 40, 1), (2, 40, 40, 1), (2, 24, 24, 1)]
    assert set(made[0][one][:, 0].tolist()) == {10, 20}
    assert set(made[1][two][:, 0].tolist()) == {30}
    assert set(made[2][small][:, 0].tolist()) == {40}
    for hole, given, found in zip(holes, pictures, made, strict=True):
        np.testing.assert_array_equal(found[~hole], given["image"][~hole])


def test_what_belongs_to_a_picture_is_cut_with_it():
    hole = squares(200, 200, (100, 90, 20, 24))
    given = picture(hole)
    given["neighbor"] = np.arange(200 * 200, dtype=np.uint16).reshape(200, 200, 1)
    (tile,) = cover(hole, SIDE, OVERLAP, blind=False)
    part = cut(given, tile)
    assert part["neighbor"].shape == (1, 40, 40, 1)
    assert part["neighbor"][0, 0, 0, 0] == 90 * 200 + 82
    assert part["mask"].sum() == 20 * 24
