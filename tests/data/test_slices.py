import json
import pathlib

import nibabel
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import phantom_mr, pipeline, slices
from jaxinpaint.data.builders import slices as builder

SAMPLES = pathlib.Path(__file__).parents[3] / "shared" / "data"
SIZE = 16


class Spec:
    def __init__(self, *shape):
        self.shape = shape


SPEC = {"image": Spec(4, SIZE, SIZE, 1), "mask": Spec(4, SIZE, SIZE, 1)}


def config_of(tmp_path, source="phantom", **changes):
    config = ConfigDict(
        {
            "seed": 3,
            "channels": 1,
            "mask": {"sampler": "square", "side": 5},
            "data": {
                "kind": "slices",
                "source": str(source),
                "cache_dir": str(tmp_path / "cache"),
                "max_pixels": 1_000_000,
                "axis": 2,
                "percentile": 99.5,
                "bits": 16,
                "lesion_free": False,
                "validation_fraction": 0.25,
                "test_fraction": 0.25,
                "test_subjects": (),
                "validation_crops": 3,
                "threads": 0,
                "hflip": False,
                "phantom": {
                    "subjects": 8,
                    "slices": 3,
                    "height": 24,
                    "width": 24,
                    "seed": 1,
                },
            },
            "eval": {
                "seed": 1,
                "crop_size": 0,
                "crops_per_image": 1,
                "masks": {
                    "squares": (4,),
                    "half": False,
                    "centre": (),
                    "irregular_ratios": (),
                    "stroke_width": (4, 9),
                },
            },
        }
    )
    config.update_from_flattened_dict(changes)
    return config


def build(config):
    return pipeline.build(config, SPEC, 0, 1)


def test_eight_bits_are_the_nearest_levels(tmp_path):
    config = config_of(tmp_path)
    fine, coarse = build(config), build(config_of(tmp_path, **{"data.bits": 8}))
    for step in (0, 3):
        want, got = fine.batch(step), coarse.batch(step)
        assert got["image"].dtype == np.uint8
        np.testing.assert_array_equal(
            got["image"], np.rint(want["image"].astype(float) / 65535 * 255)
        )
        np.testing.assert_array_equal(got["mask"], want["mask"])
    assert coarse.summary["dtype"] == "uint8"
    with pytest.raises(ValueError, match="config.data.bits is 12; it is 8 or 16"):
        build(config_of(tmp_path, **{"data.bits": 12}))


def subjects(data, part):
    return data.summary["subjects"][part]


def test_a_phantom_gives_batches_and_cases_of_its_own_scale(tmp_path):
    config = config_of(tmp_path)
    data = build(config)
    batch = data.batch(5)
    assert batch["image"].shape == (4, SIZE, SIZE, 1)
    assert batch["image"].dtype == np.uint16
    np.testing.assert_array_equal(batch["image"], build(config).batch(5)["image"])
    assert batch["mask"].sum(axis=(1, 2, 3)).tolist() == [25] * 4
    assert len(data.validation["image"]) == 3
    parts = [subjects(data, part) for part in ("training", "validation", "test")]
    assert [len(part) for part in parts] == [4, 2, 2]  # 8; 6 are left, of which 1.5
    assert sorted(sum(parts, [])) == [f"head_{k:03d}" for k in range(8)]
    split = data.summary["split"]
    assert [len(split[p]) for p in ("training", "validation", "test")] == [12, 6, 6]
    for part in split:  # whole heads
        of = sorted({position // 3 for position in split[part]})
        assert [f"head_{k:03d}" for k in of] == subjects(data, part)
    heads = phantom_mr.heads(**config.data.phantom.to_dict())
    cases = list(data.test_cases())
    assert [case.name for case in cases] == [
        f"{s}_slice_00{k}_crop_00" for s in subjects(data, "test") for k in range(3)
    ]
    for case in cases:
        _, subject, _, k, *_ = case.name.split("_")
        own = heads[int(subject)]
        top = np.percentile(own[own > 0], 99.5)
        assert data.summary["scales"][f"head_{subject}"] == top
        plane = own[int(k)][4:20, 4:20]  # the middle 16 of 24
        want = np.minimum(plane, top) / top
        assert abs(case.image[..., 0] / 65535 - want).max() <= 0.5001 / 65535
        np.testing.assert_array_equal(case.image[..., 0] == 0, plane == 0)
    assert data.summary["kind"] == "slices" and data.summary["dtype"] == "uint16"
    assert data.summary["shape"] == [24, SIZE, SIZE, 1]
    json.dumps(data.summary)


def test_background_and_top_reach_the_ends_on_the_device(tmp_path):
    from jaxinpaint.core.levels import from_levels

    image = np.asarray(from_levels(build(config_of(tmp_path)).batch(0)["image"]))
    assert image.min() == -1.0 and image.max() == 1.0


def test_named_test_subjects(tmp_path):
    chosen = ("head_002", "head_005")
    data = build(config_of(tmp_path, **{"data.test_subjects": chosen}))
    assert subjects(data, "test") == list(chosen)
    with pytest.raises(ValueError, match=r"test_subjects names \['head_9'\]"):
        build(config_of(tmp_path, **{"data.test_subjects": ("head_9", "head_001")}))


def test_the_seed_splits(tmp_path):
    one, two = (
        build(config_of(tmp_path, seed=seed)).summary["subjects"] for seed in (3, 4)
    )
    assert one != two


@pytest.fixture
def manifest(tmp_path):
    """Slices of 14 x 20 and 18 x 16, of scales that differ by subject."""
    rng = np.random.default_rng(0)
    rows = ["subject_id,path,split"]
    for subject, gain, split in (
        ("a", 1, "train"),
        ("b", 9, "test"),
        ("c", 3, "train"),
    ):
        (tmp_path / subject).mkdir()
        for k in range(2):
            shape = (14, 20) if k else (18, 16, 1)
            plane = rng.random(shape).astype(np.float32) * gain + 0.01
            plane[:7] = 0
            np.save(tmp_path / subject / f"{k}.npy", plane)
            rows.append(f"{subject},{subject}/{k}.npy,{split}")
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(rows))
    return path


def test_a_manifest_of_slices(tmp_path, manifest):
    data = build(config_of(tmp_path, manifest))
    assert subjects(data, "test") == ["b"]
    assert sorted(subjects(data, "training") + subjects(data, "validation")) == [
        *("a", "c")
    ]
    cases = list(data.test_cases())
    assert [case.name for case in cases] == ["b_0_crop_00", "b_1_crop_00"]
    own = [np.load(tmp_path / "b" / f"{k}.npy").squeeze() for k in range(2)]
    top = np.percentile(np.concatenate([p[p > 0] for p in own]).astype(float), 99.5)
    assert data.summary["scales"]["b"] == pytest.approx(top, rel=1e-12)
    first = np.minimum(own[0][1:17] / top, 1)  # 18 rows: the middle 16
    second = np.pad(np.minimum(own[1][:, 2:18] / top, 1), ((1, 1), (0, 0)))
    for case, want in zip(cases, (first, second), strict=True):
        assert abs(case.image[..., 0] / 65535 - want).max() < 1e-5
    # From the cache, without a look into the slices.
    again = slices.open_series(config_of(tmp_path, manifest).data, SIZE)
    assert again.digest == data.summary["digest"]
    assert again.parts == ["train"] * 2 + ["test"] * 2 + ["train"] * 2
    assert len(list((tmp_path / "cache" / "slices").iterdir())) == 1
    other = slices.open_series(
        config_of(tmp_path, manifest, **{"data.percentile": 50.0}).data, SIZE
    )
    assert other.digest != again.digest and other.tops["a"] < again.tops["a"]


def rewrite(manifest, old, new):
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "old, new, words, error",
    [
        ("a/1.npy,train", "a/1.npy,test", "subject a is in both train and test", None),
        ("a/1.npy", "a/9.npy", "9.npy: .*not there", FileNotFoundError),
        ("a/1.npy", "a/0.npy", "names a slice twice", None),
        ("b/1.npy,test", "b/1.npy,val", "split is 'val'; it is 'train' or", None),
        ("subject_id,", "subject,", "begins with subject_id,path,split", None),
        ("split\n", "split", "begins with", None),
    ],
)
def test_manifests_that_are_refused(tmp_path, manifest, old, new, words, error):
    rewrite(manifest, old, new)
    with pytest.raises(error or ValueError, match=words):
        build(config_of(tmp_path, manifest))


@pytest.mark.parametrize(
    "plane, words",
    [
        (np.ones((2, 5, 5)), r"slice must be 2-D, got \(2, 5, 5\)"),
        (np.ones((5, 5, 3)), r"slice must be 2-D, got \(5, 5, 3\)"),
        (np.full((5, 5), np.nan), "subject a: 25 pixels are NaN"),
        (np.ones((5, 5), complex), "array of real numbers"),
        (np.array([["x"]], object), "cannot be read as .npy"),
        (np.ones((1100, 1100), np.uint8), "more than 1000000 pixels"),
    ],
)
def test_slices_that_are_refused(tmp_path, manifest, plane, words):
    np.save(tmp_path / "a" / "1.npy", plane, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        build(config_of(tmp_path, manifest))
    assert not list((tmp_path / "cache" / "slices").iterdir())


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def folder(tmp_path):
    """Four heads of 3 slices; the lesions of two are in slice 1, and in 0 and 1."""
    heads = phantom_mr.heads(subjects=4, slices=3, height=20, width=18, seed=2)
    hurt = {"s1": (1,), "s2": (0, 1), "s0": (), "s3": ()}
    for k, head in enumerate(heads):
        save(tmp_path / "nifti" / f"s{k}_flair.nii.gz", head.transpose(2, 1, 0))
        lesion = np.zeros((18, 20, 3), np.uint8)
        lesion[9, 9, list(hurt[f"s{k}"])] = 1
        save(tmp_path / "nifti" / f"s{k}_lesion.nii.gz", lesion)
    return tmp_path / "nifti", heads


def test_a_folder_of_volumes_and_the_folder_prepared_from_it(tmp_path, folder):
    source, heads = folder
    config = config_of(tmp_path, source)
    series = slices.open_series(config.data, SIZE)
    assert series.levels.shape == (12, SIZE, SIZE, 1)
    assert list(series.subjects) == [f"s{k}" for k in range(4) for _ in range(3)]
    assert series.lesions == [0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0]
    own = heads[1]
    top = np.percentile(own[own > 0], 99.5)
    want = np.minimum(own[2] / top, 1)[2:18, 1:17]
    assert abs(series.levels[5, ..., 0] / 65535 - want).max() < 1e-5
    form = {"axis": 2, "percentile": 99.5, "dicom": False, "max_pixels": 1000}
    path = builder.write_slices(source, tmp_path / "tfds", **form)
    for prepared in (path, tmp_path / "tfds"):
        config = config_of(tmp_path, prepared)
        same = slices.open_series(config.data, SIZE)
        np.testing.assert_array_equal(same.levels, series.levels)
        assert same[1:-1] == series[1:-1]  # all but the digest
    with pytest.raises(ValueError, match=r"prepared with .*99.5.* asks for .*95.0"):
        build(config_of(tmp_path, path, **{"data.percentile": 95.0}))


def test_slices_with_lesions_are_left_out(tmp_path, folder):
    source, _ = folder
    changes = {"data.lesion_free": True, "data.test_subjects": ("s1",)}
    data = build(config_of(tmp_path, source, **changes))
    assert data.summary["split"]["test"] == [3, 5]
    positions = sorted(sum(data.summary["split"].values(), []))
    assert positions == [0, 1, 2, 3, 5, 8, 9, 10, 11]
    assert data.summary["left_out_for_lesions"] == 3
    (source / "s3_lesion.nii.gz").unlink()
    with pytest.raises(ValueError, match="s3_flair_slice_000 of .* has none"):
        build(config_of(tmp_path, source, **changes))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data.test_fraction": 1.0}, "fractions must be in"),
        ({"data.validation_fraction": -0.1}, "fractions must be in"),
        ({"data.phantom.subjects": 1}, "1 subjects less 1 for test and 1 for valid"),
        ({"data.percentile": 0.0}, "percentile is 0"),
        ({"data.axis": 7, "data.source": "nifti"}, "axis is 7"),
    ],
)
def test_configs_that_are_refused(tmp_path, folder, changes, words):
    if "data.source" in changes:
        changes = changes | {"data.source": str(folder[0])}
    with pytest.raises(ValueError, match=words):
        build(config_of(tmp_path, **changes))


def test_what_a_manifest_says_is_not_said_twice(tmp_path, manifest):
    with pytest.raises(ValueError, match="says itself which subjects are for test"):
        build(config_of(tmp_path, manifest, **{"data.test_subjects": ("a",)}))


def test_a_damaged_cache_says_so(tmp_path, manifest):
    build(config_of(tmp_path, manifest))
    (home,) = (tmp_path / "cache" / "slices").iterdir()
    (home / "slices.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged .* delete that folder"):
        build(config_of(tmp_path, manifest))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="sample data are not here")
def test_real_slices_without_lesions(tmp_path):
    changes = {"data.lesion_free": True, "data.max_pixels": 65536}
    data = build(config_of(tmp_path, SAMPLES / "mr_flair_lgg", **changes))
    every = sum(len(part) for part in data.summary["split"].values())
    assert every > 100 and data.summary["left_out_for_lesions"] > 20
    assert data.batch(0)["image"].any(axis=(1, 2, 3)).all()
