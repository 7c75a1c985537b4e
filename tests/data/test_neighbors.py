import math

import numpy as np
import pytest

from jaxinpaint.data.neighbors import (
    Candidate,
    MissingNeighborError,
    NeighborLeakError,
    choose_neighbor,
    psnr,
)

IMAGE = np.uint8([[10, 20], [30, 40]])[..., None]


def add(n, image=IMAGE):
    return (image + n).astype(image.dtype)


def damage(*rows):
    return np.uint8(rows)[..., None]


def choose(*candidates, mask=None, at=5, distant=False, image=IMAGE):
    given = [Candidate(*c) if len(c) == 3 else Candidate(*c, None) for c in candidates]
    return choose_neighbor(at, image, given, mask=mask, allow_distant_neighbor=distant)


def test_psnr_by_hand():
    # One of four pixels off by 10: MSE 25, 10 log10(65025 / 25) = 34.1514.
    other = IMAGE.copy()
    other[0, 0] += 10
    assert psnr(IMAGE, other) == pytest.approx(34.15140352, abs=1e-6)
    # Without that pixel nothing differs; with it alone MSE is 100: 28.1308.
    at = np.array([[True, False], [False, False]])[..., None]
    assert psnr(IMAGE, other, ~at) == math.inf
    assert psnr(IMAGE, other, at) == pytest.approx(28.13080361, abs=1e-6)
    assert math.isnan(psnr(IMAGE, other, np.zeros((2, 2, 1), bool)))


def test_psnr_of_sixteen_bits_is_that_of_eight():
    wide = IMAGE.astype(np.uint16) * 257
    assert psnr(wide, add(10 * 257, wide)) == pytest.approx(28.13080361, abs=1e-6)


def test_psnr_does_not_wrap_around():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0


def test_the_larger_psnr_wins():
    got = choose((4, add(10)), (6, add(5)))
    assert (got.position, got.distance) == (6, 1)
    assert got.psnr == pytest.approx(34.15140352, abs=1e-6)  # MSE 25
    assert choose((4, add(5)), (6, add(10))).position == 4


def test_a_tie_goes_to_the_previous_section():
    assert choose((6, add(5)), (4, add(5))).position == 4


def test_the_only_neighbor_at_an_end():
    assert choose((1, add(50)), at=0).position == 1


def test_the_hole_is_not_read():
    # The previous section is right where the image is valid, the following one is
    # right inside the hole.
    mask = damage([1, 1], [0, 0])
    previous, following = add(5), add(9)
    previous[0], following[0] = 200, IMAGE[0]
    assert choose((4, previous), (6, following), mask=mask).position == 4
    assert choose((4, previous), (6, following)).position == 6


def test_a_neighbor_damaged_in_the_hole_is_not_eligible():
    mask, near = damage([1, 0], [0, 0]), damage([1, 1], [0, 0])
    assert choose((4, add(1), near), (6, add(50)), mask=mask).position == 6
    away = damage([0, 0], [0, 1])
    assert choose((4, add(1), away), (6, add(50)), mask=mask).position == 4
    with pytest.raises(MissingNeighborError, match="section 4 is damaged inside"):
        choose((4, add(1), near), mask=mask)
    with pytest.raises(MissingNeighborError):  # without a mask, anywhere is inside
        choose((4, add(1), away))


def test_the_neighbors_own_damage_does_not_count():
    mask, hurt = damage([1, 0], [0, 0]), damage([0, 0], [0, 1])
    broken = add(1)
    broken[1, 1] = 255  # damaged there
    got = choose((4, broken, hurt), (6, add(2)), mask=mask)
    assert got.position == 4
    assert got.psnr == pytest.approx(48.13080361, abs=1e-6)  # MSE 1


def test_no_pixel_valid_in_both():
    with pytest.raises(MissingNeighborError, match="no pixel is valid"):
        choose((4, add(1)), mask=damage([1, 1], [1, 1]))


def test_no_neighbor():
    with pytest.raises(MissingNeighborError, match="no other section"):
        choose()


def test_a_distant_neighbor_has_to_be_allowed():
    with pytest.raises(MissingNeighborError, match="section 7 is 2 sections away"):
        choose((7, add(1)))
    with pytest.warns(UserWarning, match="section 7, 2 sections away"):
        assert choose((7, add(1)), distant=True).distance == 2
    assert choose((7, add(1)), (6, add(50))).position == 6


def test_a_duplicate_is_a_leak():
    with pytest.raises(NeighborLeakError, match="section 6 equals section 5"):
        choose((4, add(5)), (6, IMAGE))
    with pytest.raises(NeighborLeakError):
        choose((5, add(5)))
    # Equal in the valid pixels only: a perfect guide, not a leak.
    other = IMAGE.copy()
    other[0, 0] = 99
    got = choose((4, other), mask=damage([1, 0], [0, 0]))
    assert got.psnr == math.inf


def test_blank_resin_is_no_leak():
    blank = np.zeros((2, 2, 1), np.uint8)
    assert choose((4, blank), image=blank).psnr == math.inf


def test_sections_of_two_kinds():
    with pytest.raises(ValueError, match="neighbour uint16"):
        choose((4, IMAGE.astype(np.uint16)))
    with pytest.raises(ValueError, match=r"neighbour uint8 \[2, 1, 1\]"):
        choose((4, IMAGE[:, :1]))
