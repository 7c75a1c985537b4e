import numpy as np
import pytest

from jaxinpaint.data.tissue import tissue_map, tissue_share


def slow_map(image, chroma, block):
    height, width = -(-image.shape[0] // block), -(-image.shape[1] // block)
    out = np.zeros((height, width), bool)
    for i, j in np.ndindex(height, width):
        part = image[i * block : (i + 1) * block, j * block : (j + 1) * block]
        mean = part.reshape(-1, 3).mean(0)
        out[i, j] = mean.max() - mean.min() > chroma
    return out


@pytest.mark.parametrize("height, width, block", [(32, 40, 8), (37, 21, 8), (9, 9, 2)])
def test_blocks_equal_a_loop(height, width, block):
    rng = np.random.default_rng(0)
    image = rng.integers(100, 160, (height, width, 3)).astype(np.uint8)
    image[: height // 2] = rng.integers(0, 256, (height // 2, width, 3))
    got = tissue_map(image, chroma=9, block=block)
    np.testing.assert_array_equal(got, slow_map(image, 9, block))
    assert got.any() and not got.all()


def test_the_limit_itself_is_no_tissue():
    image = np.full((8, 24, 3), 200, np.uint8)
    image[:, :8, 1] = 185  # 15 lower
    image[:, 8:16, 1] = 184
    got = tissue_map(image, chroma=15, block=8)
    np.testing.assert_array_equal(got, [[False, True, False]])


def test_shares_of_windows_equal_counted_pixels():
    rng = np.random.default_rng(1)
    tissue = rng.random((7, 9)) < 0.6
    pixels = np.kron(tissue, np.ones((8, 8)))
    tops, lefts = np.array([0, 3, 17, 24]), np.array([0, 5, 40])
    got = tissue_share(tissue, tops, lefts, size=32, block=8)
    for (i, j), share in np.ndenumerate(got):
        window = pixels[tops[i] : tops[i] + 32, lefts[j] : lefts[j] + 32]
        assert share == pytest.approx(window.mean())


@pytest.mark.parametrize(
    "image, block, message",
    [
        (np.zeros((8, 8, 4), np.uint8), 8, r"8-bit RGB, found \[8, 8, 4\] uint8"),
        (np.zeros((8, 8, 3), np.float32), 8, "float32"),
        (np.zeros((8, 8, 3), np.uint8), 0, "block is 0"),
    ],
)
def test_what_has_no_tissue_map(image, block, message):
    with pytest.raises(ValueError, match=message):
        tissue_map(image, chroma=15, block=block)
