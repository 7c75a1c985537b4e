import contextlib
import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from jaxinpaint.data import images, pipeline
from jaxinpaint.data.photograph_sets import (
    find_set,
    open_set,
    split_pictures,
    split_set,
)

PLACES = {"train": 1_803_460, "validation": 36_500, "test": 328_500}
CELEBA = {"train": 162_770, "validation": 19_867, "test": 19_962}
COCO = {"train": 118_287, "validation": 5_000, "test": 40_670}
SPLITS = {"train": 4, "validation": 3, "test": 3}


def picture(at, height=218, width=178):
    rng = np.random.default_rng(at)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def builder_of(set_name, sizes, feature, pictures):
    """A data set as TFDS holds the public ones: named features, splits, versions."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = set_name
        VERSION = tfds.core.Version("2.1.0")
        code_path = None

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            other = {"attributes": {"Smiling": np.bool_}, "name": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({feature: image} | other),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            start, parts = 0, {}
            for split, count in sizes.items():
                parts[split] = self._generate_examples(range(start, start + count))
                start += count
            return parts

        def _generate_examples(self, numbers):
            for at in numbers:
                png = io.BytesIO(images.encode_png(pictures(at)))
                one = {"attributes": {"Smiling": True}, "name": str(at)}
                yield at, {feature: png} | one

    return Builder


def prepare(folder, name, sizes=SPLITS, feature="image", pictures=picture):
    made = builder_of(name, sizes, feature, pictures)(
        data_dir=str(folder), file_format="array_record"
    )
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(None):
            made.download_and_prepare(download_dir=str(folder / "downloads"))
    finally:
        tfds.enable_progress_bar()
    return made.data_path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    prepare(folder, "celeb_a")
    return folder


def split_of(name, sizes, **changes):
    settings = {
        "celeba_split": "official",
        "validation_fraction": 0.0,
        "test_fraction": 0.25,
        "limit_train": 200_000,
        "limit_test": 4000,
        "seed": 5,
    }
    return split_set(name, sizes, **settings | changes)


def ranges(sizes, *splits):
    """Positions of some splits, by the order of the dictionary."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    return set().union(*(range(starts[s], starts[s] + sizes[s]) for s in splits))


@pytest.mark.parametrize(
    "name, sizes, changes, counts, training, test",
    [
        ("places365_small", PLACES, {}, (200_000, 4000), ["train"], ["validation"]),
        ("celeb_a", CELEBA, {}, (182_637, 4000), ["train", "validation"], ["test"]),
        (
            "celeb_a",
            CELEBA,
            {"celeba_split": "random_80_20", "limit_train": 0, "limit_test": 0},
            (162_079, 40_520),
            list(CELEBA),
            list(CELEBA),
        ),
        ("coco", COCO, {}, (98_629, 4000), *[["train", "validation"]] * 2),
        (
            "coco",
            COCO,
            {"limit_test": 0},
            (98_629, 24_658),
            *[["train", "validation"]] * 2,
        ),
    ],
    ids=["places", "celeba", "celeba 80/20", "coco", "coco whole"],
)
def test_the_papers_splits(name, sizes, changes, counts, training, test):
    got = split_of(name, sizes, **changes)
    assert (len(got.training), len(got.test)) == counts and not got.validation
    assert not set(got.training) & set(got.test)
    assert set(got.training) <= ranges(sizes, *training)
    assert set(got.test) <= ranges(sizes, *test)
    assert got == split_of(name, sizes, **changes, seed=6)  # seed 0, whatever the run's
    shuffled = sizes["train"] // 2
    half = np.mean(np.array(got.training) < shuffled)
    whole = sum(sizes[s] for s in training)
    assert half == pytest.approx(shuffled / whole, abs=0.01)  # not the first ones


def test_validation_follows_training_where_there_is_room():
    none = split_of("places365_small", PLACES)
    some = split_of("places365_small", PLACES, validation_fraction=0.01)
    assert some.training == none.training and some.test == none.test
    assert len(some.validation) == 2000
    assert not set(some.validation) & {*some.training, *some.test}
    assert set(some.validation) <= ranges(PLACES, "train")
    few = split_of("celeb_a", CELEBA, validation_fraction=0.01)
    assert (len(few.training), len(few.validation)) == (182_637 - 1826, 1826)
    assert few.test == split_of("celeb_a", CELEBA).test
    limited = split_of("celeb_a", CELEBA, limit_train=50)
    assert set(limited.training) <= set(split_of("celeb_a", CELEBA).training)


def test_other_sets_keep_their_splits():
    sizes = {"test": 10, "train": 30, "validation": 5}
    got = split_of("flowers", sizes, limit_test=0, validation_fraction=0.1)
    assert set(got.test) == ranges(sizes, "test")
    assert {*got.training, *got.validation} == ranges(sizes, "train")
    assert len(got.validation) == 3
    got = split_of("flowers", {"train": 30, "validation": 5}, limit_test=0)
    assert got.test == tuple(range(30, 35))
    one = {"train": 20}
    got = split_of("flowers", one)
    assert (len(got.training), len(got.test)) == (15, 5)
    assert got != split_of("flowers", one, seed=6)


def test_one_heap():
    got = split_pictures(20, 0.1, 0.25, 0, 0, 3)
    assert sorted(got.training + got.validation + got.test) == list(range(20))
    assert [len(part) for part in got] == [13, 2, 5]
    assert list(got.test) == sorted(got.test) != list(range(15, 20))
    assert got == split_pictures(20, 0.1, 0.25, 0, 0, 3)
    assert got != split_pictures(20, 0.1, 0.25, 0, 0, 4)
    few = split_pictures(20, 0.1, 0.25, 4, 2, 3)
    assert [len(part) for part in few] == [4, 2, 2]
    assert set(few.training) <= {*got.training, *got.validation}
    assert set(few.test) <= set(got.test)
    assert [len(part) for part in split_pictures(3, 0.01, 0.01, 0, 0, 0)] == [1, 1, 1]


def test_splits_that_cannot_be():
    for arguments, words in [
        ((2, 0.1, 0.1, 0, 0), "2 picture.s.; at least 3 are needed"),
        (
            (4, 0.5, 0.5, 0, 0),
            "4 pictures less 2 for test and 2 for validation leave no",
        ),
        ((9, 0.1, 1.0, 0, 0), "1.0"),
        ((9, -0.1, 0.1, 0, 0), "-0.1"),
        ((9, 0.1, 0.1, -1, 0), "limit_train is -1"),
    ]:
        with pytest.raises(ValueError, match=words):
            split_pictures(*arguments, 0)
    with pytest.raises(ValueError, match=r"one of \['official', 'random_80_20'\], got"):
        split_of("celeb_a", CELEBA, celeba_split="80/20")
    with pytest.raises(ValueError, match=r"coco: the splits \['validation'\] are miss"):
        split_of("coco", {"train": 5, "validation": 0})


def test_pictures_come_in_order_and_bit_for_bit(home):
    found = open_set(home / "celeb_a" / "2.1.0", 40_000)
    assert found.name == "celeb_a" and found.sizes == SPLITS and found.shape is None
    for at in (0, 3, 4, 6, 7, 9):
        np.testing.assert_array_equal(found.read(at), picture(at))
    with pytest.raises(images.ImageFileError, match="record 1 of validation: 218 x 17"):
        open_set(home / "celeb_a" / "2.1.0", 38_803).read(5)


def test_names_and_folders_are_found(home, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    prepared = home / "celeb_a" / "2.1.0"
    for source in ("tfds:celeb_a", "tfds:celeb_a/2.1.0", str(prepared)):
        assert find_set(source) == prepared
    assert find_set(str(tmp_path)) is None and find_set(str(tmp_path / "no")) is None
    with pytest.raises(
        FileNotFoundError,
        match=f"`tfds build coco/2017 --data_dir={home} --file_format=array_record`",
    ):
        find_set("tfds:coco/2017")
    for wrong in ("tfds:", "tfds:../celeb_a", "tfds:/celeb_a", "tfds:celeb_a/"):
        with pytest.raises(ValueError, match="written like tfds:celeb_a"):
            find_set(wrong)
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "celeb_a" / version).mkdir(parents=True)
        (tmp_path / "celeb_a" / version / "dataset_info.json").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="'celeb_a/2.0.0'. are prepared; name one"):
        find_set("tfds:celeb_a")
    assert find_set("tfds:celeb_a/1.0.0") == tmp_path / "celeb_a" / "1.0.0"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/me/tensorflow_datasets"):
        find_set("tfds:celeb_a")


def config_of(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "channels": 3,
            "mask": {"sampler": "deepfill_box", "box": 16, "max_delta": 4},
            "data": {
                "kind": "photographs",
                "source": "tfds:celeb_a",
                "cache_dir": "",
                "max_pixels": 40_000,
                "validation_fraction": 0.1,
                "test_fraction": 0.0,
                "validation_crops": 2,
                "hflip": False,
                "threads": 2,
                "fit": "shrink",
                "celeba_split": "official",
                "limit_train": 0,
                "limit_test": 2,
                "phantom": {},
            },
            "eval": {
                "crop_size": 0,
                "crops_per_image": 1,
                "seed": 1,
                "masks": {
                    "squares": (8,),
                    "half": False,
                    "centre": (),
                    "irregular_ratios": (),
                    "stroke_width": (2, 4),
                },
            },
        }
    )
    config.lock()
    config.update_from_flattened_dict(changes)
    return config


def build(size, **changes):
    image = np.empty((3, size, size, 3))
    spec = {"image": image, "mask": image[..., :1]}
    return pipeline.build(config_of(**changes), spec, 0, 1)


def test_celeba_from_a_config_to_batches(home, monkeypatch):
    """At 178 pixels nothing is resized: rows 20 to 197 are left, bit for bit."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    data = build(178)
    want = {picture(at)[20:198].tobytes(): at for at in range(10)}
    batches = data.train(0)
    seen = {want[one.tobytes()] for _ in range(8) for one in next(batches)["image"]}
    batches.close()
    held = {want[one.tobytes()] for one in data.validation["image"]}
    assert seen | held == set(range(7)) and len(held) == 1 and not seen & held
    cases = list(data.test_cases())
    tested = [want[c.image.tobytes()] for c in cases]
    assert [c.name for c in cases] == [f"test_{t - 7:07d}_crop_00" for t in tested]
    assert len(set(tested)) == 2 and min(tested) >= 7
    assert data.summary["shape"] == [10, 178, 178, 3]
    assert data.summary["split"]["test"] == tested


def test_windows_of_the_pictures_as_they_are(home):
    """Here the size is not known without reading, and the whole height is used."""
    source = str(home / "celeb_a" / "2.1.0")
    changes = {"data.source": source, "data.fit": "crop", "eval.crop_size": 64}
    data = build(178, **changes)
    pictures = [picture(at) for at in range(7)]
    tops = {
        top
        for step in range(6)
        for one in data.batch(step)["image"]
        for whole in pictures
        for top in range(41)
        if (whole[top] == one[0]).all() and (whole[top : top + 178] == one).all()
    }
    assert len(tops) > 10 and not tops <= {20}
    assert data.summary["shape"] == [10, 64, 64, 3]
    late = build(64, **changes | {"eval.crop_size": 200})
    with pytest.raises(ValueError, match="test_00000.. is 218 x 178, but crops of 200"):
        next(late.test_cases())


def test_celeba_of_another_size_is_refused(tmp_path):
    path = prepare(tmp_path, "celeb_a", pictures=lambda at: picture(at, 178, 178))
    with pytest.raises(
        ValueError, match="is 178 x 178; the aligned pictures of CelebA"
    ):
        build(64, **{"data.source": str(path)})


def copy_of(home, folder):
    folder.mkdir()
    for file in (home / "celeb_a" / "2.1.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_damage_ends_in_one_error(home, tmp_path):
    whole = open_set(home / "celeb_a" / "2.1.0", 40_000)
    folder = copy_of(home, tmp_path / "a")
    assert open_set(folder, 40_000).digest == whole.digest
    (records,) = folder.glob("*train.array_record*")
    data = records.read_bytes()
    for damage in (data[: len(data) // 2], b"", data.replace(b"IHDR", b"XXXX")):
        records.write_bytes(damage)
        with pytest.raises(ValueError, match="a: record 0 of train"):
            open_set(folder, 40_000).read(0)
    assert open_set(folder, 40_000).digest == whole.digest  # of one length
    records.write_bytes(data + b"0")
    assert open_set(folder, 40_000).digest != whole.digest
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="no data set that TFDS prepared"):
        open_set(folder, 40_000)


def test_sets_that_serve_no_purpose_here(home, tmp_path):
    folder = copy_of(home, tmp_path / "a")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="not prepared in array_record; .*tfds build"):
        open_set(folder, 40_000)
    other = prepare(tmp_path, "words", {"train": 1}, feature="scan")
    with pytest.raises(ValueError, match="'image'; its features are .*'scan'"):
        open_set(other, 1000)


def test_grey_files_among_coloured_ones(tmp_path):
    """COCO holds grey files among the coloured ones."""

    def grey(at):
        return np.full((8, 9, 1), 10 * at, np.uint8)

    path = prepare(tmp_path, "coco", {"train": 2}, pictures=grey)
    np.testing.assert_array_equal(open_set(path, 1000).read(1), grey(1))
