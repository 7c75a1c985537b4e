"""Volumes of medical images: NIfTI files, folders of them, and DICOM series."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".nii.gz", ".nii")
MARKS = ("lesion", "mask", "seg")  # last words of the names of lesion masks


class Scan(NamedTuple):
    """One volume of a folder.

    Attributes:
      subject: who was scanned; several volumes may have one subject.
      name: of the volume, unique in its folder.
      path: a NIfTI file, or a folder with one DICOM series.
      lesion: NIfTI file of its lesion mask, 0 = healthy; None if there is none.
    """

    subject: str
    name: str
    path: Path
    lesion: Path | None


def list_scans(folder: str | Path) -> tuple[Scan, ...]:
    """Lists the NIfTI volumes of a folder, in the order of their names.

    A file whose name ends in _lesion, _mask or _seg is the lesion mask of the volume
    whose name is, or begins with, what stands before that: case_lesion.nii.gz belongs
    to case_flair.nii.gz. The subject is what follows "sub-" in a name of BIDS
    (sub-01_ses-2_FLAIR), or else the name without its last word where a lesion mask
    shows that this is the case, or else the whole name.

    Raises:
      ValueError: no volume, two volumes of one name, or a mask that belongs to none
        or to several.
      OSError: the folder is not there.
    """
    volumes: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        case, _, word = name.rpartition("_")
        place, key = (masks, case) if case and word in MARKS else (volumes, name)
        if key in place:
            raise ValueError(
                f"{place[key]} and {path} have one name; keep one of them."
            )
        place[key] = path
    if not volumes:
        raise ValueError(f"{folder}: holds no NIfTI volume ({', '.join(SUFFIXES)}).")
    lesions: dict[str, Path] = {}
    cases: dict[str, str] = {}
    for case, path in masks.items():
        of = [n for n in volumes if n == case or n.startswith(f"{case}_")]
        if len(of) != 1:
            raise ValueError(
                f"{path}: {len(of)} volumes are called {case} or {case}_...; one is "
                "needed."
            )
        lesions[of[0]], cases[of[0]] = path, case
    scans = []
    for name, path in volumes.items():
        person = re.match(r"sub-([A-Za-z0-9]+)", name)
        subject = person[0] if person else cases.get(name, name)
        scans.append(Scan(subject, name, path, lesions.get(name)))
    return tuple(scans)


def read_volume(path: str | Path) -> np.ndarray:
    """Reads a NIfTI volume, scaled as its header says.

    Returns:
      [X, Y, Z], in the file's order of axes, float64 or the file's own dtype.

    Raises:
      ValueError: the file is no NIfTI, is damaged, or has no three axes.
      ImportError: nibabel is not installed.
      OSError: the file is not there.
    """
    nibabel = import_nibabel()
    Path(path).stat()  # its own error is no OSError
    try:
        volume = np.asarray(nibabel.load(path).dataobj)
    except Exception as error:  # readers raise many types at damaged files
        raise ValueError(f"{path}: cannot be read as NIfTI: {error}") from error
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3 or volume.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: a volume has three axes of real numbers, this is {volume.dtype} "
            f"{list(volume.shape)}."
        )
    return volume


def read_dicom_series(folder: str | Path) -> np.ndarray:
    """Reads a folder with the slices of one DICOM series.

    Slices are ordered along the normal of their plane, by their position, and scaled
    by slope and intercept.

    Returns:
      float64 [columns, rows, slices], the order of axes that NIfTI has.

    Raises:
      ValueError: no slice, several series, slices that differ in size or orientation,
        two at one place, or pixels that cannot be read.
      ImportError: pydicom is not installed.
      OSError: the folder is not there.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(
            "DICOM needs the package pydicom; install jaxinpaint[volume]."
        ) from error
    found: list[tuple[float, Path, np.ndarray]] = []
    first: tuple[Any, ...] = ()
    for path in sorted(p for p in Path(folder).iterdir() if p.is_file()):
        try:
            one = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue  # a note, a directory of the disc
        if "PixelData" not in one:
            continue
        try:
            form = (
                one.SeriesInstanceUID,
                (one.Rows, one.Columns),
                tuple(float(v) for v in one.ImageOrientationPatient),
            )
            turned = np.reshape(form[2], (2, 3))
            normal = np.cross(turned[0], turned[1])
            place = float(np.dot(normal, np.array(one.ImagePositionPatient, float)))
            slope = float(one.get("RescaleSlope", 1))
            pixels = one.pixel_array * slope + float(one.get("RescaleIntercept", 0))
        except Exception as error:  # missing elements, codecs, damaged pixels
            raise ValueError(f"{path}: cannot be read as a slice: {error}") from error
        first = first or form
        if form != first or pixels.ndim != 2:
            raise ValueError(
                f"{path}: differs from {found[0][1].name if found else 'a slice'} in "
                "series, size, orientation or channels; keep one series in a folder."
            )
        found.append((place, path, pixels.astype(np.float64)))
    if not found:
        raise ValueError(f"{folder}: holds no DICOM slice.")
    found.sort(key=lambda one: one[0])
    for a, b in zip(found, found[1:], strict=False):
        if a[0] == b[0]:
            raise ValueError(f"{a[1]} and {b[1]} lie at one place, {a[0]:g} mm.")
    return np.stack([pixels.T for _, _, pixels in found], axis=-1)


def planes(volume: np.ndarray, axis: int) -> Sequence[np.ndarray]:
    """The slices of a volume [X, Y, Z] across an axis, as pictures.

    The first of the other two axes runs along the rows: across axis 2 a slice is
    [Y, X], which shows a head of the usual storage upright or upside down, not lying.

    Raises:
      ValueError: another axis than 0, 1 or 2.
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"config.data.axis is {axis}; it is 0, 1 or 2.")
    return [plane.T for plane in np.moveaxis(volume, axis, 0)]


def import_nibabel() -> Any:
    """The package nibabel.

    Raises:
      ImportError: it is not installed; says how to install it.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "NIfTI needs the package nibabel; install jaxinpaint[volume]."
        ) from error
    return nibabel
