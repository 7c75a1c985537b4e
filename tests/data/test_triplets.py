import numpy as np
import pytest

from jaxinpaint.data.neighbors import MissingNeighborError
from jaxinpaint.data.triplets import Pair, choose_pair, may_guide


def stack(count, *damaged):
    """A stack's answer to whether a section may guide another."""

    def usable(z):
        return z not in damaged if 0 <= z < count else None

    return usable


def test_both_adjacent_sections():
    assert choose_pair(4, stack(9)) == (3, 5, 0.5)
    assert choose_pair(1, stack(3)) == Pair(0, 2, 0.5)
    assert not choose_pair(4, stack(9)).one_sided


def test_two_damaged_sections_side_by_side():
    """The example of section 9.3: (i - 1, i + 2), alpha 1/3 and 2/3."""
    assert choose_pair(4, stack(9, 4, 5)) == (3, 6, pytest.approx(1 / 3))
    assert choose_pair(5, stack(9, 4, 5)) == (3, 6, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    "damaged, gap, want",
    [
        ((3, 2), 3, (1, 5, 3 / 4)),
        ((5, 6), 3, (3, 7, 1 / 4)),
        ((3, 2, 5), 3, (1, 6, 3 / 5)),
        ((3, 2, 1), 4, (0, 5, 4 / 5)),
    ],
)
def test_stepping_outward(damaged, gap, want):
    got = choose_pair(4, stack(9, *damaged), max_gap=gap)
    assert got == (*want[:2], pytest.approx(want[2]))


def test_nothing_is_asked_that_is_not_needed():
    asked = []

    def usable(z):
        asked.append(z)
        return z in (2, 5)

    assert choose_pair(4, usable)[:2] == (2, 5)
    assert asked == [3, 2, 5]


def test_the_ends_of_the_stack():
    words = "section 0 has no previous section; pass one_sided=True to use section 1 "
    with pytest.raises(MissingNeighborError, match=f"^{words}alone$"):
        choose_pair(0, stack(9))
    words = "section 8 has no following section; pass one_sided=True to use section 7 "
    with pytest.raises(MissingNeighborError, match=f"^{words}alone$"):
        choose_pair(8, stack(9))
    for z, only in ((0, 1), (8, 7)):
        got = choose_pair(z, stack(9), one_sided=True)
        assert got == (only, only, 0.5) and got.one_sided
    with pytest.raises(MissingNeighborError, match="section 1 has no undamaged prev"):
        choose_pair(1, stack(9, 0))


def test_a_gap_that_is_too_wide():
    usable = stack(20, 7, 8, 9, 10, 11)
    words = r"section 10 has no undamaged \(of the next 3\) previous section; pass"
    with pytest.raises(MissingNeighborError, match=f"{words}.* section 12 alone"):
        choose_pair(10, usable)
    assert choose_pair(10, usable, one_sided=True) == (12, 12, 0.5)
    assert choose_pair(10, usable, max_gap=4) == (6, 12, pytest.approx(4 / 6))
    assert choose_pair(9, usable) == (6, 12, 0.5)  # the third on either side
    with pytest.raises(MissingNeighborError, match="section 8 has .*following.* 6 al"):
        choose_pair(8, usable)
    with pytest.raises(ValueError, match="max_gap is 0"):
        choose_pair(9, usable, max_gap=0)


@pytest.mark.parametrize("one_sided", [False, True])
def test_no_guide_at_all(one_sided):
    words = r"section 0 has no previous section and no undamaged \(of the next 3\)"
    with pytest.raises(MissingNeighborError, match=words):
        choose_pair(0, stack(9, 1, 2, 3), one_sided=one_sided)
    with pytest.raises(MissingNeighborError, match="no previous .* no following"):
        choose_pair(0, stack(1), one_sided=one_sided)


def section(dtype=np.uint8):
    noise = np.random.default_rng(0).integers(90, 111, (300, 400, 1))
    return (noise * (257 if dtype == np.uint16 else 1)).astype(dtype)


def marked(*places):
    mask = np.zeros((300, 400, 1), np.uint8)
    for place in places:
        mask[place] = 1
    return mask


HOLE = marked((slice(100, 120), slice(200, 210)))


@pytest.mark.parametrize(
    "at, fits",
    [
        ((35, 205), True),  # the box grown by 64: rows 36 to 183, columns 136 to 273
        ((36, 205), False),
        ((183, 136), False),
        ((184, 136), True),
        ((110, 135), True),
        ((110, 136), False),
        ((110, 273), False),
        ((110, 274), True),
    ],
)
def test_damage_near_the_hole(at, fits):
    assert may_guide(section(), marked(at), HOLE) == fits


def test_a_hole_at_the_corner():
    hole = marked((0, 0))
    assert not may_guide(section(), marked((64, 64)), hole)
    assert may_guide(section(), marked((64, 65), (299, 399)), hole)
    assert may_guide(section(), None, hole) and may_guide(section(), marked(), hole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blank_sections_count_as_damaged(dtype):
    level = 1 if dtype == np.uint8 else 257
    blank = np.full((300, 400, 1), 90 * level, dtype)
    assert may_guide(section(dtype), None, HOLE)
    assert not may_guide(blank, None, HOLE)
    striped = blank.copy()
    striped[::2] += level  # a standard deviation of half a level
    assert not may_guide(striped, None, HOLE)
    striped[::2] += level  # of one level
    assert may_guide(striped, None, HOLE)
    torn = blank.copy()
    torn[290:, 390:] = 0  # what is damaged shows nothing
    assert not may_guide(torn, marked((slice(290, 300), slice(390, 400))), HOLE)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"hole must be \[300, 400, 1\], got \[300, 4"):
        may_guide(section(), None, HOLE[..., 0])
    with pytest.raises(ValueError, match="damage must be"):
        may_guide(section(), HOLE[:100], HOLE)
    with pytest.raises(ValueError, match="got float32"):
        may_guide(section().astype(np.float32), None, HOLE)
    with pytest.raises(ValueError, match="there is no hole"):
        may_guide(section(), None, marked())
