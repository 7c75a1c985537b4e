import gzip
import pathlib

import nibabel
import numpy as np
import pytest

from jaxinpaint.core.checks import (
    MaskValueError,
    NonFiniteInputError,
    ShapeMismatchError,
)
from jaxinpaint.data import intensity, volumes
from jaxinpaint.inference.nifti import restore_nifti

SAMPLES = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mr_volumes"
TURNED = np.array([[0, -2.0, 0, 31], [1.5, 0, 0, -7], [0, 0, 3.25, 11], [0, 0, 0, 1]])
FORM = {"axis": 2, "percentile": 99.5, "multiple": 8, "batch_size": 2}


def head(shape, dtype, seed=0):
    """A block of noise in a background of 0; the brightest pixels are rare."""
    rng = np.random.default_rng(seed)
    volume = np.zeros(shape, np.float64)
    inner = tuple(slice(1, n - 1) for n in shape)
    volume[inner] = rng.integers(20, 120, volume[inner].shape)
    volume[2, 2, 1] = 125
    return volume.astype(dtype)


def save(path, array, affine=TURNED, *, slope=None, inter=None, codes=(1, 4)):
    order = ">" if array.dtype.byteorder == ">" else "<"
    image = nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=order))
    image.set_data_dtype(array.dtype)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header["descrip"] = b"scanner 7"
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    if slope is not None:  # into the bytes, since nibabel would scale the array
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, inter], "<f4").tobytes()
        path.write_bytes(content)
    return path


def box(shape, *at):
    mask = np.zeros(shape, np.uint8)
    mask[at] = 1
    return mask


def raw(path):
    return np.asarray(nibabel.load(path).dataobj.get_unscaled())


def header(path):
    """All bytes before the voxels."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return content[:352]


class Recorder:
    """Takes 1 less than the image everywhere, and keeps what it was given."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return {"completed": -batch["image"], "raw": None}


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, ">i2", np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_only_the_hole_changes(tmp_path, dtype, suffix):
    shape = (13, 10, 5)
    volume = head(shape, dtype)
    mask = box(shape, slice(3, 8), slice(2, 7), slice(1, 3))
    source = save(tmp_path / f"in{suffix}", volume)
    before = source.read_bytes()
    hole = save(tmp_path / "hole.nii", mask)
    target = tmp_path / f"out{suffix}"
    done = restore_nifti(Recorder(), source, target, mask=hole, **FORM)
    valid = volume[(mask == 0) & (volume != 0)].astype(float)
    top = np.percentile(valid, 99.5)
    assert done == (pytest.approx(top), 2, 50, False)
    got = raw(target)
    assert got.dtype == np.dtype(dtype) and source.read_bytes() == before
    np.testing.assert_array_equal(got[mask == 0], volume[mask == 0])
    # -x is 1 - v where x is 2 v - 1.
    want = top - np.minimum(volume[mask == 1].astype(float), top)
    bound = 0.5001 if np.dtype(dtype).kind in "iu" else 1e-4  # float32 of -1 to 1
    assert abs(got[mask == 1] - want).max() < bound
    assert header(target) == header(source)
    image = nibabel.load(target)
    np.testing.assert_array_equal(image.affine, TURNED)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 4)


def test_what_the_network_is_given(tmp_path):
    shape = (13, 10, 5)
    volume, mask = head(shape, np.int16), box(shape, slice(3, 8), 4, slice(None))
    kept = box(shape, 4, slice(None), slice(None))
    paths = [
        save(tmp_path / f"{name}.nii", array)
        for name, array in (("in", volume), ("hole", mask), ("keep", kept))
    ]
    seen = Recorder()
    restore_nifti(
        *(seen, paths[0], tmp_path / "out.nii"),
        mask=paths[1],
        protect=paths[2],
        **FORM,
    )
    assert [b["image"].shape for b in seen.batches] == [(2, 16, 16, 1)] * 3
    rows = np.concatenate([b["image"] for b in seen.batches])[..., 0]
    np.testing.assert_array_equal(rows[5], rows[4])  # filled up with the last slice
    holes = np.concatenate([b["mask"] for b in seen.batches])[:5, ..., 0]
    keeps = np.concatenate([b["protect"] for b in seen.batches])[:5, ..., 0]
    own = (mask == 1) & (kept == 0)
    top = intensity.subject_top("s", [volume[~own]], 99.5)  # the rule of training
    for k, plane in enumerate(volumes.planes(volume, 2)):  # and its slices
        # 10 x 13 in 16 x 16: 3 rows and 1 column before, 3 and 2 after.
        levels = intensity.fit(intensity.to_levels(plane, top), 16)
        assert abs(rows[k] - (levels / 32767.5 - 1)).max() < 2e-5
        np.testing.assert_array_equal(holes[k], intensity.fit(own[:, :, k].T, 16))
        np.testing.assert_array_equal(keeps[k], intensity.fit(kept[:, :, k].T, 16))
    assert (rows == -1).any() and rows.max() == 1 and rows.dtype == np.float32
    got = raw(tmp_path / "out.nii")
    np.testing.assert_array_equal(got[~own], volume[~own])
    assert (got[own] != volume[own]).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_go_back_where_they_came_from(tmp_path, axis):
    shape = (9, 8, 7)
    volume, mask = head(shape, np.float32), box(shape, 4, 3, 2)
    source, hole = save(tmp_path / "in.nii", volume), save(tmp_path / "m.nii", mask)
    restore_nifti(
        *(Recorder(), source, tmp_path / "out.nii"), mask=hole, **FORM | {"axis": axis}
    )
    got = raw(tmp_path / "out.nii")
    (changed,) = np.argwhere(got != volume)
    assert changed.tolist() == [4, 3, 2]


def test_blind_restoration_writes_every_slice_of_the_head(tmp_path):
    shape = (11, 9, 4)
    volume = head(shape, np.int16)  # slices 0 and 3 are blank
    source, seen = save(tmp_path / "in.nii.gz", volume), Recorder()
    kept = box(shape, slice(0, 4), slice(None), slice(None))
    keep = save(tmp_path / "keep.nii", kept)
    done = restore_nifti(seen, source, tmp_path / "out.nii", protect=keep, **FORM)
    top = np.percentile(volume[volume > 0], 99.5)
    assert done == (pytest.approx(top), 2, 2 * 7 * 9, True)
    assert "mask" not in seen.batches[0]
    got = raw(tmp_path / "out.nii")
    free = kept == 0
    free[..., [0, 3]] = False
    want = top - np.minimum(volume, top)
    assert abs(got - want)[free].max() < 0.5001
    np.testing.assert_array_equal(got[~free], volume[~free])


@pytest.mark.parametrize(
    "slope, inter", [(0.5, -3.0), (-2.0, 7.0), (np.nan, np.nan), (0.0, 0.0)]
)
def test_scaled_files_keep_their_scale(tmp_path, slope, inter):
    shape = (9, 9, 4)
    stored, mask = head(shape, np.int16), box(shape, slice(3, 6), slice(3, 6), 2)
    if slope == -2.0:
        stored = -stored
    source = save(tmp_path / "in.nii", stored, slope=slope, inter=inter)
    hole = save(tmp_path / "hole.nii", mask)
    target = tmp_path / "out.nii"
    done = restore_nifti(Recorder(), source, target, mask=hole, **FORM)
    assert header(target) == header(source)
    np.testing.assert_array_equal(raw(target)[mask == 0], stored[mask == 0])
    values, got = (nibabel.load(path).get_fdata() for path in (source, target))
    shown = values[(mask == 0) & (values != 0)]
    assert done.top == pytest.approx(np.percentile(shown, 99.5))
    want = done.top - np.clip(values, 0, done.top)[mask == 1]
    step = 1.0 if slope in (0.0,) or np.isnan(slope) else abs(slope)
    assert abs(got[mask == 1] - want).max() <= step / 2 + 1e-6


def test_results_stay_within_the_data_type(tmp_path):
    volume, mask = np.full((8, 8, 2), 250, np.uint8), box((8, 8, 2), 3, slice(2, 6), 1)
    source, hole = save(tmp_path / "in.nii", volume), save(tmp_path / "m.nii", mask)
    far = np.array([-3.0, 5.0])[np.arange(8) % 2].reshape(1, 8, 1, 1)
    restore = lambda batch: {"completed": batch["image"] * 0 + far}
    restore_nifti(restore, source, tmp_path / "out.nii", mask=hole, **FORM)
    assert raw(tmp_path / "out.nii")[3, 2:6, 1].tolist() == [0, 255, 0, 255]


def test_what_lies_in_the_hole_need_not_be_finite(tmp_path):
    shape = (8, 8, 3)
    volume, mask = head(shape, np.float32), box(shape, 4, 4, 1)
    volume[4, 4, 1] = np.nan
    source, hole = save(tmp_path / "in.nii", volume), save(tmp_path / "m.nii", mask)
    restore_nifti(Recorder(), source, tmp_path / "out.nii", mask=hole, **FORM)
    got = raw(tmp_path / "out.nii")
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[mask == 0], volume[mask == 0])
    with pytest.raises(NonFiniteInputError, match="1 voxels outside the hole"):
        restore_nifti(Recorder(), source, tmp_path / "blind.nii", **FORM)
    assert not (tmp_path / "blind.nii").exists()


def test_a_mask_without_a_hole_changes_nothing(tmp_path):
    volume = head((8, 8, 3), np.int16)
    source = save(tmp_path / "in.nii", volume)
    source.write_bytes(source.read_bytes() + b"what follows the voxels")
    hole = save(tmp_path / "m.nii", np.zeros((8, 8, 3), np.uint8))
    seen = Recorder()
    done = restore_nifti(seen, source, tmp_path / "out.nii", mask=hole, **FORM)
    assert done[1:] == (0, 0, False) and not seen.batches
    assert (tmp_path / "out.nii").read_bytes() == source.read_bytes()


def test_a_file_of_two_hundred_fifty_five_marks_holes_too(tmp_path):
    shape = (8, 8, 3)
    volume, mask = head(shape, np.int16), box(shape, 4, 4, 1)
    source = save(tmp_path / "in.nii", volume)
    hole = save(tmp_path / "m.nii.gz", 255 * mask)
    done = restore_nifti(Recorder(), source, tmp_path / "out.nii", mask=hole, **FORM)
    assert done.voxels == 1


@pytest.fixture
def files(tmp_path):
    shape = (8, 8, 3)
    save(tmp_path / "in.nii", head(shape, np.int16))
    save(tmp_path / "hole.nii", box(shape, 4, 4, 1))
    save(tmp_path / "labels.nii", head(shape, np.int16))
    save(tmp_path / "small.nii", box((8, 8, 2), 4, 4, 1))
    save(
        tmp_path / "away.nii", box(shape, 4, 4, 1), TURNED + np.eye(4)[:, [3, 3, 3, 0]]
    )
    save(tmp_path / "time.nii", np.ones((4, 4, 2, 3), np.int16))
    save(tmp_path / "black.nii", np.zeros(shape, np.int16))
    save(tmp_path / "there.nii", np.ones(shape, np.int16))
    (tmp_path / "text.nii").write_text("no volume at all")
    content = (tmp_path / "in.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(content[:-9])
    (tmp_path / "link.nii").symlink_to(tmp_path / "hole.nii")
    return tmp_path


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"source": "absent.nii"}, FileNotFoundError, "absent.nii"),
        ({"source": "text.nii"}, ValueError, "is no NIfTI file of one piece"),
        ({"source": "cut.nii"}, ValueError, "cannot be read as NIfTI"),
        ({"source": "time.nii"}, ShapeMismatchError, "three axes"),
        ({"source": "black.nii"}, ValueError, "needs positive values"),
        ({"mask": "labels.nii"}, MaskValueError, "0 and one other value"),
        ({"mask": "small.nii"}, ShapeMismatchError, r"is \[8, 8, 2\], but"),
        ({"protect": "small.nii"}, ShapeMismatchError, "grid of its volume"),
        ({"mask": "away.nii"}, ShapeMismatchError, "lies elsewhere"),
        ({"target": "in.nii"}, ValueError, "is read from; write to another file"),
        ({"target": "link.nii"}, ValueError, "is read from"),
        ({"target": "there.nii"}, ValueError, "is there already; remove it"),
        ({"target": "out.png"}, ValueError, "written as .nii or .nii.gz"),
        ({"axis": 3}, ValueError, "axis is 3; it is 0, 1 or 2"),
        ({"percentile": 0}, ValueError, "percentile is 0"),
    ],
)
def test_refusals_write_nothing(files, change, error, words):
    names = {"source": "in.nii", "target": "out.nii", "mask": "hole.nii"}
    form = {"axis": 2, "percentile": 99.5, "multiple": 8, "batch_size": 2}
    for key, value in change.items():
        (form if key in form else names)[key] = value
    paths = {key: files / name for key, name in names.items()}
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    with pytest.raises(error, match=words):
        restore_nifti(Recorder(), **paths, **form)
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.parametrize(
    "completed, words",
    [
        (lambda x: x[:, :4], r"returned \[2, 4, 8, 1\] for slices of \[2, 8, 8, 1\]"),
        (lambda x: x * np.nan, r"NaN or infinity for slices \[1\]; nothing was"),
    ],
)
def test_networks_that_return_no_slices(files, completed, words):
    restore = lambda batch: {"completed": completed(batch["image"])}
    target = files / "out.nii"
    with pytest.raises(ValueError, match=words):
        restore_nifti(
            *(restore, files / "in.nii", target), mask=files / "hole.nii", **FORM
        )
    assert not target.exists()


def test_a_missing_package_is_named_with_its_extra(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(ImportError, match=r"nibabel; install jaxinpaint\[volume\]"):
        restore_nifti(Recorder(), files / "in.nii", files / "out.nii", **FORM)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="sample data are not here")
@pytest.mark.parametrize("name", ["mni_icbm152_t1_1mm", "stroke_flair"])
def test_real_volumes(tmp_path, name):
    source = SAMPLES / f"{name}.nii.gz"
    before = nibabel.load(source)
    mask = box(before.shape, slice(50, 81), slice(60, 95), slice(70, 73))
    hole = tmp_path / "hole.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask, before.affine), hole)
    target = tmp_path / "out.nii.gz"
    restore = lambda batch: {"completed": np.full_like(batch["image"], 0.5)}
    done = restore_nifti(restore, source, target, mask=hole, **FORM)
    assert done.slices == 3 and done.voxels == mask.sum()
    after = nibabel.load(target)
    assert after.header.binaryblock == before.header.binaryblock  # NaN slope and all
    np.testing.assert_array_equal(after.affine, before.affine)
    assert nibabel.aff2axcodes(after.affine) == ("R", "A", "S")
    one, other = np.asarray(before.dataobj), np.asarray(after.dataobj)
    np.testing.assert_array_equal(other[mask == 0], one[mask == 0])
    assert set(other[mask == 1]) == {np.rint(0.75 * done.top)}
