import itertools
import math

import numpy as np
import pytest

from jaxinpaint.data import positions
from jaxinpaint.data.positions import Placed, Rules, Site

RULES = Rules(size=32, gap=2, min_tissue=0.9)
MIDDLE = 15.5


def disc(side, radius, cy, cx):
    y, x = np.mgrid[:side, :side]
    return (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def contour(radius):
    return disc(32, radius, MIDDLE, MIDDLE).astype(np.uint8)


def site(occupied=None, tissue=None, rules=RULES, side=160):
    occupied = np.zeros((side, side), bool) if occupied is None else occupied
    blocks = -(-np.array(occupied.shape) // 8)
    tissue = np.ones(blocks, bool) if tissue is None else tissue
    return Site("roi", occupied, tissue, 8, rules)


def random_slide(seed, side=160):
    """Some glomeruli, and tissue with a rim that is none."""
    rng = np.random.default_rng(seed)
    occupied = np.zeros((side, side), bool)
    for _ in range(4):
        occupied |= disc(side, rng.uniform(5, 12), *rng.integers(0, side, 2))
    tissue = np.ones((side // 8, side // 8), bool)
    tissue[: rng.integers(0, 3)] = False
    return occupied, tissue


@pytest.mark.parametrize("seed", range(50))
def test_nothing_that_is_placed_breaks_a_rule(seed):
    occupied, tissue = random_slide(seed)
    rng = np.random.default_rng(seed)
    radii = rng.uniform(4, 12, 4).tolist()
    masks = [contour(r) for r in radii]
    place = site(occupied, tissue)
    found = positions.place_automatically(place, masks, radii, step=4, rng=rng)
    assert found
    pixels = np.argwhere(occupied)
    for number, top, left in found:
        assert 0 <= top <= 128 and 0 <= left <= 128
        window = (slice(top, top + 32), slice(left, left + 32))
        assert not (occupied[window] & (masks[number] > 0)).any()
        away = np.hypot(*(pixels - [top + MIDDLE, left + MIDDLE]).T).min()
        assert away >= radii[number] + 2
        shown = np.kron(tissue, np.ones((8, 8)))[window]
        assert shown.mean() >= 0.9
    for one, two in itertools.combinations(found, 2):
        assert max(abs(one.top - two.top), abs(one.left - two.left)) >= 32
    np.testing.assert_array_equal(occupied, random_slide(seed)[0])  # not changed


def test_a_slide_with_room_gets_all_and_one_without_gets_none():
    masks, radii = [contour(9)] * 4, [9.0] * 4
    rng = np.random.default_rng(0)
    found = positions.place_automatically(site(), masks, radii, step=16, rng=rng)
    assert [one.number for one in found] == [0, 1, 2, 3]
    full = site(np.ones((160, 160), bool))
    assert not positions.place_automatically(full, masks, radii, step=16, rng=rng)
    bare = site(tissue=np.zeros((20, 20), bool))
    assert not positions.place_automatically(bare, masks, radii, step=16, rng=rng)


def test_a_contour_without_room_is_passed_over():
    """Pixels in a lattice of 28: a circle of 10 fits between them, one of 20 does not."""
    occupied = np.zeros((160, 160), bool)
    occupied[2::28, 2::28] = True
    masks, radii = [contour(14), contour(10)], [25.0, 10.0]
    rng = np.random.default_rng(0)
    found = positions.place_automatically(site(occupied), masks, radii, step=1, rng=rng)
    assert [one.number for one in found] == [1]


def test_the_order_of_the_grid_is_drawn():
    def first(seed):
        rng = np.random.default_rng(seed)
        return positions.place_automatically(
            site(), [contour(9)], [9.0], step=8, rng=rng
        )[0]

    assert first(1) == first(1)
    assert len({first(seed) for seed in range(9)}) > 4
    assert all(one.top % 8 == one.left % 8 == 0 for one in map(first, range(9)))


def fault(place, y, x, radius=9.0):
    return place.fault(positions.origin(y, 32), positions.origin(x, 32), radius)


@pytest.mark.parametrize("away, free", [(10.5, False), (11.5, True)])
def test_the_gap_is_kept_and_not_more(away, free):
    occupied = np.zeros((160, 160), bool)
    occupied[80, 80] = True
    told = fault(site(occupied), 80.5, 80 + away)  # half a row, `away` columns
    if free:
        assert told is None
    else:
        assert told.rule == "the distance to the next glomerulus"
        assert told.measured == pytest.approx(math.hypot(0.5, 10.5))
        assert told.required == 11


def test_what_is_placed_keeps_others_away():
    place = site()
    place.take(48, 48, contour(9))
    assert fault(place, 63.5, 63.5 + 31) == ("the distance to the next window", 31, 32)
    assert fault(place, 63.5, 63.5 + 32) is None
    # Its own pixels too: column 72, half a row above the other's middle, 95.5.
    told = fault(place, 63.5, 63.5 + 32, radius=22)
    assert told.measured == pytest.approx(math.hypot(0.5, 95.5 - 72))
    assert told.required == 24


@pytest.mark.parametrize(
    "y, x, measured", [(14, 60, -1), (60, 12, -3), (145, 60, -2), (60, 148.2, -5)]
)
def test_windows_stay_inside(y, x, measured):
    told = fault(site(), y, x)
    assert told == ("the window's distance from the slide's edge", measured, 0)


def test_the_share_of_tissue_is_measured():
    tissue = np.ones((20, 20), bool)
    tissue[:, :2] = False  # 16 columns
    place = site(tissue=tissue)
    assert fault(place, 60, 12 + MIDDLE) == ("the window's share of tissue", 0.875, 0.9)
    assert fault(place, 60, 13 + MIDDLE) is None  # 29 of 32 columns


def test_places_of_a_person():
    masks, radii = [contour(9)] * 3, [9.0] * 3
    centres = [(40.0, 50.0), (40.5, 69.5), (100.0, 120.0)]
    with pytest.raises(
        ValueError, match="roi: position 1, x 69.5, y 40.5: .* window is"
    ):
        positions.place_given(site(), centres, masks, radii, on_bad="error")
    place = site()
    found, told = positions.place_given(place, centres, masks, radii, on_bad="skip")
    assert found == [Placed(0, 25, 35), Placed(2, 85, 105)]
    assert len(told) == 1 and "is 19, 32 is required" in told[0]
    assert place.windows == [(25, 35), (85, 105)]
    with pytest.raises(ValueError, match="on_bad is 'ignore'"):
        positions.place_given(site(), [], [], [], on_bad="ignore")


@pytest.mark.parametrize(
    "centre, first", [(127.5, 0), (127, 0), (128, 1), (127.4, 0), (130, 3)]
)
def test_the_origin_of_a_window_of_256(centre, first):
    assert positions.origin(centre, 256) == first


def test_contour_numbers_are_those_of_the_specification_in_the_first_round():
    got = [positions.contour_number(7, 2, k, 0, 1000) for k in range(4)]
    want = [int(np.random.default_rng([7, 2, k]).integers(1000)) for k in range(4)]
    assert got == want
    assert got != [positions.contour_number(7, 2, k, 1, 1000) for k in range(4)]


def test_a_file_of_positions(tmp_path):
    path = tmp_path / "positions.csv"
    path.write_text("\ufeffid, x, y,note\nb,10,20.5,first\na,1,2,\nb,30,4,\n", "utf-8")
    assert positions.read_positions(path) == {
        "b": [(20.5, 10.0), (4.0, 30.0)],
        "a": [(2.0, 1.0)],
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,x\na,1\n", "no column y"),
        ("", "no column id, x, y"),
        ("id,x,y\n", "no position"),
        ("id,x,y\na,1,2\nb,1,nan\n", "line 3"),
        ("id,x,y\na,1\n", "line 2"),
        ("id,x,y\n,1,2\n", "line 2"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, message):
    path = tmp_path / "positions.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        positions.read_positions(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rules": RULES._replace(gap=0)}, "gap is 0"),
        ({"rules": RULES._replace(min_tissue=1.5)}, "min_tissue 1.5"),
        ({"side": 31}, "roi: is 31 x 31 pixels .* windows of 32"),
    ],
)
def test_sites_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        site(**change)
    with pytest.raises(ValueError, match="grid_step is 0"):
        positions.place_automatically(site(), [], [], step=0, rng=None)
