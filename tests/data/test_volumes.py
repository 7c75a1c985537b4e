import pathlib

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from jaxinpaint.data import intensity, volumes
from jaxinpaint.data.builders import slices as builder

SAMPLES = pathlib.Path(__file__).parents[3] / "shared" / "data"
LIMIT = 1_000_000


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(
        nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path
    )
    return path


def noise(*shape, top=200, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.int16)


def test_levels_by_hand():
    # Non-zero pixels 1 to 200: their 99.5th percentile is 1 + 0.995 * 199 = 199.005.
    pixels = np.arange(201).reshape(3, 67)
    top = intensity.subject_top("s", [pixels[:1], pixels[1:]], 99.5)
    assert top == pytest.approx(199.005, abs=1e-9)
    levels = intensity.to_levels(np.array([-5.0, 0, 1, 100, 199.005, 200]), top)
    assert levels.dtype == np.uint16
    assert levels.tolist() == [0, 0, 329, 32931, 65535, 65535]  # 65535 v / 199.005
    back = intensity.from_levels(levels, top)
    assert abs(back[2:5] - [1, 100, 199.005]).max() <= top / 131070 + 1e-9
    assert intensity.subject_top("s", [pixels], 50) == 100.5


@pytest.mark.parametrize(
    "pixels, percentile, words",
    [
        (np.array([1.0, np.nan, np.inf]), 99.5, "subject a: 2 pixels are NaN or inf"),
        (np.zeros(3), 99.5, "0 pixels are not 0"),
        (np.array([-1.0, -2.0]), 99.5, "needs positive values"),
        (np.ones(3), 0, "config.data.percentile is 0"),
        (np.ones(3), 101, "at most 100"),
    ],
)
def test_subjects_without_a_scale(pixels, percentile, words):
    with pytest.raises(ValueError, match=words):
        intensity.subject_top("subject a", [pixels], percentile)


def test_fitting_crops_and_pads_about_the_centre():
    plane = np.arange(1, 36).reshape(5, 7)
    np.testing.assert_array_equal(intensity.fit(plane, 5), plane[:, 1:6])
    np.testing.assert_array_equal(intensity.fit(plane, 4), plane[:4, 1:5])
    wide = intensity.fit(plane, 8)  # 3 rows more: 1 above, 2 below; 1 column: after
    np.testing.assert_array_equal(wide[1:6, :7], plane)
    assert wide.shape == (8, 8) and np.count_nonzero(wide) == 35
    mixed = intensity.fit(plane, 6)
    np.testing.assert_array_equal(mixed[:5], plane[:, :6])


def test_volumes_and_their_lesion_masks(tmp_path):
    for name in ("b_flair", "b_lesion", "a", "a_mask", "c_t1", "sub-07_ses-2_FLAIR"):
        save(tmp_path / f"{name}.nii.gz", noise(2, 2, 2))
    save(tmp_path / "sub-07_ses-1_FLAIR.nii", noise(2, 2, 2))
    (tmp_path / "README.md").write_text("no volume")
    scans = volumes.list_scans(tmp_path)
    assert [(s.subject, s.name, s.lesion and s.lesion.name) for s in scans] == [
        ("a", "a", "a_mask.nii.gz"),
        ("b", "b_flair", "b_lesion.nii.gz"),
        ("c_t1", "c_t1", None),
        ("sub-07", "sub-07_ses-1_FLAIR", None),
        ("sub-07", "sub-07_ses-2_FLAIR", None),
    ]


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        volumes.list_scans(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no NIfTI volume"):
        volumes.list_scans(tmp_path)
    save(tmp_path / "a_lesion.nii.gz", noise(2, 2, 2))
    save(tmp_path / "b.nii.gz", noise(2, 2, 2))
    with pytest.raises(ValueError, match="0 volumes are called a or a_"):
        volumes.list_scans(tmp_path)
    save(tmp_path / "b.nii", noise(2, 2, 2))
    with pytest.raises(ValueError, match="have one name"):
        volumes.list_scans(tmp_path)


def test_volumes_that_are_refused(tmp_path):
    (tmp_path / "text.nii").write_text("no volume")
    with pytest.raises(ValueError, match="text.nii: cannot be read as NIfTI"):
        volumes.read_volume(tmp_path / "text.nii")
    whole = save(tmp_path / "cut.nii", noise(9, 9, 9)).read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cut.nii: cannot be read"):
        volumes.read_volume(tmp_path / "cut.nii")
    with pytest.raises(FileNotFoundError):
        volumes.read_volume(tmp_path / "absent.nii")
    path = save(tmp_path / "time.nii", noise(2, 2, 2, 3))
    with pytest.raises(ValueError, match=r"three axes.*\[2, 2, 2, 3\]"):
        volumes.read_volume(path)
    path = save(tmp_path / "one.nii", noise(2, 3, 4, 1))
    assert volumes.read_volume(path).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="axis is 3; it is 0, 1 or 2"):
        volumes.planes(noise(2, 2, 2), 3)


def test_planes_show_what_the_file_holds():
    volume = noise(2, 3, 4)
    for axis, want in ((0, lambda k, r, c: (k, c, r)), (2, lambda k, r, c: (c, r, k))):
        for k, plane in enumerate(volumes.planes(volume, axis)):
            for row, column in np.ndindex(plane.shape):
                assert plane[row, column] == volume[want(k, row, column)]
    assert volumes.planes(volume, 1)[0].shape == (4, 2)


def write(source, out, **change):
    form = {"axis": 2, "percentile": 99.5, "dicom": False, "max_pixels": LIMIT}
    return builder.write_slices(source, out, **form | change)


def test_slices_of_a_folder_of_volumes(tmp_path):
    source, heads = tmp_path / "nifti", [noise(7, 5, 4, seed=k) for k in range(3)]
    heads[0][..., 3] = 0  # above the head
    lesion = np.zeros((7, 5, 4), np.uint8)
    lesion[2, 2, 1] = 1
    save(source / "sub-1_a.nii.gz", heads[0])
    save(source / "sub-1_b.nii", heads[1])
    save(source / "z_flair.nii", heads[2])
    save(source / "z_lesion.nii", lesion)
    path = write(source, tmp_path / "tfds")
    assert path == tmp_path / "tfds" / "mr_slices" / "1.0.0"
    got = list(builder.read_prepared(path, LIMIT))
    assert [one.name for one, _ in got] == [
        *(f"sub-1_a_slice_00{k}" for k in range(3)),
        *(f"{name}_slice_00{k}" for name in ("sub-1_b", "z_flair") for k in range(4)),
    ]
    assert [one.subject for one, _ in got] == ["sub-1"] * 7 + ["z"] * 4
    assert [one.lesion for one, _ in got] == [-1] * 7 + [0, 1, 0, 0]
    assert all(made == {"percentile": 99.5, "axis": 2} for _, made in got)
    both = np.concatenate([heads[0].ravel(), heads[1].ravel()])
    top = np.percentile(both[both > 0], 99.5)  # of the whole subject
    assert {one.top for one, _ in got[:7]} == {top} != {got[7][0].top}
    for one, plane in ((got[1][0], heads[0][..., 1]), (got[6][0], heads[1][..., 3])):
        assert one.levels.shape == (5, 7, 1) and one.levels.dtype == np.uint16
        want = np.minimum(plane.T, top)
        back = one.levels[..., 0] * (top / 65535)
        assert abs(back - want).max() <= top / 131070 * 1.001
    other = write(source, tmp_path / "other", axis=0, percentile=50.0)
    one, made = next(builder.read_prepared(other, LIMIT))
    assert one.levels.shape == (4, 5, 1) and made == {"percentile": 50.0, "axis": 0}


def test_volumes_that_become_no_slices(tmp_path):
    save(tmp_path / "in" / "a.nii", noise(4, 4, 2))
    save(tmp_path / "in" / "a_lesion.nii", noise(4, 4, 3))
    with pytest.raises(ValueError, match=r"a_lesion.nii is \[4, 4, 3\], but its vol"):
        write(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a_lesion.nii").unlink()
    with pytest.raises(ValueError, match="more than 15 pixels"):
        write(tmp_path / "in", tmp_path / "out", max_pixels=15)
    with pytest.raises(ValueError, match="axis is 5"):
        write(tmp_path / "in", tmp_path / "out", axis=5)
    with pytest.raises(ValueError, match="no data set of MR slices"):
        next(builder.read_prepared(tmp_path / "in", LIMIT))


def write_series(folder, volume, *, normal=(0, 0, 1), slope=2.0, offset=-3.0, **change):
    """A series as a scanner may name it: the names say nothing of the order."""
    folder.mkdir(parents=True)
    series, order = generate_uid(), np.random.default_rng(5).permutation(len(volume))
    for number, k in enumerate(order):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.SOPClassUID = pydicom.uid.MRImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID = series
        one.PatientID = "a name"
        one.Rows, one.Columns = volume.shape[1:]
        one.ImageOrientationPatient = (
            [1, 0, 0, 0, 1, 0] if normal[2] else [0, 1, 0, 0, 0, 1]
        )
        one.ImagePositionPatient = [5.5 * k * n - 20 for n in normal]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 0
        one.RescaleSlope, one.RescaleIntercept = slope, offset
        one.PixelData = volume[k].astype("<u2").tobytes()
        for key, value in change.items():
            if number == 2:
                setattr(one, key, value)
        one.save_as(folder / f"IM{number}", enforce_file_format=True)
    (folder / "NOTES.TXT").write_text("no slice")
    return folder


@pytest.mark.parametrize("normal", [(0, 0, 1), (1, 0, 0)])
def test_a_dicom_series_is_ordered_by_position(tmp_path, normal):
    stack = noise(6, 5, 4).astype(np.uint16)  # slices, rows, columns
    got = volumes.read_dicom_series(write_series(tmp_path / "s", stack, normal=normal))
    assert got.shape == (4, 5, 6)
    for k, plane in enumerate(volumes.planes(got, 2)):
        np.testing.assert_array_equal(plane, 2.0 * stack[k] - 3.0)


def test_dicom_series_become_slices(tmp_path):
    for k in range(2):
        write_series(tmp_path / "in" / f"volunteer_{k}", noise(3, 5, 4, seed=k) + 2)
    path = write(tmp_path / "in", tmp_path / "out", dicom=True)
    got = [one for one, _ in builder.read_prepared(path, LIMIT)]
    assert [one.subject for one in got] == ["volunteer_0"] * 3 + ["volunteer_1"] * 3
    assert got[0].levels.shape == (5, 4, 1)
    text = b"".join(p.read_bytes() for p in path.iterdir() if p.is_file())
    assert b"a name" not in text  # what the files say of the person stays there
    alone = write(tmp_path / "in" / "volunteer_1", tmp_path / "one", dicom=True)
    assert [one.subject for one, _ in builder.read_prepared(alone, LIMIT)] == [
        "volunteer_1"
    ] * 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"SeriesInstanceUID": "1.2.3"}, "differs from IM0 in series"),
        ({"Rows": 4, "Columns": 5}, "size"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "orientation"),
        ({"PixelData": b"12"}, "cannot be read as a slice"),
        ({"ImagePositionPatient": None}, "cannot be read as a slice"),
        ({"ImagePositionPatient": [-20, -20, 5.5 * 3 - 20]}, "one place, -3.5 mm"),
    ],
)
def test_series_that_are_refused(tmp_path, change, words):
    stack = noise(4, 5, 4).astype(np.uint16)
    with pytest.raises(ValueError, match=words):
        volumes.read_dicom_series(write_series(tmp_path / "s", stack, **change))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no DICOM slice"):
        volumes.read_dicom_series(tmp_path / "empty")


@pytest.mark.parametrize("package", ["nibabel", "pydicom"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    read = {"nibabel": volumes.read_volume, "pydicom": volumes.read_dicom_series}
    with pytest.raises(ImportError, match=rf"{package}; install jaxinpaint\[volume\]"):
        read[package](tmp_path)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="sample data are not here")
def test_real_volumes_with_lesions():
    scans = volumes.list_scans(SAMPLES / "mr_flair_lgg")
    assert len(scans) == 7 and all(scan.lesion for scan in scans)
    assert scans[0].subject == "TCGA_CS_4944_20010208"
    form = {"axis": 2, "percentile": 99.5, "max_pixels": LIMIT}
    got = list(builder.read_slices(scans[:1], **form))
    own = nibabel.load(scans[0].lesion).get_fdata()
    assert sum(one.lesion for one in got) == np.any(own, axis=(0, 1)).sum() > 0
    assert len(got) == 20 and got[0].levels.shape == (256, 256, 1)
