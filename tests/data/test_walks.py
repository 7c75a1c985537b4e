import math

import numpy as np
import pytest

from jaxinpaint.data.walks import walk_mask

RNON = {"widths": (6, 28), "start": "anywhere"}
IPA = {"widths": (8, 24), "start": "centre"}


def distance(i, j, p, q):
    """Of a pixel's centre from a segment, by the three cases of school geometry."""
    a = (q[0] - p[0], q[1] - p[1])
    b = (i - p[0], j - p[1])
    c = (i - q[0], j - q[1])
    if a[0] * b[0] + a[1] * b[1] <= 0:
        return math.hypot(*b)
    if a[0] * c[0] + a[1] * c[1] >= 0:
        return math.hypot(*c)
    return abs(a[0] * b[1] - a[1] * b[0]) / math.hypot(*a)


def printed(rng, H, W, lo, hi, w_range, central):
    """The rule as both specifications print it, pixel by pixel."""
    s = H / 256
    for _ in range(20):
        r = rng.uniform(lo, hi)
        m, left, ends = [[False] * W for _ in range(H)], 0, []
        for _ in range(400):
            if left == 0:
                left = rng.integers(4, 13)
                w = s * rng.uniform(w_range[0], w_range[1])
                th = rng.uniform(0, 2 * np.pi)
                if central and ends:
                    p = ends[rng.integers(0, len(ends))]
                elif central:
                    row = rng.uniform(H / 4, 3 * H / 4)
                    p = (row, rng.uniform(W / 4, 3 * W / 4))
                else:
                    row = rng.uniform(0, H)
                    p = (row, rng.uniform(0, W))
            th = th + rng.normal(0, np.pi / 4)
            step = np.clip(rng.normal(45.25, 22.6), 4, 90.5) * s
            q = (
                float(np.clip(p[0] + step * math.sin(th), 0, H - 1)),
                float(np.clip(p[1] + step * math.cos(th), 0, W - 1)),
            )
            n = [
                [m[i][j] or distance(i, j, p, q) <= w / 2 for j in range(W)]
                for i in range(H)
            ]
            if sum(map(sum, n)) / (H * W) >= hi:
                left = 0
                continue
            m, p, left = n, q, left - 1
            ends.append(q)
            if sum(map(sum, m)) / (H * W) >= r:
                break
        if lo < sum(map(sum, m)) / (H * W) < hi:
            return np.array(m, np.uint8)[..., None]
    raise AssertionError("20 tries")


@pytest.mark.parametrize(
    "form, low, high, height, width",
    [
        (RNON, 0.25, 0.4, 32, 40),
        (RNON, 0.5, 0.6, 32, 24),
        (RNON, 0.01, 0.25, 48, 48),
        (IPA, 0.0136, 0.0546, 64, 48),
        (IPA, 0.2, 0.22, 32, 32),  # tight: segments are left out, strokes begin again
    ],
)
def test_the_printed_rule_bit_for_bit(form, low, high, height, width):
    for seed in range(2):
        want = printed(
            np.random.default_rng(seed),
            *(height, width, low, high, form["widths"], form["start"] == "centre"),
        )
        rng = np.random.default_rng(seed)
        got = walk_mask(rng, height, width, low=low, high=high, **form)
        assert got.dtype == np.uint8 and got.shape == (height, width, 1)
        np.testing.assert_array_equal(got, want)


def shares(form, low, high, count):
    draw = lambda seed: walk_mask(
        np.random.default_rng([5, seed]), 256, 256, low=low, high=high, **form
    )
    found = np.array([draw(seed).mean() for seed in range(count)])
    assert found.min() > low and found.max() < high
    return found.mean()


@pytest.mark.parametrize(
    "form, low, high, mean",
    [  # printed in the specifications, each of 300 draws
        (RNON, 0.01, 0.25, 0.134),
        (RNON, 0.25, 0.40, 0.336),
        (RNON, 0.40, 0.50, 0.454),
        (RNON, 0.50, 0.60, 0.557),
        (IPA, 0.0136, 0.0546, 0.038),
        (IPA, 0.0166, 0.0456, 0.034),
    ],
)
def test_measured_means_of_the_specifications(form, low, high, mean):
    count = 100
    # Shares are about uniform in the range; both means are samples. Four standard
    # deviations, and half of the last printed digit.
    sd = (high - low) / np.sqrt(12)
    bound = 4 * sd * np.sqrt(1 / 300 + 1 / count) + 0.0005
    assert abs(shares(form, low, high, count) - mean) < bound


def test_central_strokes_are_one_region_that_begins_in_the_middle():
    from scipy import ndimage

    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = walk_mask(rng, 128, 128, low=0.0136, high=0.0546, **IPA)[..., 0]
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        assert mask[32:96, 32:96].any()


def test_strokes_scale_with_the_image():
    full, small = (
        shares(RNON, 0.25, 0.4, 30),
        np.mean(
            [
                walk_mask(np.random.default_rng(s), 64, 64, low=0.25, high=0.4, **RNON)
                for s in range(30)
            ]
        ),
    )
    assert abs(full - small) < 4 * 0.15 / np.sqrt(12) * np.sqrt(2 / 30)


@pytest.mark.parametrize(
    "change, words",
    [
        *(
            (
                {"low": low, "high": high},
                "hole ratio range must satisfy 0 < lo < hi < 1",
            )
            for low, high in ((0.5, 0.1), (0.3, 0.3), (0.0, 0.2), (0.5, 1.0))
        ),
        ({"widths": (0, 8)}, "0 < least <= largest"),
        ({"widths": (9, 8)}, r"widths are \(9, 8\)"),
        ({"start": "center"}, "'center'; it is one of"),
    ],
)
def test_refusals(change, words):
    form = {"low": 0.1, "high": 0.2, **RNON, **change}
    with pytest.raises(ValueError, match=words):
        walk_mask(np.random.default_rng(0), 32, 32, **form)


def test_a_range_that_no_mask_meets():
    rng = np.random.default_rng(0)
    words = r"could not draw a mask in \(0.5, 0.5001\)"
    with pytest.raises(RuntimeError, match=words):
        # 256 pixels: a share is a multiple of 1 / 256, and none lies in the range.
        walk_mask(rng, 16, 16, low=0.5, high=0.5001, **RNON)
