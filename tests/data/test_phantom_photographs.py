import hashlib
import time

import numpy as np
import pytest

from jaxinpaint.data.phantom_photographs import photographs


@pytest.fixture(scope="module")
def pictures():
    return photographs(count=24, height=64, width=80, seed=3)


def test_a_picture_follows_from_seed_and_number(pictures):
    assert pictures.shape == (24, 64, 80, 3) and pictures.dtype == np.uint8
    again = photographs(count=5, height=64, width=80, seed=3)
    np.testing.assert_array_equal(again, pictures[:5])
    other = photographs(count=5, height=64, width=80, seed=4)
    assert all((a != b).any() for a, b in zip(other, again, strict=True))
    assert len({picture.tobytes() for picture in pictures}) == 24


def test_the_bytes_are_those_of_other_machines(pictures):
    # Pinned: what was measured on these pictures names their digest. A change of the
    # scenes changes it, and the results of the demos with it.
    got = hashlib.sha256(pictures.tobytes()).hexdigest()
    assert got[:16] == "6d0ade1bf6d9bd15"


def test_another_size_shows_the_same_scene(pictures):
    large = photographs(count=8, height=128, width=160, seed=3).astype(float)
    halves = large.reshape(8, 64, 2, 80, 2, 3).mean(axis=(2, 4))
    apart = abs(halves - pictures[:8])
    # Edges are antialiased at each size for itself, and fine patterns fade.
    assert np.median(apart) < 3 and apart.mean() < 6


def test_pictures_have_contrast_colour_and_room_at_both_ends(pictures):
    spread = pictures.reshape(24, -1).std(axis=1)
    assert (spread > 12).all() and 30 < np.median(spread) < 80
    assert (pictures == 255).mean() < 0.05 and (pictures == 0).mean() < 0.05
    apart = np.ptp(pictures.astype(int), axis=-1).mean(axis=(1, 2))
    assert (apart > 8).mean() > 0.8


def test_a_hole_can_be_learnt_from_its_rim_better_than_by_spreading_it():
    """A linear map from the rim to the hole, fitted here, beats both classical fills.

    It knows lines and gradients, and no scene. The bound is half of what was measured:
    0.9 dB above Telea and 0.8 dB above Navier-Stokes (12 pixels, 64 x 64 pictures).
    """
    cv2 = pytest.importorskip("cv2")
    side, rim, rng = 22, 5, np.random.default_rng(0)
    hole = np.zeros((side, side), bool)
    hole[rim:-rim, rim:-rim] = True

    def windows(seed, pictures, count):
        stack = photographs(count=pictures, height=64, width=64, seed=seed)
        pick = rng.integers(pictures, size=count)
        corner = rng.integers(64 - side + 1, size=(count, 2))
        cut = [
            stack[k, y : y + side, x : x + side]
            for k, (y, x) in zip(pick, corner, strict=True)
        ]
        return np.stack(
            [w[:: rng.choice([1, -1]), :: rng.choice([1, -1])] for w in cut]
        )

    def planes(cut):
        flat = cut.astype(np.float32).transpose(0, 3, 1, 2).reshape(-1, side, side)
        mean = flat[:, ~hole].mean(axis=1, keepdims=True)
        return flat[:, ~hole] - mean, flat[:, hole] - mean, mean

    known, wanted, _ = planes(windows(0, 128, 4000))
    square = known.T @ known + 30 * len(known) * np.eye(known.shape[1], dtype="f4")
    linear = np.linalg.solve(square, known.T @ wanted)
    tested = windows(99, 48, 150)
    known, wanted, mean = planes(tested)
    psnr = lambda error: 10 * np.log10(255**2 / np.maximum((error**2).mean(axis=1), 1))
    fit = np.clip(known @ linear + mean, 0, 255) - (wanted + mean)
    ours = psnr(fit.reshape(len(tested), -1)).mean()
    for how in (cv2.INPAINT_TELEA, cv2.INPAINT_NS):
        filled = [cv2.inpaint(w, hole.astype(np.uint8), 3, how)[hole] for w in tested]
        error = np.array(filled, float) - tested[:, hole]
        assert ours > psnr(error.reshape(len(tested), -1)).mean() + 0.4


def test_it_is_cheap():
    begin = time.process_time()
    photographs(count=8, height=128, width=128, seed=0)
    assert time.process_time() - begin < 1  # 0.07 s; 64 of them in 0.6 s


@pytest.mark.parametrize("wrong", ["count", "height", "width"])
def test_lengths_below_one(wrong):
    sizes = {"count": 2, "height": 8, "width": 8} | {wrong: 0}
    with pytest.raises(ValueError, match="each must be positive"):
        photographs(**sizes, seed=0)
