import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxinpaint.data import (
    glomeruli,
    glomeruli_tiles,
    phantom_histology,
    pipeline,
    slides,
)
from jaxinpaint.data.split import hold_out
from tests.data.slide_folders import add, box, picture, save, splits, table


class Spec:
    def __init__(self, *shape):
        self.shape = shape


DRAWN = {}
CROPS = {"image": Spec(2, 64, 64, 3), "mask": Spec(2, 64, 64, 1)}
OUTLINES = {"image": Spec(2, 64, 64, 3)}
TILES = {"image": Spec(2, 64, 64, 3), "label": Spec(2, 64, 64, 2)}
SPECS = {
    "glomeruli_crops": CROPS,
    "glomeruli_outlines": OUTLINES,
    "glomeruli_tiles": TILES,
}


def config_of(tmp_path, kind, source="phantom", **changes):
    config = ConfigDict(
        {
            "seed": 3,
            "data": {
                "kind": kind,
                "source": str(source),
                "cache_dir": str(tmp_path / "cache"),
                "max_pixels": 1_000_000,
                "working_mpp": 1.0,
                "downsample_all": 0.0,
                "mask_threshold": 0,
                "crop_size": 64,
                "tile": 64,
                "tile_step": 32,
                "min_tissue": 0.05,
                "tissue_chroma": 15,
                "tissue_block": 2,
                "split_unit": "group",
                "validation_fraction": 0.2,
                "test_fraction": 0.2,
                "min_area": 25,
                "max_radius": 30,
                "max_cover": 0.6,
                "synthetic": "",
                "synthetic_percent": 0.0,
                "validation_crops": 3,
                "threads": 0,
                "phantom": {
                    "slides": 5,
                    "test_slides": 1,
                    "height": 120,
                    "width": 128,
                    "scale": 0.25,
                    "stain": "PAS",
                    "test_stain": ("PAS", "HE"),
                    "normal": 1,
                    "sclerosed": 2,
                    "seed": 1,
                },
            },
        }
    )
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    """The tests share their phantoms."""

    def draw(**settings):
        key = json.dumps(settings)
        if key not in DRAWN:
            DRAWN[key] = real(**settings)
        return DRAWN[key]

    real = phantom_histology.phantom_slides
    monkeypatch.setattr(phantom_histology, "phantom_slides", draw)


def build(config, **process):
    kind = config.data.kind
    index, count = process.get("index", 0), process.get("count", 1)
    return pipeline.build(config, SPECS[kind], index, count)


def made_from(config):
    """The phantom's slides by id."""
    return {slide.id: slide for slide in slides.open_slides(config)}


# Crops -------------------------------------------------------------------------------


def test_crops_are_windows_of_training_slides_with_their_own_holes(tmp_path):
    config = config_of(tmp_path, "glomeruli_crops")
    data, found = build(config), made_from(config)
    summary = data.summary
    assert summary["shape"] == [10, 64, 64, 3] and summary["dtype"] == "uint8"
    assert summary["crops"]["crops"] == 10 and summary["steps_per_epoch"] == 4
    groups = summary["groups"]
    assert len(groups["training"]) == 4 and len(groups["test"]) == 1
    assert not set(groups["training"]) & set(groups["test"])
    order = np.random.default_rng(3).permutation(5)
    assert groups["test"] == [f"train_{order[0]:03d}"]
    cases = list(data.test_cases())
    assert len(cases) == 2 == len(summary["split"]["test"])
    for case in cases:
        name, top, left = case.name.rsplit("_", 3)[0], *case.name.split("_")[2:4]
        assert name == groups["test"][0] and case.label == "crops"
        top, left = int(top), int(left)
        slide = found[name]
        np.testing.assert_array_equal(case.image, slide.region(top, left, 64, 64))
        want = slide.label()[top : top + 64, left : left + 64, 1:]
        np.testing.assert_array_equal(case.mask, want)
        assert case.mask.any()
    assert len({case.name for case in cases}) == 2
    windows = {
        slide.region(t, left, 64, 64).tobytes(): slide.id
        for slide in found.values()
        for t in range(57)
        for left in range(65)
    }
    seen = []
    for step in range(4):
        batch = data.batch(step)
        assert batch["image"].shape == (2, 64, 64, 3)
        assert batch["mask"].shape == (2, 64, 64, 1) and batch["mask"].dtype == np.uint8
        seen += [windows[image.tobytes()] for image in batch["image"]]
    assert sorted(seen) == sorted(2 * groups["training"])
    held = [windows[image.tobytes()] for image in data.validation["image"]]
    assert held == 3 * groups["test"] and summary["validation_from"] == "test"


@pytest.mark.parametrize("kind", SPECS)
def test_batches_are_a_function_of_seed_and_step(tmp_path, kind):
    config = config_of(tmp_path, kind)
    one, two = build(config), build(config_of(tmp_path, kind, **{"data.threads": 2}))
    halves = [build(config, index=k, count=2) for k in range(2)]
    stream = two.train(2)
    for step in (2, 3, 4, 5):
        batch, other = one.batch(step), next(stream)
        assert set(batch) == set(SPECS[kind])
        for name, array in batch.items():
            assert array.shape == SPECS[kind][name].shape and array.dtype == np.uint8
            np.testing.assert_array_equal(array, other[name])
            parts = [half.batch(step)[name] for half in halves]
            np.testing.assert_array_equal(array, np.concatenate(parts))
    stream.close()
    changed = build(config_of(tmp_path, kind, seed=4))
    assert any(
        (changed.batch(k)["image"] != one.batch(k)["image"]).any() for k in range(3)
    )
    for name, array in one.validation.items():
        assert len(array) == 3
        for half in halves:
            np.testing.assert_array_equal(half.validation[name], array)
    needed = {"kind", "source", "digest", "dtype", "shape", "split", "validation_from"}
    assert needed <= set(one.summary) and one.summary["kind"] == kind
    json.dumps(one.summary)
    assert one.summary["digest"] == two.summary["digest"]
    elsewhere = build(config_of(tmp_path, kind, **{"data.phantom.seed": 2}))
    assert elsewhere.summary["digest"] != one.summary["digest"]


def test_crops_may_be_split_one_by_one(tmp_path):
    config = config_of(tmp_path, "glomeruli_crops", **{"data.split_unit": "tile"})
    split = build(config).summary["split"]
    order = np.random.default_rng(3).permutation(10)
    assert split["test"] == sorted(order[:2].tolist())
    assert sorted(split["training"] + split["test"]) == list(range(10))


def test_without_a_test_share_all_crops_are_trained_on(tmp_path):
    config = config_of(tmp_path, "glomeruli_crops", **{"data.test_fraction": 0.0})
    data = build(config)
    assert len(data.summary["split"]["training"]) == 10
    assert data.summary["validation_from"] == "training"
    with pytest.raises(ValueError, match="no crop is held out for test"):
        next(data.test_cases())


def test_many_crops_come_from_the_cache(tmp_path, monkeypatch):
    config = config_of(tmp_path, "glomeruli_crops")
    few = build(config)
    assert not (tmp_path / "cache").exists()
    gather = glomeruli.gather_crops
    limited = lambda *given: gather(*given, limit=1000)
    monkeypatch.setattr(glomeruli, "gather_crops", limited)
    for many in (build(config), build(config)):
        for name, array in few.batch(1).items():
            np.testing.assert_array_equal(many.batch(1)[name], array)
        assert many.summary == few.summary
    (home,) = (tmp_path / "cache" / "glomeruli").iterdir()
    assert (home / "images.npy").exists()


# Masks -------------------------------------------------------------------------------


def test_outlines_are_the_masks_of_the_crops_that_are_trained_on(tmp_path):
    crops = build(config_of(tmp_path, "glomeruli_crops"))
    config = config_of(tmp_path, "glomeruli_outlines")
    data = build(config)
    assert data.summary["shape"] == [8, 64, 64, 3]
    order = [np.random.default_rng([3, 0]).permutation(8).tolist()]
    for step in range(4):
        # Both go through as many items in the same permutation.
        masks = crops.batch(step)["mask"]
        want = np.repeat(255 * masks, 3, axis=-1)
        np.testing.assert_array_equal(data.batch(step)["image"], want)
    assert sorted(order[0]) == list(range(8))
    with pytest.raises(ValueError, match="glomeruli_outlines.*no test cases"):
        next(iter(data.test_cases()))
    small = config_of(tmp_path, "glomeruli_outlines", **{"data.crop_size": 96})
    with pytest.raises(ValueError, match="crop_size is 96; pictures of 64"):
        build(small)


# Tiles -------------------------------------------------------------------------------


def test_tiles_are_split_by_group_and_show_training_slides(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles")
    data, found = build(config), made_from(config)
    groups, split = data.summary["groups"], data.summary["split"]
    assert not set(groups["training"]) & set(groups["validation"])
    assert len(groups["validation"]) == 1 and len(groups["training"]) == 4
    # Rows at 0, 32, 56 and columns at 0, 32, 64 of 5 slides.
    assert data.summary["tiles"]["kept"] == 45 == data.summary["shape"][0]
    assert len(split["training"]) == 36 and len(split["validation"]) == 9
    places = {}
    for slide in found.values():
        label = slide.label()
        for t in (0, 32, 56):
            for left in (0, 32, 64):
                image = slide.region(t, left, 64, 64)
                own = label[t : t + 64, left : left + 64]
                places[image.tobytes()] = slide.id, own
    for step in range(18):
        batch = data.batch(step)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            name, own = places.pop(image.tobytes())  # each once
            assert name in groups["training"]
            np.testing.assert_array_equal(label, own)
    for image in data.validation["image"]:
        assert places[image.tobytes()][0] in groups["validation"]
    with pytest.raises(ValueError, match="glomeruli_tiles.test_tiles"):
        data.test_cases()


@pytest.mark.parametrize("crops, rows", [(3, 3), (9, 9), (20, 9), (0, 9)])
def test_no_tile_is_validated_with_twice(tmp_path, crops, rows):
    """One of five slides is held out, and its 9 tiles differ."""
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.validation_crops": crops})
    data, found = build(config), made_from(config)
    (held,) = data.summary["groups"]["validation"]
    own = {
        found[held].region(top, left, 64, 64).tobytes()
        for top in (0, 32, 56)
        for left in (0, 32, 64)
    }
    seen = [image.tobytes() for image in data.validation["image"]]
    assert len(own) == 9 and len(seen) == rows == len(set(seen)) and set(seen) <= own
    again = build(config).validation
    np.testing.assert_array_equal(again["label"], data.validation["label"])


def test_what_pads_a_tile_is_marked_where_it_is_validated_with(tmp_path):
    for k, (height, width) in enumerate(((40, 64), (80, 50), (64, 70))):
        add(tmp_path / "own", f"s{k}", coloured(height, width, k))
    form = {"data.validation_fraction": 0.0, "data.validation_crops": 0}
    config = config_of(tmp_path, "glomeruli_tiles", tmp_path / "own", **form)
    data = build(config)
    assert set(data.batch(0)) == set(TILES)
    batch = data.validation
    assert batch["valid"].shape == (5, 64, 64, 1) and batch["valid"].dtype == np.uint8
    # Tiles beyond a slide are white; no pixel of these slides is.
    white = (batch["image"] == 255).all(axis=-1, keepdims=True)
    np.testing.assert_array_equal(batch["valid"], ~white)
    counts = sorted(batch["valid"].sum(axis=(1, 2, 3)).tolist())
    assert counts == sorted([40 * 64, 64 * 50, 64 * 50, 64 * 64, 64 * 64])


def test_tiles_to_validate_with_are_no_fewer_than_0(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.validation_crops": -1})
    with pytest.raises(ValueError, match="validation_crops is -1"):
        build(config)


def test_test_tiles_are_those_of_the_test_slides(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.tile_step": 64})
    tiles = list(glomeruli_tiles.test_tiles(config, slides.open_slides(config)))
    names = [("test1_000", "test1"), ("test2_000", "test2")]
    assert [(t.slide, t.split) for t in tiles] == [n for n in names for _ in range(4)]
    found = made_from(config)
    for tile in tiles:
        want = found[tile.slide].region(tile.top, tile.left, 64, 64)
        np.testing.assert_array_equal(tile.image, want)
        assert tile.valid.all() and tile.label.shape == (64, 64, 2)
    none = config_of(tmp_path, "glomeruli_tiles", **{"data.phantom.test_slides": 0})
    with pytest.raises(ValueError, match="no slide is in a test list"):
        next(glomeruli_tiles.test_tiles(none, slides.open_slides(none)))


def test_tiles_without_tissue_are_left_out(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.min_tissue": 0.85})
    counts = build(config).summary["tiles"]
    kept = 0
    for slide in made_from(config).values():
        for t in (0, 32, 56) if slide.split == "train" else ():
            for left in (0, 32, 64):
                image = slide.region(t, left, 64, 64)
                blocks = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
                chroma = blocks.max(axis=-1) - blocks.min(axis=-1)
                kept += (chroma > 15).mean() >= 0.85
    assert (counts["kept"], counts["without_tissue"]) == (kept, 45 - kept)
    assert 0 < kept < 45
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.min_tissue": 1.0})
    with pytest.raises(ValueError, match=r"none of 45 tiles of 5 slides .*'tissue'"):
        build(config)


# Synthetic tiles ---------------------------------------------------------------------


def coloured(height, width, seed):
    image = picture(height, width, seed) // 8
    image[..., 0] += 180
    return image


@pytest.fixture
def sets(tmp_path):
    """Originals of five patients, and synthetic slides made of four of them.

    A slide has 9 tiles at a step of 32, and all show its glomerulus; 3 tiles of a
    synthetic slide show what was generated, which is black.
    """
    root, synthetic = tmp_path / "own", tmp_path / "synthetic"
    for k in range(6):
        mask = box(128, 128, (50, 50, 78, 78))
        add(root, f"s{k}", coloured(128, 128, k), None, mask)
    table(root, "id,group\n" + "".join(f"s{k},p{k}\n" for k in range(6)))
    splits(root, train=[f"s{k}" for k in range(5)], test1=["s5"])
    rows = "id,group,split,synthetic\n"
    for k in range(4):
        name = f"s{k}__syn0_0"
        new = box(128, 128, (2, 2, 8, 70))
        image = coloured(128, 128, k)
        image[new > 0] = 0
        add(synthetic, name, image, None, box(128, 128, (50, 50, 78, 78)))
        save(synthetic / "provenance" / f"{name}.png", new)
        rows += f"{name},p{k},train,1\n"
    table(synthetic, rows)
    return root, synthetic


def with_synthetic(tmp_path, sets, percent, **changes):
    form = {"data.synthetic": str(sets[1]), "data.synthetic_percent": float(percent)}
    form["data.tile_step"] = 32
    return config_of(tmp_path, "glomeruli_tiles", sets[0], **form | changes)


def test_synthetic_tiles_join_and_a_lower_share_is_part_of_a_higher(tmp_path, sets):
    # 4 slides of training groups have 9 tiles each that show sclerosed glomeruli.
    chosen = {}
    for percent in (0, 10, 20, 25):
        data = build(with_synthetic(tmp_path, sets, percent))
        summary = data.summary
        held = summary["groups"]["validation"]
        count = int(np.floor(percent * 36 / 100 + 0.5))
        assert summary["synthetic"]["tiles"] == count
        assert summary["shape"][0] == 45 + count
        training = summary["split"]["training"]
        assert len(training) == 36 + count
        chosen[percent] = set(training[36:])
        assert all(at >= 45 for at in chosen[percent])
        assert not set(summary["split"]["validation"]) & set(training)
        assert len(held) == 1
    assert chosen[10] < chosen[20] < chosen[25]
    steps = data.summary["steps_per_epoch"]
    marks = 0
    for step in range(steps):
        for image in data.batch(step)["image"]:
            marks += bool((image == 0).all(axis=-1).any())
    assert marks in (8, 9)  # one of the 45 fills no batch


def test_the_pool_shows_generated_pixels_and_no_validation_group(tmp_path, sets):
    for seed, group, slides_of_pool in ((3, "p4", 4), (0, "p2", 3)):
        data = build(with_synthetic(tmp_path, sets, 20, seed=seed))
        assert data.summary["groups"]["validation"] == [group]
        # Tiles at row 0 and columns 0, 32, 64 see the generated rectangle.
        assert data.summary["synthetic"]["pool"] == 3 * slides_of_pool
    singly = build(with_synthetic(tmp_path, sets, 20, **{"data.split_unit": "tile"}))
    assert singly.summary["synthetic"]["pool"] == 12


def test_slides_reduced_otherwise_to_the_same_size_are_other_data(tmp_path):
    for k in range(2):
        add(tmp_path / "own", f"s{k}", coloured(131, 131, k))
    digests = set()
    for factor in (2.0, 2.01):  # 131 / 2 and 131 / 2.01 are both 65 pixels
        form = {"data.downsample_all": factor, "data.validation_fraction": 0.0}
        config = config_of(tmp_path, "glomeruli_tiles", tmp_path / "own", **form)
        assert {slide.height for slide in made_from(config).values()} == {65}
        digests.add(build(config).summary["digest"])
    assert len(digests) == 2


def test_no_synthetic_tile_is_validated_with(tmp_path, sets):
    """What was generated is black; with nothing held out, originals stand in."""
    form = {"data.validation_fraction": 0.0, "data.validation_crops": 45}
    data = build(with_synthetic(tmp_path, sets, 25, **form))
    assert data.summary["validation_from"] == "training"
    assert data.summary["synthetic"]["tiles"] == 11
    black = (data.validation["image"] == 0).all(axis=-1)
    assert len(black) == 45 and not black.any()


# Bad input, specification 9.2 --------------------------------------------------------


@pytest.mark.parametrize("percent", [-1, 100.5])
def test_a_share_outside_0_to_100_is_refused(tmp_path, sets, percent):
    with pytest.raises(ValueError, match=f"synthetic_percent is {percent}"):
        build(with_synthetic(tmp_path, sets, percent))


def test_the_number_of_synthetic_tiles_is_rounded_half_up():
    want = {(30, 5): 2, (60, 5): 3, (100, 5): 5, (50, 1): 1, (0, 9): 0, (30, 1): 0}
    for (percent, base), count in want.items():
        assert glomeruli_tiles.synthetic_count(percent, base) == count


def test_too_small_a_pool_is_said(tmp_path, sets):
    with pytest.raises(
        ValueError, match=r"100.0 % of 36 tiles .* are 36 .* synthesise more rounds"
    ):
        build(with_synthetic(tmp_path, sets, 100))


def test_a_share_needs_a_set(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.synthetic_percent": 30.0})
    with pytest.raises(ValueError, match="names no synthetic set"):
        build(config)


def change_table(folder, old, new):
    path = folder / "slides.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("s1__syn0_0,p1,train,1", "s1__syn0_0,p1,test1,1", "s1__syn0_0 .*list 'test1'"),
        ("s1__syn0_0,p1,train,1", "s1__syn0_0,p1,train,0", "s1__syn0_0.*synthetic=1"),
        ("s1__syn0_0,p1,train,1", "s1__syn0_0,p5,train,1", "'p5', which no training"),
        ("s1__syn0_0,p1,train,1", "s1__syn0_0,,train,1", "'s1__syn0_0', which no tr"),
    ],
)
def test_wrong_synthetic_slides_are_refused(tmp_path, sets, old, new, message):
    change_table(sets[1], old, new)
    with pytest.raises(ValueError, match=message):
        build(with_synthetic(tmp_path, sets, 20))


def resolutions(sets, original, synthetic):
    """Writes mpp of the originals, and of the synthetic slides, into both tables."""
    for folder, mpp in zip(sets, (original, synthetic), strict=True):
        head, *rows = (folder / "slides.csv").read_text().splitlines()
        lines = [f"{head},mpp", *(f"{row},{mpp}" for row in rows)]
        table(folder, "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "original, synthetic, changes, told",
    [
        ("", "2.0", {}, "2 um/px, .* at 1 um/px"),
        ("", "1.02", {}, ""),
        ("0.98", "1.0", {}, ""),
        ("", "1.0", {"data.working_mpp": 2.0}, "1 um/px, .* at 2 um/px"),
        ("1.0", "1.0", {"data.downsample_all": 2.0}, "1 um/px, .* at 2 um/px"),
        ("1.0", "2.0", {"data.downsample_all": 2.0}, ""),
        ("", "1.0", {"data.downsample_all": 2.0}, ""),  # nothing says what is wanted
    ],
)
def test_a_synthetic_set_of_another_resolution_is_refused(
    tmp_path, sets, original, synthetic, changes, told
):
    resolutions(sets, original, synthetic)
    config = with_synthetic(tmp_path, sets, 25, **changes)
    if told:
        with pytest.raises(ValueError, match=told):
            build(config)
    else:
        assert build(config).summary["synthetic"]["tiles"]


def test_a_test_slide_in_a_synthetic_set_is_refused(tmp_path, sets):
    root, synthetic = sets
    image = (root / "images" / "s5.png").read_bytes()
    (synthetic / "images" / "s2__syn0_0.png").write_bytes(image)
    with pytest.raises(ValueError, match="slide s5 of test1 .* slide s2__syn0_0"):
        build(with_synthetic(tmp_path, sets, 20))


def test_provenance_is_needed_and_fits(tmp_path, sets):
    path = sets[1] / "provenance" / "s1__syn0_0.png"
    both = {"data.split_unit": "tile"}  # so that no slide is left out
    Image.fromarray(box(128, 127)).save(path)
    with pytest.raises(ValueError, match="s1__syn0_0.png is 128 x 127"):
        build(with_synthetic(tmp_path, sets, 20, **both))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="s1__syn0_0"):
        build(with_synthetic(tmp_path, sets, 20, **both))


@pytest.mark.parametrize("kind", SPECS)
def test_synthetic_slides_among_the_originals_are_refused(tmp_path, sets, kind):
    change_table(sets[0], "id,group\n", "id,group,synthetic\n")
    change_table(sets[0], "s2,p2\n", "s2,p2,1\n")
    with pytest.raises(ValueError, match=r"\['s2'\] are synthetic"):
        build(config_of(tmp_path, kind, sets[0]))


@pytest.mark.parametrize(
    "kind, what", [("glomeruli_crops", "crops"), ("glomeruli_outlines", "masks")]
)
def test_fewer_crops_than_a_batch_are_said(tmp_path, kind, what):
    config = config_of(tmp_path, kind, **{"data.phantom.slides": 2})
    spec = {n: Spec(3, *s.shape[1:]) for n, s in SPECS[kind].items()}
    with pytest.raises(ValueError, match=f"2 {what}, batch 3: .*add slides"):
        pipeline.build(config, spec, 0, 1)


@pytest.mark.parametrize("kind", SPECS)
def test_nothing_to_train_on_is_said(tmp_path, sets, kind):
    splits(sets[0], test1=["s5"])
    with pytest.raises(ValueError, match="none of 6 slides is in the list 'train'"):
        build(config_of(tmp_path, kind, sets[0]))


@pytest.mark.parametrize("kind", SPECS)
def test_other_batches_than_the_kind_offers_are_refused(tmp_path, kind):
    config = config_of(tmp_path, kind)
    spec = SPECS[kind]
    with pytest.raises(ValueError, match="'neighbor'"):
        pipeline.build(config, spec | {"neighbor": Spec(2, 64, 64, 3)}, 0, 1)
    with pytest.raises(ValueError, match=r"image must be \[2, 64, 64, 3\]"):
        pipeline.build(config, spec | {"image": Spec(2, 64, 64, 1)}, 0, 1)
    with pytest.raises(ValueError, match="2 rows cannot be shared by 4"):
        pipeline.build(config, spec, 0, 4)
    with pytest.raises(ValueError, match="'flow'.* have none"):
        pipeline.build(config, spec, 0, 1, {"flow": None})


def test_sizes_of_tiles_and_pictures_are_checked(tmp_path):
    config = config_of(tmp_path, "glomeruli_tiles", **{"data.tile": 32})
    with pytest.raises(ValueError, match="config.data.tile is 32, .* 64 x 64"):
        build(config)
    config = config_of(tmp_path, "glomeruli_outlines")
    with pytest.raises(ValueError, match="pictures of 32 pixels"):
        pipeline.build(config, {"image": Spec(2, 32, 32, 3)}, 0, 1)


# Splits ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_held_out_whole_and_as_the_specification_says(seed):
    groups = [f"g{k % 7}" for k in range(30)]
    parts = hold_out(groups, "group", 0.2, seed, "validation")
    order = np.random.default_rng(seed).permutation(7)
    assert parts.held_groups == [f"g{order[0]}"]  # round(0.2 * 7) is 1
    assert sorted(parts.kept + parts.held) == list(range(30))
    assert {groups[at] for at in parts.held} == set(parts.held_groups)
    assert {groups[at] for at in parts.kept} == set(parts.kept_groups)
    assert not set(parts.kept_groups) & set(parts.held_groups)


def test_shares_of_a_split():
    many = [str(k) for k in range(20)]
    assert len(hold_out(many, "group", 0.2, 0, "test").held) == 4
    assert len(hold_out(many, "tile", 0.01, 0, "test").held) == 1
    assert hold_out(many, "tile", 0.0, 0, "test").held == ()
    with pytest.raises(ValueError, match=r"1 group\(s\) less 1 for test leave none"):
        hold_out(["a", "a"], "group", 0.2, 0, "test")
    with pytest.raises(ValueError, match="test_fraction is 1.0"):
        hold_out(many, "tile", 1.0, 0, "test")
    with pytest.raises(ValueError, match="split_unit is 'slide'"):
        hold_out(many, "slide", 0.2, 0, "test")
