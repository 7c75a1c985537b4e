import numpy as np
import pytest

from jaxinpaint.data import phantom_histology
from jaxinpaint.data.glomeruli_crops import (
    Rules,
    crops_of,
    expect_holes,
    gather_crops,
    mask_pictures,
)
from tests.data.test_tiles import slide_of

RULES = Rules(size=32, min_area=20, max_radius=14, max_cover=0.6)


def disc(height, width, *circles):
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for y, x, radius in circles:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def slide_with(mask, **changes):
    height, width = mask.shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    label = np.stack([np.zeros_like(mask), mask], axis=-1).astype(np.uint8)
    return slide_of(image, label, **changes), image, mask.astype(np.uint8)


def test_a_window_is_centred_at_the_enclosing_circle():
    slide, image, mask = slide_with(disc(100, 120, (40, 50, 5)))
    ((arrays, facts),) = crops_of(slide, RULES)
    assert (facts["cy"], facts["cx"], facts["r"]) == pytest.approx((40, 50, 5))
    assert (facts["top"], facts["left"]) == (25, 35)  # floor(40 - 15.5 + 0.5)
    assert (facts["slide"], facts["group"]) == ("a", "g")
    assert facts["area"] == mask.sum() and facts["cover"] == mask.sum() / 32**2
    np.testing.assert_array_equal(arrays["images"], image[25:57, 35:67])
    np.testing.assert_array_equal(arrays["masks"], mask[25:57, 35:67])


def test_windows_of_256_begin_where_the_specification_says():
    slide, _, _ = slide_with(disc(400, 400, (180, 200, 30)))
    rules = Rules(size=256, min_area=400, max_radius=120, max_cover=0.6)
    ((_, facts),) = crops_of(slide, rules)
    assert (facts["top"], facts["left"]) == (53, 73)  # floor(180 - 127.5 + 0.5)


def test_windows_stay_on_the_slide_and_hold_their_neighbours():
    circles = [(4, 110, 4), (4, 100, 4), (97, 3, 4)]
    slide, image, mask = slide_with(disc(100, 120, *circles))
    found = list(crops_of(slide, RULES))
    places = sorted((f["top"], f["left"]) for _, f in found)
    assert places == [(0, 85), (0, 88), (68, 0)]
    for arrays, facts in found:
        place = tuple(slice(facts[k], facts[k] + 32) for k in ("top", "left"))
        np.testing.assert_array_equal(arrays["images"], image[place])
        np.testing.assert_array_equal(arrays["masks"], mask[place])
    assert {int(a["masks"].sum()) for a, f in found if f["top"] == 0} == {
        int(disc(100, 120, *circles[:2]).sum())
    }


def test_pieces_that_touch_at_a_corner_are_one():
    mask = np.zeros((50, 50), bool)
    mask[20:24, 20:24] = mask[24:28, 24:28] = True
    slide, _, _ = slide_with(mask)
    ((_, facts),) = crops_of(slide, RULES)
    assert facts["area"] == 32 and facts["cy"] == pytest.approx(23.5)


def test_what_is_rejected_is_counted(tmp_path):
    circles = [(20, 20, 2), (20, 60, 15), (70, 20, 6), (70, 90, 13)]
    slide, _, _ = slide_with(disc(120, 120, *circles))
    rules = RULES._replace(max_cover=0.5)
    crops = gather_crops([slide], rules, tmp_path / "x")
    assert crops.report == {
        "slides": 1,
        "components": 4,
        "crops": 1,
        "rejected": {"area": 1, "radius": 1, "cover": 1},
    }
    assert crops.images.shape == (1, 32, 32, 3) and crops.masks.shape == (1, 32, 32)
    assert crops.meta[0]["r"] == pytest.approx(6)
    reasons = {
        round(f["r"]): f["reason"]
        for a, f in crops_of(slide, rules)
        if not a and "r" in f
    }
    assert reasons == {15: "radius", 13: "cover"}


def test_crops_come_from_files_when_they_are_many(tmp_path):
    slides = [
        slide_with(disc(100, 120, (40, 50, 5), (70, 90, 6)), id=name)[0]
        for name in "ab"
    ]
    few = gather_crops(slides, RULES, tmp_path / "c" / "x")
    many = gather_crops(slides, RULES, tmp_path / "c" / "x", limit=100)
    assert [f["slide"] for f in few.meta] == ["a", "a", "b", "b"]
    assert many.meta == few.meta and many.report == few.report
    np.testing.assert_array_equal(many.images, few.images)
    np.testing.assert_array_equal(many.masks, few.masks)
    names = {path.name for path in (tmp_path / "c" / "x").iterdir()}
    assert {"images.npy", "masks.npy", "meta.jsonl"} <= names


def test_every_glomerulus_of_a_phantom_is_found(tmp_path):
    made = phantom_histology.phantom_slide(
        256, 256, scale=0.25, stain="PAS", normal=5, sclerosed=4, seed=2
    )
    rules = Rules(size=64, min_area=25, max_radius=30, max_cover=0.6)
    crops = gather_crops([slide_of(made.image, made.label)], rules, tmp_path / "x")
    wanted = sorted((y, x) for kind, y, x, _ in made.glomeruli if kind == "sclerosed")
    found = sorted((f["cy"], f["cx"]) for f in crops.meta)
    np.testing.assert_allclose(found, wanted, atol=4)
    for mask, facts in zip(crops.masks, crops.meta, strict=True):
        y, x = round(facts["cy"]) - facts["top"], round(facts["cx"]) - facts["left"]
        assert mask[y - 3 : y + 4, x - 3 : x + 4].all()


# Bad input, specification 9.2 --------------------------------------------------------


def test_slides_smaller_than_a_window_are_refused():
    slide, _, _ = slide_with(disc(31, 90, (15, 20, 5)), id="tiny")
    with pytest.raises(ValueError, match="slide tiny is 31 x 90 .* 32 x 32"):
        list(crops_of(slide, RULES))


def test_nothing_to_train_on_is_said(tmp_path):
    small = [slide_with(disc(64, 64, (20, 20, 2)))[0]] * 3
    with pytest.raises(
        ValueError,
        match="no sclerosed glomerulus of at least 20 px in 3 slides: nothing to train",
    ):
        gather_crops(small, RULES, tmp_path / "x")
    large = [slide_with(disc(64, 64, (30, 30, 20)))[0]]
    with pytest.raises(ValueError, match="all 1 .* too large .*max_radius"):
        gather_crops(large, RULES, tmp_path / "x")


@pytest.mark.parametrize("value, word", [(0, "empty"), (1, "full")])
def test_masks_without_a_hole_or_without_a_rim_are_refused(value, word):
    masks = np.zeros((4, 8, 8), np.uint8)
    masks[:, 2:4, 2:4] = 1
    expect_holes(masks)
    masks[2] = value
    with pytest.raises(ValueError, match=f"mask of crop 2 is {word}"):
        expect_holes(masks)


# Pictures of masks -------------------------------------------------------------------


def test_a_picture_is_the_mean_of_blocks():
    masks = np.zeros((2, 256, 256), np.uint8)
    masks[0, :4, :2] = 1  # half of a block: 127.5 rounds up
    masks[0, 4:8, 4:8] = 1
    masks[1, 255, 255] = 1  # one of 16: 15.94
    pictures = mask_pictures(masks, 64)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8
    assert pictures[0, 0, 0].tolist() == [128] * 3
    assert pictures[0, 1, 1].tolist() == [255] * 3
    assert pictures[1, 63, 63].tolist() == [16] * 3
    assert pictures.astype(int).sum() == 3 * (128 + 255 + 16)
    np.testing.assert_array_equal(mask_pictures(masks, 256)[..., 1], masks * 255)
    with pytest.raises(ValueError, match="crop_size is 256; pictures of 100 pixels"):
        mask_pictures(masks, 100)
