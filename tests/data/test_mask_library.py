import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxinpaint.data import contours
from jaxinpaint.data import mask_library as library

LENGTHS = {"size": 64, "min_area": 25, "max_radius": 28.0}
OPTIONS = {**LENGTHS, "bins": 5, "range": (10.0, 40.0), "threshold": 0.5, "seed": 3}


def disc(side, radius, cy, cx):
    y, x = np.mgrid[:side, :side]
    return ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2).astype(np.uint8)


def blobs(count, side=64, seed=0):
    """Soft ellipses, one a sample."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    level = []
    for _ in range(count):
        a, b = rng.uniform(6, 14, 2) * side / 64
        turn = rng.uniform(0, np.pi)
        u, v = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
        level.append(1 / (1 + np.exp(4 * (np.hypot(u / a, v / b) - 1))))
    return np.stack(level)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_enlarging_equals_jax(factor):
    sample = np.random.default_rng(1).random((16, 16)).astype(np.float32)
    side = 16 * factor
    want = jax.image.resize(jnp.asarray(sample), (side, side), "bilinear")
    np.testing.assert_allclose(library._enlarged(sample, side), want, atol=1e-6)


def test_every_bin_is_filled_alike_and_contours_have_their_sizes():
    made = library.build_library(blobs(53), **OPTIONS)
    d = np.array([about["d"] for about in made.meta])
    assert len(made.masks) == len(d) > 40
    for n, diameter in enumerate(d):  # equivalent diameters within a pixel of the bin
        low = 10 + 6 * (n % 5)
        assert low - 1 < diameter < low + 7, n
    counts = np.bincount(np.arange(len(d)) % 5)
    assert counts.max() - counts.min() <= 1
    inside = d - 10 - 6 * (np.arange(len(d)) % 5)
    assert inside.std() > 1  # targets are spread over their bins


def test_what_is_told_of_a_contour_is_what_it_is():
    made = library.build_library(blobs(12), **OPTIONS)
    for mask, about in zip(made.masks, made.meta, strict=True):
        assert contours.components(mask)[1] == 1
        np.testing.assert_array_equal(contours.fill_holes(mask), mask)
        y, x, r = contours.enclosing_circle(np.argwhere(mask))
        assert abs(y - 31.5) < 1 and abs(x - 31.5) < 1  # centred
        assert r - 1e-9 <= about["r"] < r + 1 and about["r"] <= 28
        assert about["area"] == mask.sum()
        assert about["d"] == pytest.approx(2 * (mask.sum() / np.pi) ** 0.5)
        assert about["seed"] == 3 and about["source"] == ""
    assert [about["sample_index"] for about in made.meta] == sorted(
        about["sample_index"] for about in made.meta
    )


def test_scale_is_target_over_own_diameter():
    """A disc of diameter 20 in a sample of the windows' own side."""
    sample = disc(64, 10, 20, 30)[None].astype(float)
    made = library.build_library(sample, **{**OPTIONS, "bins": 1})
    (about,) = made.meta
    rng = np.random.default_rng(3)
    target = 10 + 30 * rng.random()
    own = 2 * (sample.sum() / np.pi) ** 0.5
    assert about["scale"] == pytest.approx(target / own)
    assert about["d"] == pytest.approx(target, abs=0.7)


def test_small_bordering_nested_and_wide_pieces():
    sample = np.zeros((64, 64))
    sample[:5, 20:40] = 1  # at the border
    sample[30:32, 50:53] = 1  # 6 pixels
    ring = disc(64, 12, 30, 25) - disc(64, 8, 30, 25)
    sample += ring + disc(64, 4, 30, 25)  # 49 pixels inside the ring's hole
    made = library.build_library(sample[None], **OPTIONS)
    assert len(made.masks) == 1 and made.meta[0]["component"] == 0
    assert made.rejected == {library.SMALL: 1, library.BORDER: 1}
    needle = np.zeros((1, 64, 64))
    needle[0, 30:32, 4:60] = 1  # 56 long: as wide as a disc of 12
    wide = {**OPTIONS, "bins": 1, "range": (30.0, 40.0)}
    with pytest.raises(ValueError, match=r"no contour .*\(1 radius above max_radius"):
        library.build_library(needle, **wide)
    both = np.concatenate([needle, sample[None]])
    made = library.build_library(both, **wide)
    assert made.rejected[library.WIDE] == 1 and made.meta[0]["sample_index"] == 1


def test_a_rejected_contour_gives_its_turn_away():
    needle = np.zeros((64, 64))
    needle[30:32, 4:60] = 1
    round_ = disc(64, 10, 31, 31).astype(float)
    made = library.build_library(
        np.stack([round_, needle, round_, round_]),
        **{**OPTIONS, "bins": 2, "range": (20.0, 40.0)},
    )
    assert made.rejected == {library.WIDE: 1}
    d = [about["d"] for about in made.meta]
    assert 19 < d[0] < 31 and 29 < d[1] < 41 and 19 < d[2] < 31


def test_the_same_seed_gives_the_same_bytes_and_more_samples_only_more():
    one, two = (library.build_library(blobs(12), **OPTIONS) for _ in range(2))
    assert one.digest() == two.digest()
    other = library.build_library(blobs(12), **{**OPTIONS, "seed": 4})
    assert other.digest() != one.digest()
    fewer = library.build_library(blobs(12)[:7], **OPTIONS)
    np.testing.assert_array_equal(fewer.masks, one.masks[: len(fewer.masks)])
    assert fewer.meta == one.meta[: len(fewer.meta)]


def test_levels_and_luma_are_one():
    level = np.rint(blobs(4) * 255).astype(np.uint8)
    want = library.build_library(level / 255, **OPTIONS)
    assert library.build_library(level, **OPTIONS).digest() == want.digest()


def test_enlarged_samples_keep_their_lengths():
    """Samples of 16 in windows of 64: a radius of 5 becomes 20 before it is scaled."""
    sample = disc(16, 5, 7.5, 7.5)[None].astype(float)
    made = library.build_library(sample, **OPTIONS)
    big = library._enlarged(sample[0], 64) > 0.5
    own = 2 * (big.sum() / np.pi) ** 0.5
    assert own == pytest.approx(4 * 2 * (sample.sum() / np.pi) ** 0.5, rel=0.02)
    target = 10 + 6 * np.random.default_rng(3).random()
    assert made.meta[0]["scale"] == pytest.approx(target / own)


def test_maps_are_taken_as_they_are():
    slide = disc(100, 14, 30, 40) | disc(100, 7, 70, 70) | disc(100, 2, 10, 90)
    made = library.taken_library([("a", slide), ("b", slide.T)], **LENGTHS)
    assert made.rejected == {library.SMALL: 2}
    assert [(m["source"], m["sample_index"]) for m in made.meta] == [
        *[("a", 0)] * 2,
        *[("b", 1)] * 2,
    ]
    assert all(m["scale"] == 1 and m["seed"] is None for m in made.meta)
    # An integer centre comes to lie between pixels, so an outline may gain half a one.
    assert 1 <= made.masks[0].sum() / disc(100, 14, 30, 40).sum() < 1.04


def test_mask_files(tmp_path):
    for name, radius in {"b.png": 9, "a.png": 12}.items():
        Image.fromarray(disc(50, radius, 24.5, 24.5) * 255).save(tmp_path / name)
    maps = list(library.folder_maps(tmp_path))
    assert [name for name, _ in maps] == ["a.png", "b.png"]
    made = library.taken_library(maps, **LENGTHS)
    np.testing.assert_array_equal(made.masks[0], disc(64, 12, 31.5, 31.5))
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no mask"):
        list(library.folder_maps(tmp_path / "none"))


def test_what_is_saved_is_read_back(tmp_path):
    made = library.build_library(blobs(9), **OPTIONS)
    for name in ("one", "two"):
        library.save_library(made, tmp_path / name)
    back = library.load_library(tmp_path / "one")
    np.testing.assert_array_equal(back.masks, made.masks)
    assert back.digest() == made.digest() and back.rejected == made.rejected
    for name in ("masks.npz", "library.json"):
        one, two = (tmp_path / place / name for place in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("damage", ["bits", "cut", "meta", "format"])
def test_a_damaged_library_is_refused(tmp_path, damage):
    made = library.build_library(blobs(3), **OPTIONS)
    folder = tmp_path / "one"
    library.save_library(made, folder)
    if damage == "bits":
        np.savez(folder / "masks.npz", masks=np.packbits(1 - made.masks))
    elif damage == "cut":
        bits = (folder / "masks.npz").read_bytes()
        (folder / "masks.npz").write_bytes(bits[: len(bits) // 2])
    else:
        facts = json.loads((folder / "library.json").read_text())
        if damage == "meta":
            facts["contours"][0]["r"] = 1.0
        else:
            facts["format"] = 99
        (folder / "library.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="make the library again"):
        library.load_library(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bins": 0}, "bins is 0"),
        ({"range": (40.0, 10.0)}, r"range \(40.0, 10.0\)"),
        ({"max_radius": 31.5}, "below 31.5"),
        ({"size": 32}, "64 pixels do not fit windows of 32"),
        ({"threshold": 1.0}, "no piece found"),
    ],
)
def test_figures_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        library.build_library(blobs(2), **{**OPTIONS, **change})


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.full((1, 64, 64), -0.5), "such as -0.5"),
        (np.full((1, 64, 64), np.nan), "such as nan"),
        (np.zeros((1, 64, 64, 3)), r"\[1, 64, 64, 3\]"),
    ],
)
def test_samples_that_cannot_be(samples, message):
    with pytest.raises(ValueError, match=message):
        library.build_library(samples, **OPTIONS)
