import hashlib
import json
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import phantom_histology, slide_readers
from jaxinpaint.data.slides import open_folder, open_slides
from tests.data.slide_folders import FORM, add, box, picture, save, splits, table

SAMPLES = pathlib.Path(__file__).parents[3] / "shared" / "data"


def opened(root, **changes):
    return {slide.id: slide for slide in open_folder(root, **FORM | changes)}


def label_of(root, **changes):
    (slide,) = open_folder(root, **FORM | changes)
    return slide.label()


def test_a_folder_gives_its_slides(tmp_path):
    images = {name: picture(20, 30, seed) for seed, name in enumerate("cab")}
    add(tmp_path, "c", images["c"], box(20, 30, (1, 2, 5, 9)), None)
    add(tmp_path, "a", images["a"], None, box(20, 30, (3, 3, 6, 6)), suffix=".npy")
    add(tmp_path, "b", images["b"], suffix=".tif")
    table(tmp_path, "id,stain,mpp,group,split\na,PAS,,p1,\nb,HE,1.02,p1,test1\n")
    splits(tmp_path, train=["a"])
    slides = open_folder(tmp_path, **FORM)
    assert [s.id for s in slides] == ["a", "b", "c"]
    assert [s.group for s in slides] == ["p1", "p1", "c"]
    assert [s.stain for s in slides] == ["PAS", "HE", ""]
    assert [s.split for s in slides] == ["train", "test1", ""]
    assert not any(s.synthetic for s in slides)
    for slide in slides:
        assert (slide.height, slide.width) == (20, 30)
        got = slide.region(2, 3, 10, 20)
        np.testing.assert_array_equal(got, images[slide.id][2:12, 3:23])
        got[...] = 0  # its own copy
        np.testing.assert_array_equal(slide.region(0, 0, 20, 30), images[slide.id])
    a, b, c = (slide.label() for slide in slides)
    assert a.dtype == np.uint8 and a.shape == (20, 30, 2)
    assert a[..., 1].sum() == 9 and a[3:6, 3:6, 1].all() and not a[..., 0].any()
    assert c[..., 0].sum() == 28 and c[1:5, 2:9, 0].all() and not c[..., 1].any()
    assert not b.any()
    file = (tmp_path / "images" / "c.png").read_bytes()
    assert slides[2].digest == hashlib.sha256(file).hexdigest()
    assert len({s.label_digest for s in slides}) == 3
    with pytest.raises(
        ValueError, match="slide a is 20 x 30; it has no region of 3 x 3"
    ):
        slides[0].region(18, 0, 3, 3)


def test_without_splits_every_slide_is_for_training(tmp_path):
    add(tmp_path, "a", picture(8, 8), folders=("0", "1"))
    assert opened(tmp_path)["a"].split == "train"


def test_an_image_may_lie_elsewhere(tmp_path):
    image = picture(8, 9)
    save(tmp_path / "far" / "scan 1.png", image)
    for folder in ("normal", "sclerosed"):
        save(tmp_path / "own" / "masks" / folder / "a.png", box(8, 9))
    table(tmp_path / "own", "id,image\na,../far/scan 1.png\n")
    slide = opened(tmp_path / "own")["a"]
    np.testing.assert_array_equal(slide.region(0, 0, 8, 9), image)


def test_slides_are_reduced_to_the_working_resolution(tmp_path):
    image, mask = picture(21, 30), box(21, 30, (2, 4, 7, 9))
    add(tmp_path, "half", image, mask)
    add(tmp_path, "same", image, mask)
    add(tmp_path, "unknown", image, mask)
    table(tmp_path, "id,mpp\nhalf,0.499\nsame,0.98\n")
    slides = opened(tmp_path)
    assert (slides["half"].height, slides["half"].width) == (10, 15)
    blocks = image[:20].reshape(10, 2, 15, 2, 3).sum(axis=(1, 3), dtype=int)
    want = np.floor(blocks / 4 + 0.5)
    np.testing.assert_array_equal(slides["half"].region(0, 0, 10, 15), want)
    np.testing.assert_array_equal(slides["half"].region(3, 2, 4, 5), want[3:7, 2:7])
    # Rows 2 to 6 and columns 4 to 8: of the last pixel one in four is marked.
    label = slides["half"].label()
    assert label[1:4, 2:5, 0].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert label.sum() == 8
    for name in ("same", "unknown"):
        np.testing.assert_array_equal(slides[name].region(0, 0, 21, 30), image)
    for slide in opened(tmp_path, downsample_all=2).values():
        assert (slide.height, slide.width) == (10, 15)
        np.testing.assert_array_equal(slide.region(0, 0, 10, 15), want)
    # Twice 0.499 and once 0.98 um/px; what says nothing counts as being at 1.
    told = {"half": 0.998, "same": 0.98, "unknown": 1.0}
    assert {name: slide.mpp for name, slide in slides.items()} == pytest.approx(told)
    told = {name: s.mpp for name, s in opened(tmp_path, downsample_all=2).items()}
    assert told == {"half": 0.998, "same": 1.96, "unknown": None}
    with pytest.raises(
        ValueError, match=r"same.png .* reduced by 0.51 .*never enlarged"
    ):
        opened(tmp_path, working_mpp=0.5)


def test_synthetic_slides_are_at_working_resolution(tmp_path):
    add(tmp_path, "a__syn0_0", picture(20, 20))
    table(tmp_path, "id,synthetic,mpp\na__syn0_0,1,0.5\n")
    slide = opened(tmp_path, downsample_all=2)["a__syn0_0"]
    assert slide.synthetic and slide.height == 20


def test_outlines_stand_for_masks(tmp_path):
    save(tmp_path / "images" / "a.png", picture(20, 24))
    ring = [[2, 4], [10, 4], [10, 8], [2, 8], [2, 4]]
    outline = {
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Sclerosed"}},
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.geojson").write_text(json.dumps([outline]))
    table(tmp_path, "id,mpp\na,0.5\n")
    label = label_of(tmp_path)
    want = np.zeros((10, 12, 2), np.uint8)
    want[2:4, 1:5, 1] = 1
    np.testing.assert_array_equal(label, want)
    add(tmp_path, "a", picture(20, 24))
    with pytest.raises(ValueError, match=r"\['a'\] have masks and outlines"):
        opened(tmp_path)


# Bad input, specification 9.2 --------------------------------------------------------


def test_a_mask_of_another_size_is_refused(tmp_path):
    add(tmp_path, "a", picture(20, 30), box(20, 29))
    with pytest.raises(ValueError, match=r"normal/a.png is 20 x 29, image .* 20 x 30"):
        opened(tmp_path)


def test_other_mask_values_are_listed_unless_there_is_a_threshold(tmp_path):
    mask = box(20, 30, (0, 0, 4, 4))
    mask[8, :14] = np.arange(100, 114)
    add(tmp_path, "a", picture(20, 30), mask)
    with pytest.raises(ValueError, match="mask_threshold") as error:
        label_of(tmp_path)
    assert "normal/a.png" in str(error.value)
    assert str([0, *range(100, 109)]) in str(error.value)  # ten of them
    assert label_of(tmp_path, mask_threshold=110).sum() == 16 + 4


def test_masks_of_0_and_1_and_grey_ones_in_colour_are_read(tmp_path):
    mask = box(20, 30, (0, 0, 4, 4))
    add(tmp_path, "a", picture(20, 30), mask // 255, np.stack([mask[::-1]] * 3, -1))
    assert label_of(tmp_path).sum(axis=(0, 1)).tolist() == [16, 16]
    coloured = np.stack([mask, mask, 0 * mask], -1)
    add(tmp_path, "a", picture(20, 30), mask, coloured)
    with pytest.raises(ValueError, match="sclerosed/a.png: a mask must be grey"):
        label_of(tmp_path)


def test_a_mask_of_everything_is_refused(tmp_path):
    add(tmp_path, "a", picture(8, 8), None, box(8, 8, (0, 0, 8, 8)))
    with pytest.raises(
        ValueError, match="sclerosed/a.png: .* whole image; is it inver"
    ):
        label_of(tmp_path)


def test_few_pixels_of_both_classes_are_sclerosed_and_many_an_error(tmp_path):
    image = picture(80, 80)
    add(
        tmp_path, "a", image, box(80, 80, (0, 0, 40, 40)), box(80, 80, (39, 39, 60, 60))
    )
    with pytest.warns(UserWarning, match="1 pixels, within rows 39 to 39"):
        label = label_of(tmp_path)
    assert label[39, 39].tolist() == [0, 1]
    assert label.sum() == 1600 + 441 - 1
    add(
        tmp_path, "a", image, box(80, 80, (0, 0, 40, 40)), box(80, 80, (39, 37, 60, 60))
    )
    with pytest.raises(
        ValueError, match="3 pixels, within rows 39 to 39 and columns 37 to 39"
    ):
        label_of(tmp_path)


def test_what_has_no_partner_is_listed(tmp_path):
    add(tmp_path, "good", picture(8, 8))
    for k in range(12):
        save(tmp_path / "images" / f"lone_{k:02d}.png", picture(8, 8))
    save(tmp_path / "masks" / "normal" / "lone_00.png", box(8, 8))
    save(tmp_path / "masks" / "normal" / "orphan.png", box(8, 8))
    with pytest.raises(FileNotFoundError) as error:
        opened(tmp_path)
    text = str(error.value)
    assert "lone_00" in text and "lone_09" in text and "lone_10" not in text
    assert "and 2 more" in text and "'orphan'" in text and "good" not in text


def test_an_empty_folder_says_what_was_searched(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no slide found; looked for images.*svs"
    ):
        opened(tmp_path)


def test_a_whole_slide_needs_a_resolution(tmp_path, monkeypatch):
    image = picture(40, 60)
    add(tmp_path, "a", image)
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "a.svs")
    found = slide_readers.Pixels(
        40, 60, None, True, lambda t, left, h, w: image[t : t + h, left : left + w]
    )
    monkeypatch.setattr(slide_readers, "open_pixels", lambda *_: found)
    with pytest.raises(
        ValueError, match="a.svs: .* does not say .* give mpp.*slides.csv"
    ):
        opened(tmp_path)
    table(tmp_path, "id,mpp\na,0.25\n")
    slide = opened(tmp_path)["a"]
    assert (slide.height, slide.width) == (10, 15)
    want = image.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    got = slide.region(1, 2, 8, 9).astype(float)
    assert abs(got - want[1:9, 2:11]).max() <= 0.5
    monkeypatch.setattr(
        slide_readers, "open_pixels", lambda *_: found._replace(mpp=0.5)
    )
    assert opened(tmp_path)["a"].height == 20  # the file's own word


def test_a_slide_is_not_in_training_and_test(tmp_path):
    for name in "ab":
        add(tmp_path, name, picture(8, 8))
    splits(tmp_path, train=["a"], test2=["b"])
    with pytest.raises(ValueError, match="slide b of test2 .* slide a of train"):
        opened(tmp_path)
    splits(tmp_path, train=["a"], test2=["a"])
    with pytest.raises(ValueError, match="a is in train and in test2"):
        opened(tmp_path)
    splits(tmp_path, train=["a", "b"])
    assert len(opened(tmp_path)) == 2


@pytest.mark.parametrize("name", ["test1", "validation"])
def test_synthetic_slides_are_for_training_alone(tmp_path, name):
    add(tmp_path, "a__syn0_0", picture(8, 8))
    table(tmp_path, "id,synthetic\na__syn0_0,1\n")
    splits(tmp_path, **{name: ["a__syn0_0"]})
    with pytest.raises(ValueError, match=f"a__syn0_0 is synthetic .* list '{name}'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,stian\na,PAS\n", "the columns are id,stian"),
        ("id,stain\na,PASM\n", "stain of a is 'PASM'"),
        ("id,stain\na,PAS\na,HE\n", "'a' is no id, or is there twice"),
        ("id,mpp\na,-1\n", "mpp of a is '-1'"),
        ("id,mpp\na,half\n", "mpp of a is 'half'"),
        ("id,split\nb,train\n", r"names \['b'\], of which there is no image"),
        ("id,split\na,tset\n", "a is in the list 'tset'"),
        ("id,image\na,b.png\n", "has the same id"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path, text, message):
    add(tmp_path, "a", picture(8, 8))
    table(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_splits_that_cannot_be_are_refused(tmp_path):
    add(tmp_path, "a", picture(8, 8))
    splits(tmp_path, train=["b"])
    with pytest.raises(ValueError, match="train names b, which is not there"):
        opened(tmp_path)
    for text in ("[1]", "{", '{"train": "a"}'):
        (tmp_path / "splits.json").write_text(text)
        with pytest.raises(ValueError, match="splits.json"):
            opened(tmp_path)


def test_two_images_of_one_id_are_refused(tmp_path):
    add(tmp_path, "a", picture(8, 8))
    save(tmp_path / "images" / "a.npy", picture(8, 8))
    with pytest.raises(ValueError, match="a.npy and a.png have one id"):
        opened(tmp_path)
    (tmp_path / "images" / "a.npy").unlink()
    (tmp_path / "masks" / "0").mkdir()
    with pytest.raises(ValueError, match="normal and .*0 are one class"):
        opened(tmp_path)


# Other sources -----------------------------------------------------------------------


def test_the_phantom_is_a_set_of_slides():
    form = {"slides": 2, "test_slides": 1, "height": 120, "width": 140, "scale": 0.25}
    form |= {"stain": "PAS", "test_stain": "HE", "normal": 1, "sclerosed": 1, "seed": 3}
    data = {"source": "phantom", "working_mpp": 1.0, "phantom": form}
    slides = open_slides(ConfigDict({"data": data}))
    made = {s.name: s for s in phantom_histology.phantom_slides(**form)}
    assert [(s.id, s.split, s.stain) for s in slides] == [
        ("test1_000", "test1", "HE"),
        ("train_000", "train", "PAS"),
        ("train_001", "train", "PAS"),
    ]
    for slide in slides:
        want = made[slide.id].slide
        whole = slide.region(0, 0, slide.height, slide.width)
        np.testing.assert_array_equal(whole, want.image)
        np.testing.assert_array_equal(slide.label(), want.label)
        assert slide.digest == hashlib.sha256(whole.tobytes()).hexdigest()


@pytest.mark.skipif(
    not (SAMPLES / "wsi_small").exists(), reason="the sample slide is not here"
)
def test_a_real_slide_is_reduced_to_a_micrometre(tmp_path):
    pytest.importorskip("openslide")
    path = SAMPLES / "wsi_small" / "CMU-1-Small-Region.svs"
    save(tmp_path / "masks" / "sclerosed" / "cmu.png", box(2967, 2220))
    save(tmp_path / "masks" / "normal" / "cmu.png", box(2967, 2220, (99, 99, 199, 199)))
    table(tmp_path, f"id,stain,image\ncmu,HE,{path}\n")
    (slide,) = open_folder(tmp_path, **FORM | {"max_pixels": 10_000_000})
    assert (slide.height, slide.width) == (1483, 1110)
    full = slide_readers.open_pixels(path, 10).region(1000, 400, 800, 600)
    want = full.reshape(400, 2, 300, 2, 3).mean(axis=(1, 3))
    got = slide.region(500, 200, 400, 300).astype(float)
    assert abs(got - want).max() <= 0.5
    # Half of the pixels at its edges count, and a quarter at its corners does not.
    assert slide.label()[..., 0].sum() == 51 * 51 - 4


@pytest.mark.skipif(
    not (SAMPLES / "histology_kidney_hubmap").exists(),
    reason="the samples are not here",
)
def test_real_tiles_and_masks_are_read(tmp_path):
    source = SAMPLES / "histology_kidney_hubmap"
    names = sorted(path.name for path in (source / "image").iterdir())
    for name in names:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).symlink_to(source / "image" / name)
        save(tmp_path / "masks" / "sclerosed" / name, box(256, 256))
        path = tmp_path / "masks" / "normal" / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(source / "mask" / name)
    slides = open_folder(tmp_path, **FORM)
    assert len(slides) == len(names) == 6
    for slide in slides:
        label = slide.label()
        assert slide.region(0, 0, 256, 256).shape == (256, 256, 3)
        assert not label[..., 1].any() and label[..., 0].mean() <= 0.035
    assert any(slide.label().any() for slide in slides)
