"""Table 2 by hand: the specification's disc, and a slow SSIM of three regions."""

import math

import numpy as np
import pytest

from jaxinpaint.evaluation import painted
from jaxinpaint.evaluation.scoring import Filled, score, tidy

SIDE, TOP = 64, 255


@pytest.fixture(scope="module")
def rows(request):
    """Images equal outside a disc of radius 20, differing by a fifth inside."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    mask = np.uint8(y**2 + x**2 <= 400)[None, ..., None]
    assert mask.sum() == 1264  # specification 10.2
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 200, (1, SIDE, SIDE, 3)).astype(np.uint8)
    made = truth + mask * np.uint8(51)
    filled = Filled(truth, mask, {"glomeruli": made})
    scored = score([filled], 1, painted.with_local(lambda dtype, shape: {}))
    found = tidy("glomeruli", "phantom", "crops", scored["glomeruli"])
    return truth, made, mask, found


def test_pixels_by_hand(rows):
    *_, found = rows
    table = painted.table_2(found, "glomeruli", "uint8")
    share = 1264 / SIDE**2
    inside, local, full = (table["measured"][n] for n in ("region", "local", "full"))
    assert inside["mae"] == pytest.approx(0.2, rel=1e-5)
    assert inside["psnr"] == pytest.approx(-20 * math.log10(0.2), rel=1e-5)
    # Outside both are equal, white or not: the mean is over the whole frame.
    for values in (local, full):
        assert values["mae"] == pytest.approx(0.2 * share, rel=1e-5)
        psnr = -10 * math.log10(0.04 * share)
        assert values["psnr"] == pytest.approx(psnr, rel=1e-5)
    assert table["paper"] == {"mae": 0.0152, "psnr": 22.6943, "ssim": 0.8086}
    assert table["n"] == 1 and set(table["infinite"].values()) == {0}


def slow_ssim(a, b, counts):
    """Windows of 11 x 11, one by one."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    total, n = 0.0, 0
    for y in range(5, SIDE - 5):
        for x in range(5, SIDE - 5):
            if counts[y, x]:
                box = np.s_[y - 5 : y + 6, x - 5 : x + 6]
                p, q = a[box], b[box]
                mp, mq = np.sum(weights * p), np.sum(weights * q)
                vp = np.sum(weights * p * p) - mp**2
                vq = np.sum(weights * q * q) - mq**2
                c = np.sum(weights * p * q) - mp * mq
                up = (2 * mp * mq + 1e-4) * (2 * c + 9e-4)
                total += up / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                n += 1
    return total / n


def test_structure_by_loops(rows):
    truth, made, mask, found = rows
    table = painted.table_2(found, "glomeruli", "uint8")["measured"]
    a, b, hole = truth[0] / TOP, made[0] / TOP, mask[0] > 0
    everywhere = np.ones((SIDE, SIDE), bool)
    white = [np.where(hole, x, 1.0) for x in (a, b)]
    for name, pair, counts in (
        ("region", (a, b), hole[..., 0]),
        ("local", white, everywhere),
        ("full", (a, b), everywhere),
    ):
        channels = [
            slow_ssim(pair[0][..., c], pair[1][..., c], counts) for c in (0, 1, 2)
        ]
        assert table[name]["ssim"] == pytest.approx(np.mean(channels), abs=2e-5), name


def test_equal_images_are_counted_apart():
    image = np.zeros((1, 16, 16, 3), np.uint8)
    mask = np.zeros((1, 16, 16, 1), np.uint8)
    mask[:, 6:10, 6:10] = 1
    filled = Filled(image, mask, {"glomeruli": image})
    scored = score([filled], 1, painted.with_local(lambda dtype, shape: {}))
    found = tidy("glomeruli", "phantom", "crops", scored["glomeruli"])
    table = painted.table_2(found, "glomeruli", "uint8")
    assert table["measured"]["local"]["psnr"] is None
    assert table["infinite"] == {"region": 1, "local": 1, "full": 1}
    aside = painted.aside(table)
    assert aside.lines[1][2] == "n/a"
