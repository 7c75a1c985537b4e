"""Slices of MR volumes as a TFDS data set, in array_record files."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxinpaint.data import images, intensity, volumes
from jaxinpaint.data.builders.sections import prepare

DATASET = "mr_slices"
SPLIT = "slices"
UNKNOWN = -1  # no lesion mask


class Slice(NamedTuple):
    """One slice.

    Attributes:
      subject: whose.
      name: unique.
      levels: uint16 [H, W, 1], as `intensity` has them.
      top: the grey value of the last level.
      lesion: 1 if its lesion mask marks a pixel, 0 if none, -1 without a mask.
    """

    subject: str
    name: str
    levels: np.ndarray
    top: float
    lesion: int


class MrSlices(tfds.core.GeneratorBasedBuilder):
    """Slices of several subjects, of any size: the split `slices`.

    Features: `image` uint16 [H, W, 1] levels, `subject` and `name` text, `top` (the
    grey value of level 65535; a number as text, since records hold no float64),
    `lesion` int64 (1, 0, or -1 for unknown), and `percentile`, a number as text, and
    `axis` int64, how they were made. The finished folder opens without this code:
    `tfds.builder_from_directory(path)`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "16-bit PNG slices."}
    # TFDS would look beside this file for checksums of downloads, with
    # importlib_resources, which it needs from Python 3.11 on but does not install.
    code_path = None

    def __init__(
        self, *, slices: Iterable[Slice], percentile: float, axis: int, **kwargs: Any
    ):
        """Takes the slices, read once; other arguments as every TFDS builder."""
        self._slices = slices
        self._made = {"percentile": repr(float(percentile)), "axis": axis}
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Slices of MR volumes, each subject on its own scale.",
            features=tfds.features.FeaturesDict(
                {
                    "image": image,
                    "subject": tfds.features.Text(),
                    "name": tfds.features.Text(),
                    "top": tfds.features.Text(),
                    "lesion": np.int64,
                    "percentile": tfds.features.Text(),
                    "axis": np.int64,
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, one in enumerate(self._slices):
            record = one._asdict() | self._made | {"top": repr(float(one.top))}
            png = io.BytesIO(images.encode_png(record.pop("levels")))
            yield position, record | {"image": png}


def write_slices(
    source: str | Path,
    data_dir: str | Path,
    *,
    axis: int,
    percentile: float,
    dicom: bool,
    max_pixels: int,
) -> Path:
    """Writes the slices of volumes as a TFDS data set; TensorFlow is not needed.

    Args:
      source: a folder of NIfTI volumes as `volumes.list_scans` takes it; with `dicom` a
        folder with one folder a subject, each of one DICOM series.
      data_dir: the folder to hold `mr_slices/1.0.0`.
      axis: which of the volume's axes counts the slices.
      percentile: of a subject's non-zero pixels that becomes the last level.
      dicom: whether the volumes are DICOM series.
      max_pixels: height * width above which a slice is refused.

    Returns:
      The prepared folder, which `tfds.builder_from_directory` opens.

    Raises:
      ValueError: as `read_slices`.
      ImportError: nibabel or pydicom is not installed.
      OSError: the source is not there.
    """
    scans = volumes.list_scans(source) if not dicom else list_series(source)
    slices = read_slices(scans, axis=axis, percentile=percentile, max_pixels=max_pixels)
    return write_read(slices, data_dir, axis=axis, percentile=percentile)


def write_read(
    slices: Iterator[Slice], data_dir: str | Path, *, axis: int, percentile: float
) -> Path:
    """Writes slices that `read_slices` reads; as `write_slices`.

    Raises:
      ValueError: there is no slice, or as `slices`.
    """
    first = next(slices, None)  # its errors before the folder
    if first is None:
        raise ValueError("a set of slices needs slices, got none.")
    builder = MrSlices(
        slices=itertools.chain([first], slices),
        percentile=percentile,
        axis=axis,
        data_dir=str(data_dir),
        file_format="array_record",
    )
    return prepare(builder)


def read_slices(
    scans: Iterable[volumes.Scan],
    *,
    axis: int,
    percentile: float,
    max_pixels: int,
    left_out: Callable[[str], None] = lambda name: None,
) -> Iterator[Slice]:
    """Reads the slices of volumes, one subject after the other.

    A slice without any pixel other than 0 is left out. The scale of a subject comes
    from all of its volumes, whole.

    Args:
      scans: the volumes.
      axis: as of `write_slices`; so are the others.
      percentile: likewise.
      max_pixels: likewise.
      left_out: is told the name of each slice that is left out.

    Yields:
      Slices named `<volume>_slice_007`, in the order of the volume.

    Raises:
      ValueError: a volume that cannot be read, is too large, holds NaN or nothing
        positive, or does not fit its lesion mask.
    """
    subjects: dict[str, list[volumes.Scan]] = {}
    for scan in scans:
        subjects.setdefault(scan.subject, []).append(scan)
    for subject, own in subjects.items():
        read = [
            volumes.read_dicom_series(scan.path)
            if scan.path.is_dir()
            else volumes.read_volume(scan.path)
            for scan in own
        ]
        top = intensity.subject_top(f"subject {subject}", read, percentile)
        for scan, volume in zip(own, read, strict=True):
            hurt = _lesions(scan, volume.shape, axis)
            for k, plane in enumerate(volumes.planes(volume, axis)):
                name = f"{scan.name}_slice_{k:03d}"
                height, width = plane.shape
                images.expect_pixels(name, height, width, max_pixels)
                if not plane.any():  # Assumption: beside the head, nothing to learn
                    left_out(name)
                    continue
                levels = intensity.to_levels(plane, top)[..., None]
                mark = UNKNOWN if hurt is None else int(hurt[k])
                yield Slice(subject, name, levels, top, mark)


def _lesions(
    scan: volumes.Scan, shape: tuple[int, ...], axis: int
) -> np.ndarray | None:
    """Which slices have a lesion, bool [N]; None without a mask."""
    if scan.lesion is None:
        return None
    mask = volumes.read_volume(scan.lesion)
    if mask.shape != shape:
        raise ValueError(
            f"{scan.lesion} is {list(mask.shape)}, but its volume {scan.path} is "
            f"{list(shape)}."
        )
    return np.array([plane.any() for plane in volumes.planes(mask, axis)])


def list_series(source: str | Path) -> tuple[volumes.Scan, ...]:
    """One DICOM series in each folder of the source, or in the source itself."""
    # The folder's name stands for the subject; the names in the files stay there.
    source = Path(source)
    folders = sorted(p for p in source.iterdir() if p.is_dir()) or [source]
    return tuple(volumes.Scan(p.name, p.name, p, None) for p in folders)


def read_prepared(path: str | Path, max_pixels: int) -> Iterator[tuple[Slice, dict]]:
    """Reads a prepared data set.

    Args:
      path: the folder with `dataset_info.json`.
      max_pixels: height * width above which a slice is refused undecoded.

    Yields:
      A slice, and how it was made: percentile and axis.

    Raises:
      ValueError: the folder is damaged or holds no MR slices.
    """
    try:
        source = tfds.builder_from_directory(str(path)).as_data_source(
            split=SPLIT, decoders={"image": tfds.decode.SkipDecoding()}
        )
        count = len(source)
    except Exception as error:  # readers raise many types at damaged folders
        raise ValueError(
            f"{path}: is no data set of MR slices in array_record: {error}"
        ) from error
    for index in range(count):
        try:
            record = source[index]
            subject, name = record["subject"].decode(), record["name"].decode()
            top, lesion = float(record["top"].decode()), int(record["lesion"])
            made = {
                "percentile": float(record["percentile"].decode()),
                "axis": int(record["axis"]),
            }
            png = bytes(record["image"])
        except Exception as error:  # as above
            raise ValueError(f"{path}: record {index} is damaged: {error}") from error
        levels = images.decode_image(io.BytesIO(png), f"{path}: {name}", max_pixels)
        yield Slice(subject, name, levels, top, lesion), made
