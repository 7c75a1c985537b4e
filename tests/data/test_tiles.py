import numpy as np
import pytest

from jaxinpaint.data.slides import Slide
from jaxinpaint.data.tiles import Cut, origins, tiles_of

CUT = Cut(tile=16, step=8, min_tissue=0.05, chroma=15, block=4)


def slide_of(image, label=None, **changes):
    height, width = image.shape[:2]
    label = np.zeros((height, width, 2), np.uint8) if label is None else label
    form = {
        **{"id": "a", "group": "g", "stain": "", "split": "train", "synthetic": False},
        **{"height": height, "width": width, "digest": "d", "label_digest": "l"},
        **{"factor": 1.0, "mpp": 1.0},
        "region": lambda t, left, h, w: image[t : t + h, left : left + w].copy(),
        "label": lambda: label,
    }
    return Slide(**form | changes)


def test_origins_are_those_of_the_specification():
    assert origins(2048, 1024, 512) == [0, 512, 1024]
    assert origins(2100, 1024, 512) == [0, 512, 1024, 1076]
    assert origins(1024, 1024, 512) == [0]
    assert origins(1025, 1024, 512) == [0, 1]
    assert origins(900, 1024, 512) == [0]


@pytest.mark.parametrize("tile, step", [(16, 8), (16, 16), (16, 5), (7, 1)])
def test_tiles_cover_every_pixel_and_none_beyond(tile, step):
    for side in range(1, 60):
        starts = origins(side, tile, step)
        covered = np.zeros(side + tile, int)
        for start in starts:
            covered[start : start + tile] += 1
        assert (covered[:side] > 0).all()
        assert not covered[max(side, tile) :].any()
        assert starts == sorted(set(starts))


@pytest.mark.parametrize("side, tile, step", [(0, 4, 2), (9, 4, 5), (9, 4, 0)])
def test_gaps_are_refused(side, tile, step):
    with pytest.raises(ValueError, match="leave gaps"):
        origins(side, tile, step)


def test_tiles_are_cut_out_of_image_and_label():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    label = rng.integers(0, 2, (30, 40, 2), np.uint8)
    tiles = [tile for tile, _ in tiles_of(slide_of(image, label, split="test1"), CUT)]
    assert [(t.top, t.left) for t in tiles] == [
        (top, left) for top in (0, 8, 14) for left in (0, 8, 16, 24)
    ]
    for tile in tiles:
        assert (tile.slide, tile.split) == ("a", "test1")
        place = slice(tile.top, tile.top + 16), slice(tile.left, tile.left + 16)
        np.testing.assert_array_equal(tile.image, image[place])
        np.testing.assert_array_equal(tile.label, label[place])
        assert tile.valid.shape == (16, 16, 1) and tile.valid.all()


def test_what_reaches_beyond_a_slide_is_white_and_not_valid():
    image = np.full((10, 20, 3), 100, np.uint8)
    label = np.ones((10, 20, 2), np.uint8)
    first, last = (tile for tile, _ in tiles_of(slide_of(image, label), CUT))
    assert (last.top, last.left) == (0, 4)
    for tile in (first, last):
        assert tile.valid[:10].all() and not tile.valid[10:].any()
        assert (tile.image[10:] == 255).all() and (tile.image[:10] == 100).all()
        assert not tile.label[10:].any() and tile.label[:10].all()


def test_a_tile_needs_five_percent_of_tissue():
    # 16 blocks of 4 x 4 pixels; one of them is more than 5 %.
    image = np.full((16, 16, 3), 230, np.uint8)
    image[4:8, 4:8] = [200, 185, 201]  # a difference of 16
    kept = lambda image, **c: [
        ok for _, ok in tiles_of(slide_of(image), CUT._replace(**c))
    ]
    assert kept(image) == [True]
    assert kept(image, min_tissue=0.07) == [False]
    assert kept(image, chroma=16) == [False]
    image[4:8, 4:8, 1] = 186
    assert kept(image) == [False]
    # Of a slide of 8 x 8, one block is a quarter.
    small = np.full((8, 8, 3), 230, np.uint8)
    small[:4, :4] = [200, 100, 200]
    assert kept(small, min_tissue=0.25) == [True]
    with pytest.raises(ValueError, match="min_tissue is 5.0"):
        kept(small, min_tissue=5.0)
