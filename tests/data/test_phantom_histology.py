import numpy as np
import pytest
from scipy import ndimage

from jaxinpaint.data import phantom_histology
from jaxinpaint.data.phantom_histology import phantom_slide, phantom_slides

FORM = {"scale": 0.25, "normal": 5, "sclerosed": 3}


@pytest.fixture(scope="module", params=["PAS", "HE"])
def whole(request):
    return request.param, phantom_slide(
        768, 768, scale=1.0, stain=request.param, normal=4, sclerosed=3, seed=1
    )


def parts(slide):
    normal, sclerosed = (slide.label[..., k] == 1 for k in (0, 1))
    return normal, sclerosed, slide.tissue & ~normal & ~sclerosed


def test_one_seed_gives_the_same_bytes_and_another_does_not():
    one, two, other = (
        phantom_slide(200, 256, stain="PAS", seed=seed, **FORM) for seed in (4, 4, 5)
    )
    assert one.image.shape == (200, 256, 3) and one.image.dtype == np.uint8
    assert one.label.shape == (200, 256, 2) and one.label.dtype == np.uint8
    for name in ("image", "label", "instances"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert (getattr(one, name) != getattr(other, name)).any()
    assert one.glomeruli == two.glomeruli


@pytest.mark.parametrize("seed", range(4))
def test_there_are_as_many_glomeruli_as_asked_for(seed):
    slide = phantom_slide(240, 240, stain="PAS", seed=seed, **FORM)
    assert sorted(kind for kind, *_ in slide.glomeruli) == (
        ["normal"] * 5 + ["sclerosed"] * 3
    )
    assert set(np.unique(slide.instances)) == set(range(9))
    for number, (kind, y, x, radius) in enumerate(slide.glomeruli, 1):
        low, high = {"normal": (55, 85), "sclerosed": (30, 60)}[kind]
        assert low * 0.25 <= radius <= high * 0.25
        own = slide.instances == number
        assert ndimage.label(own)[1] == 1
        rows, columns = np.nonzero(own)
        # The area is the circle's within what uneven outlines add.
        assert own.sum() == pytest.approx(np.pi * radius**2, rel=0.3)
        assert np.hypot(rows.mean() - y, columns.mean() - x) < 0.25 * radius
        channel = ("normal", "sclerosed").index(kind)
        assert slide.label[own].tolist() == [[1 - channel, channel]] * own.sum()


def test_masks_are_disjoint_and_lie_on_tissue(whole):
    slide = whole[1]
    assert slide.label.max() == 1
    assert not (slide.label.sum(axis=-1) > 1).any()
    assert not (slide.label.any(axis=-1) & ~slide.tissue).any()
    np.testing.assert_array_equal(slide.label.any(axis=-1), slide.instances > 0)


def test_what_sticks_out_of_the_tissue_is_cut(monkeypatch):
    monkeypatch.setitem(phantom_histology.UNEVEN, "normal", 1.5)
    cut = 0
    for seed in range(4):
        slide = phantom_slide(110, 240, stain="PAS", seed=seed, **FORM)
        assert not (slide.label.any(axis=-1) & ~slide.tissue).any()
        for number, _ in enumerate(slide.glomeruli, 1):
            rows = np.nonzero(slide.instances == number)[0]
            cut += rows.min() < 12 or rows.max() > 98
    assert cut  # some reach the borders, at rows 6.6 and 104.5


def test_centres_keep_their_distance():
    for seed in range(3):
        slide = phantom_slide(256, 256, stain="HE", seed=seed, **FORM)
        for at, (_, y, x, r) in enumerate(slide.glomeruli):
            for _, b, a, s in slide.glomeruli[:at]:
                assert np.hypot(y - b, x - a) > 1.15 * (r + s) + 3


def test_sclerosed_glomeruli_are_dark_and_even_and_normal_ones_are_not(whole):
    stain, slide = whole
    green = slide.image[..., 1].astype(float)
    normal, sclerosed, rest = parts(slide)
    core = ndimage.binary_erosion(sclerosed, iterations=2)
    if stain == "PAS":  # the figures of the specification
        assert green[sclerosed].mean() < green[rest].mean() - 40
        assert green[normal].std() > 35 and green[core].std() < 25
    else:
        assert green[sclerosed].mean() < green[rest].mean() - 25
        assert green[normal].std() > 1.5 * green[core].std()


def test_colours_are_those_of_the_stain():
    """Typical means that the specification gives for PAS, to 15 levels."""
    slide = phantom_slide(
        512, 512, scale=1.0, stain="PAS", normal=2, sclerosed=2, seed=0
    )
    normal, sclerosed, rest = parts(slide)
    for where, wanted in (
        (ndimage.binary_erosion(sclerosed, iterations=2), (204, 99, 216)),
        (rest, (220, 168, 233)),
        (normal, (207, 158, 226)),
        (~slide.tissue, (253, 250, 253)),
    ):
        np.testing.assert_allclose(slide.image[where].mean(axis=0), wanted, atol=15)


def test_a_stain_changes_colours_and_nothing_else():
    pas, he = (phantom_slide(200, 200, stain=s, seed=2, **FORM) for s in ("PAS", "HE"))
    np.testing.assert_array_equal(pas.instances, he.instances)
    step = pas.image.astype(float) - he.image
    assert abs(step[pas.tissue].mean(axis=0)).max() > 4
    assert abs(step[~pas.tissue].mean(axis=0)).max() < 2


def test_tissue_is_a_strip_between_wavy_borders():
    slide = phantom_slide(400, 300, stain="PAS", seed=9, **FORM)
    inside = slide.tissue
    assert (np.diff(inside.astype(int), axis=0) == 1).sum(axis=0).tolist() == [1] * 300
    top, bottom = inside.argmax(axis=0), 399 - inside[::-1].argmax(axis=0)
    assert abs(top.mean() - 24) < 5 and abs(bottom.mean() - 380) < 5
    assert len(set(top.tolist())) > 1


def test_a_set_has_training_slides_and_test_sets_of_other_stains():
    form = FORM | {"height": 128, "width": 200, "normal": 1, "sclerosed": 1, "seed": 3}
    slides = phantom_slides(
        slides=3, test_slides=2, stain="PAS", test_stain=("PAS", "HE"), **form
    )
    assert [(s.name, s.stain, s.split) for s in slides] == [
        ("train_000", "PAS", "train"),
        ("train_001", "PAS", "train"),
        ("train_002", "PAS", "train"),
        ("test1_000", "PAS", "test1"),
        ("test1_001", "PAS", "test1"),
        ("test2_000", "HE", "test2"),
        ("test2_001", "HE", "test2"),
    ]
    assert len({s.slide.image.tobytes() for s in slides}) == 7
    fewer = phantom_slides(
        slides=1, test_slides=1, stain="PAS", test_stain="HE", **form
    )
    np.testing.assert_array_equal(fewer[0].slide.image, slides[0].slide.image)
    np.testing.assert_array_equal(fewer[1].slide.instances, slides[3].slide.instances)
    assert fewer[1].stain == "HE"
    with pytest.raises(ValueError, match="slides is -1"):
        phantom_slides(slides=-1, test_slides=1, stain="PAS", test_stain="HE", **form)


def test_what_does_not_fit_is_refused_with_what_did():
    with pytest.raises(ValueError, match=r"only [1-9]\d* of 40 glomeruli .* 128 x 128"):
        phantom_slide(
            128, 128, scale=0.25, stain="PAS", normal=30, sclerosed=10, seed=0
        )
    with pytest.raises(ValueError, match="only 0 of 1 glomeruli"):
        phantom_slide(64, 64, scale=1.0, stain="PAS", normal=1, sclerosed=0, seed=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stain": "PASM"}, "stain is 'PASM'"),
        ({"scale": 0.0}, "scale 0.0"),
        ({"normal": -1}, "-1 normal"),
        ({"width": 0}, "16 x 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    form = {"height": 16, "width": 16, "scale": 0.1, "stain": "PAS", "normal": 0}
    form |= {"sclerosed": 0, "seed": 0}
    phantom_slide(**form)
    with pytest.raises(ValueError, match=message):
        phantom_slide(**form | changes)
