"""`jaxinpaint prepare glomeruli`: layouts, splits, resolution, counts, bad input."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from jaxinpaint import cli
from jaxinpaint.data import prepared_slides, slide_readers
from jaxinpaint.data.glomeruli_import import DEFAULT_SPLIT
from tests.data.slide_folders import add, box, picture, save, splits, table
from tests.data.test_outlines import feature, square
from tests.data.test_slides import opened

SIDE = 260
SAMPLES = pathlib.Path(__file__).parents[3] / "shared" / "data"
BLACK = np.zeros((SIDE, SIDE), np.uint8)


@pytest.fixture
def run(capsys, tmp_path):
    def run(source, *words, output="out"):
        given = ["--input", source, "--output", tmp_path / output, *words]
        code = cli.main(["prepare", "glomeruli", *map(str, given)])
        return code, *capsys.readouterr()

    return run


def report_of(tmp_path, output="out"):
    return json.loads((tmp_path / output / "report.json").read_text())


def rows_of(folder):
    with open(folder / "slides.csv", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def disc(cy, cx, radius, side=SIDE):
    y, x = np.mgrid[:side, :side]
    return ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2).astype(np.uint8) * 255


def whole_slide(path, image):
    """A tiled file of 0.5 um a pixel, as OpenSlide reads it and tifffile does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        image,
        tile=(64, 64),
        photometric="rgb",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    return path


def geojson(path, *features):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(features)))


# What is written ---------------------------------------------------------------------


def test_slides_are_written_at_working_resolution_with_their_tables(run, tmp_path):
    source, images = (
        tmp_path / "in",
        [picture(2 * SIDE + 1, 2 * SIDE, k) for k in (0, 1)],
    )
    normal = box(2 * SIDE + 1, 2 * SIDE, (100, 100, 141, 140), (0, 0, 6, 6))
    sclerosed = np.pad(disc(300, 300, 40, 2 * SIDE), ((0, 1), (0, 0)))
    add(source, "a", images[0], normal, sclerosed)
    add(source, "b", images[1], suffix=".tif")
    add(source, "c", picture(SIDE, SIDE, 2))
    table(
        source,
        "id,stain,mpp,group\na,PAS,0.499,p1\nb,HE,0.5,p2\nc,,,\n",
    )
    splits(source, train=["a", "c"], test1=["b"])
    (source / "positions.csv").write_text("id,x,y\nc,128,128\n")
    for name in ("notes.txt", ".hidden", "images/d.jpg", "images/.DS_Store"):
        (source / name).write_text("mine")
    code, out, _ = run(source)
    assert code == 0 and "Passed over: images/d.jpg, notes.txt\n" in out
    root = tmp_path / "out"
    rows = rows_of(root)
    assert [r["mpp"] for r in rows.values()] == ["0.998", "1.0", "1.0"]
    assert [r["reduced"] for r in rows.values()] == ["2.0", "2.0", "1.0"]
    assert [r["group"] for r in rows.values()] == ["p1", "p2", "c"]
    assert json.loads((root / "splits.json").read_text()) == {
        "test1": ["b"],
        "train": ["a", "c"],
    }
    for name, image in zip("ab", images, strict=True):
        blocks = (
            image[: 2 * SIDE].reshape(SIDE, 2, SIDE, 2, 3).sum(axis=(1, 3), dtype=int)
        )
        want = np.floor(blocks / 4 + 0.5)
        np.testing.assert_array_equal(pixels_of(root / f"images/{name}.png"), want)
    for folder, mask in (("normal", normal), ("sclerosed", sclerosed)):
        halves = (mask[: 2 * SIDE] > 0).reshape(SIDE, 2, SIDE, 2).sum(axis=(1, 3))
        want = np.where(halves >= 2, 255, 0)
        got = pixels_of(root / f"masks/{folder}/a.png")
        assert got.dtype == np.uint8 and got.ndim == 2
        np.testing.assert_array_equal(got, want)
    assert not pixels_of(root / "masks/normal/b.png").any()
    positions = (root / "positions.csv").read_bytes()
    assert positions == (source / "positions.csv").read_bytes()

    report = report_of(tmp_path)
    numbers, _ = ndimage.label(pixels_of(root / "masks/normal/a.png"))
    assert sorted(np.bincount(numbers.ravel())[1:]) == [9, 21 * 20]
    assert report["slides"]["a"]["glomeruli"] == {"normal": 2, "sclerosed": 1}
    assert report["small"] == {"normal": 1, "sclerosed": 0}
    assert report["crops"]["train"] == {"slides": 2, "crops": 1, "rejected": {}}
    assert report["glomeruli"] == {"normal": 2, "sclerosed": 1}
    assert "glomeruli: 2 normal (1 below 400 px), 1 sclerosed (0 below 400 px)" in out
    assert "['c']; they count as being at 1 um/px" in out
    code, out, _ = run(source)
    assert code == 0 and "nothing was done" in out


def test_components_that_give_no_crop_are_counted_by_reason(run, tmp_path):
    sclerosed = np.zeros((600, 600), np.uint8)
    sclerosed[10:29, 10:30] = 255  # 380 px
    sclerosed[300:310, 100:360] = 255  # radius 130
    sclerosed[400:440, 40:80] = 255
    add(tmp_path / "in", "a", picture(600, 600), None, sclerosed)
    sclerosed = np.zeros((300, 300), np.uint8)
    sclerosed[60:229, 60:229] = 255  # radius 118.8, and 0.4358 of the window
    sclerosed[230:300, :] = 255  # and with this 0.604; radius 153
    add(tmp_path / "in", "b", picture(300, 300), None, sclerosed)
    code, out, _ = run(tmp_path / "in")
    assert code == 0
    slides = report_of(tmp_path)["slides"]
    assert slides["a"]["crops_rejected"] == {"area": 1, "radius": 1}
    assert slides["a"]["crops"] == 1 and slides["b"]["crops"] == 0
    assert slides["b"]["crops_rejected"] == {"cover": 1, "radius": 1}
    assert report_of(tmp_path)["crops"]["train"]["crops"] == 1
    assert "train: 2 slides, 1 crops" in out


def test_a_whole_slide_is_read_once_and_reduced(run, tmp_path):
    pytest.importorskip("openslide")
    image = picture(2 * SIDE, 2 * SIDE)
    whole_slide(tmp_path / "in/images/w.svs", image)
    ring = square(100, 120, 180, 200)
    geojson(tmp_path / "in/annotations/w.geojson", feature("Sclerosed", [ring]))
    assert run(tmp_path / "in")[0] == 0
    row = rows_of(tmp_path / "out")["w"]
    assert (row["mpp"], row["reduced"]) == ("1.0", "2.0")
    blocks = image.reshape(SIDE, 2, SIDE, 2, 3).sum(axis=(1, 3), dtype=int)
    got = pixels_of(tmp_path / "out/images/w.png")
    np.testing.assert_array_equal(got, np.floor(blocks / 4 + 0.5))
    want = np.zeros((SIDE, SIDE))
    want[60:100, 50:90] = 255
    np.testing.assert_array_equal(
        pixels_of(tmp_path / "out/masks/sclerosed/w.png"), want
    )


def test_a_large_whole_slide_stays_where_it_is(run, tmp_path, monkeypatch):
    pytest.importorskip("openslide")
    monkeypatch.setattr(prepared_slides, "LARGEST", SIDE * SIDE - 1)
    file = whole_slide(tmp_path / "in/images/w.svs", picture(2 * SIDE, 2 * SIDE))
    ring = square(100, 120, 180, 200)
    geojson(tmp_path / "in/annotations/w.geojson", feature("Sclerosed", [ring]))
    code, out, _ = run(tmp_path / "in")
    assert code == 0 and "must stay where they are" in out
    row = rows_of(tmp_path / "out")["w"]
    assert row["image"] == str(file) and row["reduced"] == "1.0"
    assert not (tmp_path / "out/images/w.png").exists()
    want, got = opened(tmp_path / "in")["w"], opened(tmp_path / "out")["w"]
    assert (got.height, got.width) == (SIDE, SIDE)
    np.testing.assert_array_equal(got.region(3, 5, 50, 60), want.region(3, 5, 50, 60))
    np.testing.assert_array_equal(got.label(), want.label())


# Nothing is reduced twice ------------------------------------------------------------


@pytest.mark.parametrize("prepared", [0, 2])
@pytest.mark.parametrize("later", [0, 2])
def test_a_run_on_the_output_reduces_nothing_twice(run, tmp_path, prepared, later):
    """However the output was made, it opens as the input would have."""
    source, size = tmp_path / "in", (2 * SIDE, 4 * SIDE)
    for k, name in enumerate(("half", "unknown")):
        add(source, name, picture(*size, k), None, disc(9, 9, 4, 4 * SIDE)[: size[0]])
    table(source, "id,mpp\nhalf,0.5\n")
    code, out, _ = run(source, "--downsample-all", prepared)
    assert code == 0 and (" --config.data.downsample_all=2\n" in out) == bool(prepared)
    want = opened(source, downsample_all=prepared or later)
    got = opened(tmp_path / "out", downsample_all=later)
    for name, slide in got.items():
        assert (slide.height, slide.width) == (want[name].height, want[name].width)
        whole = (0, 0, slide.height, slide.width)
        np.testing.assert_array_equal(slide.region(*whole), want[name].region(*whole))
        np.testing.assert_array_equal(slide.label(), want[name].label())


def test_a_slide_is_never_enlarged_again(run, tmp_path):
    add(tmp_path / "in", "a", picture(2 * SIDE, 2 * SIDE))
    table(tmp_path / "in", "id,mpp\na,1.0\n")
    assert run(tmp_path / "in", "--downsample-all", 2)[0] == 0
    assert rows_of(tmp_path / "out")["a"]["mpp"] == "2.0"
    with pytest.raises(ValueError, match="set config.data.downsample_all to 2"):
        opened(tmp_path / "out")
    assert opened(tmp_path / "out", downsample_all=2)["a"].height == SIDE
    assert opened(tmp_path / "out", downsample_all=4)["a"].height == SIDE // 2
    table(tmp_path / "out", "id,reduced\na,none\n")
    with pytest.raises(ValueError, match="reduced of a is 'none'; it is a factor"):
        opened(tmp_path / "out")


# Public sets -------------------------------------------------------------------------


def test_aidpath_pairs_by_stem_and_splits_by_file_name(run, tmp_path):
    pytest.importorskip("openslide")
    source = tmp_path / "in"
    names = [f"slide {k:02d}" for k in range(31)]
    for k, name in enumerate(names):
        image = picture(2 * SIDE, 2 * SIDE, k)
        whole_slide(source / "DATASET_A_DIB" / f"{name}.svs", image)
        ring = square(100, 120, 180, 200)
        if k != 4:  # as QuPath may call it, or plainly
            ending = ".svs.geojson" if k % 2 else ".geojson"
            geojson(source / f"drawn/{name}{ending}", feature("SG", [ring]))
    geojson(source / "drawn/other.geojson", feature("SG", [square(1, 1, 5, 5)]))
    for folder in ("Normal", "sclerosed"):
        save(source / f"DATASET_B_DIB/{folder}/1.png", picture(30, 30))
    (source / "README.txt").write_text("CC BY 4.0")
    code, out, _ = run(source, "--layout", "aidpath")
    assert code == 1
    assert "Not paired, 1 images: slide 04\n" in out
    assert "Not paired, 1 annotations: other" in out and DEFAULT_SPLIT in out
    assert "2 pictures of single glomeruli" in out and "1 .txt" in out
    lists = json.loads((tmp_path / "out/splits.json").read_text())
    assert lists["test1"] == names[25:]
    assert lists["train"] == [n for n in names[:25] if n != "slide 04"]
    report = report_of(tmp_path)
    assert DEFAULT_SPLIT in report["notes"]
    assert report["unpaired"] == {"images": ["slide 04"], "annotations": ["other"]}
    assert {row["stain"] for row in rows_of(tmp_path / "out").values()} == {"PAS"}
    assert report["glomeruli"] == {"normal": 0, "sclerosed": 30}


def test_aidpath_without_outlines_says_that_there_are_none(run, tmp_path):
    whole_slide(tmp_path / "in/DATASET_A_DIB/a.svs", picture(64, 64))
    code, out, err = run(tmp_path / "in", "--layout", "aidpath")
    assert code == 2 and out == "" and not (tmp_path / "out").exists()
    assert "Images alone: ['a']" in err and "public set has no outlines" in err


@pytest.mark.parametrize("count, want", [(25, 5), (10, 2), (2, 1), (1, 0)])
def test_zenodo_splits_by_stain(run, tmp_path, monkeypatch, count, want):
    monkeypatch.setattr(
        prepared_slides, "RULES", prepared_slides.RULES._replace(size=16)
    )
    source = tmp_path / "in"
    for k in range(count + 3):
        stain = "PAS" if k < count else "H&E"
        save(source / f"rois/{stain} stain/r{k:02d}.jpg.png", picture(20, 20, k))
        for kind in ("ng", "GS"):
            save(
                source / f"rois/{stain} stain/{kind}/r{k:02d}.jpg_mask.png", box(20, 20)
            )
    code, out, _ = run(source, "--layout", "zenodo")
    assert code == 0 and out.count(DEFAULT_SPLIT) == 1 and "No groups are given" in out
    lists = json.loads((tmp_path / "out/splits.json").read_text())
    names = [f"r{k:02d}.jpg" for k in range(count + 3)]
    assert lists["train"] == names[: count - want]
    assert lists.get("test2", []) == names[count - want : count]
    assert lists["test3"] == names[count:]


def toy_regions(source, names, stain="PAS"):
    """Regions with a box of each class; returns their images."""
    found = {}
    for k, name in enumerate(names):
        found[name] = picture(SIDE, SIDE, k)
        save(source / stain / f"{name}.png", found[name])
        both = box(SIDE, SIDE, (10, 10, 40, 40)), box(SIDE, SIDE, (100, 60, 130, 90))
        for kind, mask in zip(("normal", "sclerosed"), both, strict=True):
            save(source / kind / f"{name}_mask.png", mask)
    return found


def test_tables_beside_a_public_set_decide(run, tmp_path):
    source = tmp_path / "in"
    images = toy_regions(source, "abcd", stain="unknown")
    code, _, err = run(source, "--layout", "zenodo")
    assert code == 2 and "nothing tells the stain of ['a', 'b', 'c', 'd']" in err
    table(source, "id,stain,group\na,PAS,p\nb,PAS,q\nc,PAS,q\nd,HE,\n")
    code, out, _ = run(source, "--layout", "zenodo")
    assert code == 0 and DEFAULT_SPLIT in out and "No groups" not in out
    lists = json.loads((tmp_path / "out/splits.json").read_text())
    assert lists == {"train": ["a"], "test2": ["b", "c"], "test3": ["d"]}
    splits(source, train=["b"], test1=["a"])
    code, out, _ = run(source, "--layout", "zenodo", "--mpp", 0.98, output="own")
    assert code == 0 and DEFAULT_SPLIT not in out
    rows = rows_of(tmp_path / "own")
    assert [r["split"] for r in rows.values()] == ["test1", "train", "", ""]
    assert {r["mpp"] for r in rows.values()} == {"0.98"}
    for name, image in images.items():
        np.testing.assert_array_equal(
            pixels_of(tmp_path / f"own/images/{name}.png"), image
        )
        want = box(SIDE, SIDE, (100, 60, 130, 90))
        got = pixels_of(tmp_path / f"own/masks/sclerosed/{name}.png")
        np.testing.assert_array_equal(got, want)
    table(source, "id,stain\nz,PAS\n")
    code, _, err = run(source, "--layout", "zenodo", output="z")
    assert code == 2 and "names ['z'], of which there is no image" in err


def test_what_cannot_be_told_apart_is_left_out_by_name(run, tmp_path):
    source = tmp_path / "in"
    toy_regions(source, ["good", "twice", "both", "half"])
    save(source / "PAS/more/twice.tif", picture(SIDE, SIDE))
    geojson(source / "x/both.geojson")
    (source / "sclerosed/half_mask.png").unlink()
    save(source / "grey/stray.png", box(SIDE, SIDE))
    code, out, _ = run(source, "--layout", "zenodo")
    assert code == 1
    report = report_of(tmp_path)
    assert list(report["slides"]) == ["good"]
    assert list(report["rejected"]) == ["both", "twice"]
    assert "has masks and outlines" in report["rejected"]["both"]
    assert "2 images have this stem" in report["rejected"]["twice"]
    assert report["unpaired"] == {
        "images": ["half (no mask of sclerosed)"],
        "annotations": ["grey/stray.png (grey; no class in its name)"],
    }
    for name in ("both", "twice"):
        assert f"Rejected: {name}: " in out


def test_ten_of_each_side_are_listed(run, tmp_path):
    source = tmp_path / "in"
    toy_regions(source, ["good"])
    for k in range(12):
        save(source / f"PAS/lone_{k:02d}.png", picture(8, 8))
        geojson(source / f"x/orphan_{k:02d}.geojson")
    code, out, _ = run(source, "--layout", "zenodo")
    assert code == 1 and "Not paired, 12 images: lone_00" in out
    assert "lone_09" in out and "lone_10" not in out and "and 2 more" in out
    assert "orphan_09" in out and "orphan_10" not in out
    assert len(report_of(tmp_path)["unpaired"]["images"]) == 12


# Bad input, specification 9.2 --------------------------------------------------------


def own(tmp_path, name="good"):
    source = tmp_path / "in"
    add(source, name, picture(SIDE, SIDE), None, disc(100, 100, 20))
    return source


def grey(source):
    save(source / "images/bad.png", picture(SIDE, SIDE)[..., 0])


def transparent(source):
    save(source / "images/bad.png", np.zeros((SIDE, SIDE, 4), np.uint8))


def deep(source):
    save(source / "images/bad.png", np.zeros((SIDE, SIDE), np.uint16))


def other_size(source):
    save(source / "masks/normal/bad.png", box(SIDE, SIDE - 1))


def soft(source):
    save(source / "masks/normal/bad.png", BLACK + np.uint8(7))


def full(source):
    save(source / "masks/normal/bad.png", BLACK + np.uint8(255))


def overlapping(source):
    for kind in ("normal", "sclerosed"):
        save(source / f"masks/{kind}/bad.png", disc(50, 50, 20))


def truncated(source):
    path = source / "images/bad.png"
    path.write_bytes(path.read_bytes()[:9000])


def small(source):
    add(source, "bad", picture(255, SIDE))


def unknown_class(source):
    for kind in ("normal", "sclerosed"):
        (source / f"masks/{kind}/bad.png").unlink()
    geojson(source / "annotations/bad.geojson", feature("Tubule", [square(1, 1, 5, 5)]))


def no_resolution(source):
    (source / "images/bad.png").unlink()
    tiles = {"tile": (64, 64), "photometric": "rgb"}
    tifffile.imwrite(source / "images/bad.svs", picture(SIDE, SIDE), **tiles)


BAD = {
    grey: r"bad.png: expected 8-bit RGB, found shape \(260, 260, 1\) uint8",
    transparent: r"bad.png: expected 8-bit RGB, found shape \(260, 260, 4\) uint8",
    deep: r"bad.png: expected 8-bit RGB, found shape \(260, 260, 1\) uint16",
    other_size: "normal/bad.png is 260 x 259, image .* is 260 x 260",
    soft: r"found \[7\]. Set config.data.mask_threshold",
    full: "normal/bad.png: the mask covers the whole image; is it inverted",
    overlapping: "1257 pixels, within rows 30 to 70 and columns 30 to 70",
    truncated: "bad.png: cannot be read",
    small: "slide bad is 255 x 260 at working resolution",
    unknown_class: r"bad.geojson: unknown classes \['Tubule'\]",
    no_resolution: "bad.svs: the file does not say its resolution; give mpp",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_slide_that_cannot_be_used_is_left_out_by_name(run, tmp_path, spoil):
    source = own(tmp_path)
    add(source, "bad", picture(SIDE, SIDE, 1))
    spoil(source)
    code, out, _ = run(source)
    assert code == 1 and "Rejected: bad: " in out
    report = report_of(tmp_path)
    (reason,) = report["rejected"].values()
    assert re.search(BAD[spoil], reason), reason
    written = {p.stem for p in (tmp_path / "out").rglob("*.png")}
    assert written == {"good"} and list(rows_of(tmp_path / "out")) == ["good"]

    (source / "images/good.png").unlink()
    for kind in ("normal", "sclerosed"):
        (source / f"masks/{kind}/good.png").unlink()
    code, out, err = run(source, output="none")
    assert code == 2 and "none of 1 slides can be used" in err and out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_soft_masks_are_taken_with_a_threshold(run, tmp_path):
    source = own(tmp_path)
    save(source / "masks/sclerosed/good.png", disc(100, 100, 20) // 2)
    assert run(source, "--mask-threshold", 100)[0] == 0
    got = pixels_of(tmp_path / "out/masks/sclerosed/good.png")
    np.testing.assert_array_equal(got, disc(100, 100, 20))


def test_an_opaque_alpha_channel_is_dropped_with_a_note(run, tmp_path):
    source = own(tmp_path)
    image = pixels_of(source / "images/good.png")
    opaque = np.full((SIDE, SIDE, 1), 255, np.uint8)
    save(source / "images/good.png", np.concatenate([image, opaque], axis=-1))
    code, out, _ = run(source)
    assert code == 0 and "alpha channel is opaque everywhere and is dropped" in out
    np.testing.assert_array_equal(pixels_of(tmp_path / "out/images/good.png"), image)


def refused(run, tmp_path, source, *messages):
    code, out, err = run(source)
    assert code == 2 and out == ""
    for message in messages:
        assert message in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_its_partners_is_refused(run, tmp_path):
    source = own(tmp_path)
    for k in range(12):
        save(source / f"images/lone_{k:02d}.png", picture(8, 8))
        save(source / f"masks/normal/orphan_{k:02d}.png", box(8, 8))
    messages = ("'lone_09', '... and 2 more'", "'orphan_09', '... and 2 more'")
    refused(run, tmp_path, source, *messages)


def test_an_empty_folder_is_refused_with_what_was_looked_for(run, tmp_path):
    (tmp_path / "in").mkdir()
    refused(run, tmp_path, tmp_path / "in", "no slide found; looked for images/*{.png,")
    code, _, err = run(tmp_path / "in", "--layout", "zenodo")
    assert code == 2 and "pictures in colour, *{.png," in err


def test_one_image_for_training_and_for_test_is_refused(run, tmp_path):
    source = own(tmp_path)
    image = source / "images/good.png"
    add(source, "copy", picture(8, 8))
    (source / "images/copy.png").write_bytes(image.read_bytes())
    save(source / "masks/normal/copy.png", BLACK)
    save(source / "masks/sclerosed/copy.png", BLACK)
    splits(source, train=["good"], test1=["copy"])
    refused(
        run, tmp_path, source, "slide copy of test1 is the same image as slide good"
    )


def test_a_synthetic_slide_is_for_training_alone(run, tmp_path):
    source = own(tmp_path)
    table(source, "id,synthetic,split\ngood,1,test1\n")
    refused(run, tmp_path, source, "good is synthetic and in the list 'test1'")
    table(source, "id,synthetic,split\ngood,1,train\n")
    assert (
        run(source, "--downsample-all", 2)[0] == 0
    )  # they are made at that resolution
    row = rows_of(tmp_path / "out")["good"]
    assert (row["synthetic"], row["reduced"], row["mpp"]) == ("1", "1.0", "1.0")
    assert opened(tmp_path / "out", downsample_all=2)["good"].height == SIDE


def test_without_anything_sclerosed_it_says_so(run, tmp_path):
    source = own(tmp_path)
    save(source / "masks/sclerosed/good.png", BLACK)
    code, out, _ = run(source)
    assert code == 0 and "no sclerosed glomerulus of at least 400 px" in out


def test_a_whole_slide_without_a_reader_names_the_extra(run, tmp_path, monkeypatch):
    def missing(path):
        raise ImportError(f"{path}: {slide_readers.EXTRA}")

    source = own(tmp_path)
    add(source, "bad", picture(SIDE, SIDE))
    no_resolution(source)
    monkeypatch.setattr(slide_readers, "_open_whole", missing)
    refused(run, tmp_path, source, "jaxinpaint[slide]", "openslide-bin")


def test_numbers_that_cannot_be(run, tmp_path):
    source = own(tmp_path)
    for words in (
        ("--working-mpp", 0),
        ("--downsample-all", -1),
        ("--mask-threshold", 256),
        ("--layout", "zenodo", "--mpp", 0),
    ):
        code, _, err = run(source, *words)
        assert code == 2 and words[-2] in err
    assert not (tmp_path / "out").exists()


# Real files --------------------------------------------------------------------------


def test_a_real_whole_slide(run, tmp_path):
    pytest.importorskip("openslide")
    sample = SAMPLES / "wsi_small" / "CMU-1-Small-Region.svs"
    if not sample.exists():
        pytest.skip("the sample data are not here")
    source = tmp_path / "in" / "DATASET_A_DIB" / sample.name
    source.parent.mkdir(parents=True)
    source.write_bytes(sample.read_bytes())
    ring = square(400, 600, 560, 760)
    geojson(tmp_path / f"in/{sample.name}.geojson", feature("GS", [ring]))
    code, out, _ = run(tmp_path / "in", "--layout", "aidpath")
    assert code == 0
    row = rows_of(tmp_path / "out")[sample.stem]
    assert (row["mpp"], row["reduced"], row["split"]) == ("0.998", "2.0", "train")
    assert pixels_of(tmp_path / f"out/images/{sample.stem}.png").shape == (
        1483,
        1110,
        3,
    )
    mask = pixels_of(tmp_path / f"out/masks/sclerosed/{sample.stem}.png") > 0
    assert mask.sum() == 80 * 80 and mask[300:380, 200:280].all()
