"""Opens the volume that is to be restored, finds what is bad in it, and refuses misuse."""

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint import systems
from jaxinpaint.core.checks import (
    InpaintInputError,
    MaskCoverageError,
    MaskValueError,
    ShapeMismatchError,
)
from jaxinpaint.data import bad_sections, cremi, store_metadata
from jaxinpaint.data.images import TIFF, ImageFileError, list_sections
from jaxinpaint.data.volume_files import NANOMETERS, Volume, Voxel
from jaxinpaint.data.volume_hdf5 import Hdf5Volume
from jaxinpaint.data.volume_pages import PictureFolder, TiffStack
from jaxinpaint.data.volume_stores import StoreVolume
from jaxinpaint.evaluation.restoring_inputs import INVERTED, LARGE, check_tile
from jaxinpaint.evaluation.runs import Trained
from jaxinpaint.evaluation.volume_nifti import NiftiVolume
from jaxinpaint.inference.nifti import SUFFIXES as NIFTI

SIDES = ("previous", "following")


class Job(NamedTuple):
    """What is to be restored, and how.

    Attributes:
      workdir: of the trained run.
      step: of the checkpoint; the newest good one if None.
      volume: a file or folder.
      dataset: array in it, where it holds several.
      mask: a volume of the same grid that marks the holes, or None.
      mask_dataset: array in the mask.
      bad: list of sections that are bad whole, such as "12,40-42", or a file; or None.
      output: folder of the results.
      axis: "z", "y" or "x", which counts the sections; None is that of the training.
      polarity: what is not 0 in the mask, "hole" or "valid".
      large_holes: whether a mask of more than 95 % is taken.
      tile: side of the tiles in pixels; 0 restores sections whole, None chooses.
      overlap: of tiles, and context around holes, in pixels; None is a quarter.
      max_pixels: height * width above which a section is refused undecoded.
      batch_size: tiles that are restored at once.
      voxel: size along z, y and x in nanometers, where the volume does not say.
      disagreement: whether it is told how far the two neighbours disagree.
      panel: whether a sheet is drawn of each restored section.
      overwrite: whether results that are there are replaced.
    """

    workdir: Path
    step: int | None
    volume: Path
    dataset: str | None
    mask: Path | None
    mask_dataset: str | None
    bad: str | None
    output: Path
    axis: str | None
    polarity: str
    large_holes: bool
    tile: int | None
    overlap: int | None
    max_pixels: int
    batch_size: int
    voxel: tuple[float, float, float] | None
    disagreement: bool
    panel: bool
    overwrite: bool


class Holes:
    """What may be invented, section by section.

    Attributes:
      whole: sections that are bad whole.
      voxels: of the holes of each bad section.
      blind: whether nobody tells the network where the damage is in `whole`.
    """

    def __init__(
        self,
        volume: Volume,
        mask: Volume | None,
        polarity: str,
        whole: frozenset[int],
        voxels: Mapping[int, int],
        blind: bool,
    ) -> None:
        self.whole, self.voxels, self.blind = whole, voxels, blind
        self._volume, self._mask, self._polarity = volume, mask, polarity

    def hole(self, z: int) -> np.ndarray:
        """Where a bad section is bad, bool [H, W]."""
        if z in self.whole:
            return np.ones(self._volume.shape[1:3], bool)
        assert self._mask is not None
        marks = self._mask.section(z)[..., 0] != 0
        return marks if self._polarity == "hole" else ~marks


def open_volume(path: Path, dataset: str | None, axis: str, max_pixels: int) -> Volume:
    """Opens a volume by what it is: its folder's files, or its ending.

    Raises:
      ImageFileError: it is no volume, or one that cannot be written again as it was.
      ValueError: what was asked does not fit its container.
      ImportError: an extra is not installed.
      OSError: it is not there.
    """
    if store_metadata.is_store(path):
        return StoreVolume(path, dataset, axis, max_pixels)
    if cremi.is_volume(path):
        return Hdf5Volume(path, dataset, axis, max_pixels)
    if dataset:
        raise ValueError(f"{path}: is one volume alone; leave {dataset!r} out.")
    if path.name.lower().endswith(NIFTI):
        return NiftiVolume(path, axis, max_pixels)
    if axis != "z":
        raise ValueError(
            f"{path}: its sections are its pages, so --axis {axis} needs another "
            "container, such as OME-Zarr."
        )
    files = list_sections(path)
    with open(files[0], "rb") as file:
        tiff = file.read(4) in TIFF
    if tiff and len(files) == 1:
        return TiffStack(files[0], max_pixels)
    if len(files) == 1:
        raise ImageFileError(
            f"{path}: is no volume: an OME-Zarr, zarr, N5 or precomputed folder, an "
            "HDF5 file, a TIFF stack, a folder of pictures, or NIfTI."
        )
    return PictureFolder(path, files, max_pixels)


def default_axis(job: Job, trained: Trained) -> str:
    """The axis that is asked for, or that of the slices that were trained on."""
    if job.axis or trained.config.data.kind != "slices":
        return job.axis or "z"
    return "xyz"[trained.config.data.axis]


def needed(trained: Trained) -> list[str]:
    """Names of the adjacent sections that a system reads.

    Raises:
      ValueError: it reads something else too.
    """
    config = trained.config
    names = [n for n in trained.system.batch_spec if n not in ("image", "mask")]
    names = [n for n in names if n not in systems.derived(config)]
    if names not in ([], ["neighbor"]) and sorted(names) != sorted(SIDES):
        raise ValueError(
            f"a run of {config.system!r} reads {names}; fill-volume cannot give it that."
        )
    return names


def check_output(job: Job, volume: Volume) -> None:
    """Refuses a folder of results where what is read would be changed.

    Raises:
      ValueError: it is.
    """
    output = Path(os.path.realpath(job.output))
    for read in (volume.path, job.mask):
        if read is None:
            continue
        real = Path(os.path.realpath(read))
        inside = real.is_dir() and real in (output, *output.parents)
        if inside or any(real == output / name for name in result_names(volume)):
            raise ValueError(
                f"--output is {job.output}, where {read} would be written to; name "
                "another folder."
            )
    names = result_names(volume)
    if len(set(names)) < len(names):
        raise ValueError(f"{volume.path}: give it another name than {names[1:]} have.")


def result_names(volume: Volume) -> list[str]:
    """Names below the folder of results, of files and folders."""
    layers = [volume.layer_name(word) for word in ("invented", "disagreement")]
    return [volume.written_name(), *layers, "panels", "repaired.json"]


def check_asked(job: Job, trained: Trained, volume: Volume) -> None:
    """Checks that a system can restore such a volume.

    Raises:
      ValueError: it cannot.
    """
    config, spec = trained.config, trained.system.batch_spec
    needed(trained)
    check_tile(job, trained)
    channels = spec["image"].shape[-1]
    if volume.shape[-1] != channels:
        has, wants = (
            "grey" if c == 1 else "colour" for c in (volume.shape[-1], channels)
        )
        raise ShapeMismatchError(
            f"{volume.path} is {has}, but {job.workdir} restores {wants}; nothing is "
            "converted here, so convert the volume or name another run."
        )
    scaled = config.data.kind == "slices"
    if scaled and not isinstance(volume, NiftiVolume):
        raise ValueError(
            f"{job.workdir} was trained on MR slices, whose scale is that of a subject; "
            f"it restores NIfTI, and {volume.path} is {volume.kind}."
        )
    if not scaled and volume.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{volume.path} holds {volume.dtype}; {job.workdir} restores levels of 8 or "
            "16 bits (uint8, uint16), so convert the volume first."
        )


def set_voxel(job: Job, volume: Volume) -> str:
    """Takes the voxel size that was given for a volume that does not say.

    Returns:
      A sentence if nothing says it, else "".

    Raises:
      ValueError: the volume says another one.
    """
    own = volume.voxel
    if job.voxel is None:
        return (
            ""
            if own
            else (
                "its voxel size is unknown; give --voxel-size Z,Y,X in nanometers to have "
                "it told"
            )
        )
    given = Voxel(job.voxel, "nanometer")
    if own is None or not own.unit:
        volume.voxel = given
        return ""
    scale = NANOMETERS.get(own.unit)
    if scale is None or not np.allclose(np.multiply(own.size, scale), job.voxel, 1e-3):
        raise ValueError(
            f"--voxel-size is {given}, but {volume.path} says {own}; leave it out."
        )
    return ""


def find_holes(
    job: Job, trained: Trained, volume: Volume, mask: Volume | None
) -> tuple[Holes, list[str]]:
    """Finds the bad sections, reading the mask once.

    Returns:
      What may be invented, and sentences about what looks wrong.

    Raises:
      ValueError: nothing or everything is bad, the mask is none or does not fit, or
        the system can restore no section that is bad whole.
    """
    count, height, width, _ = volume.shape
    notes: list[str] = []
    voxels: dict[int, int] = {}
    whole: set[int] = set()
    blind = _takes(trained, None)
    if mask is not None:
        voxels, whole = _read_mask(job, volume, mask)
        if sum(voxels.values()) > LARGE * count * height * width:
            notes.append("more than 60 % of the volume is hole: is the mask inverted?")
    if job.bad is not None:
        listed = bad_sections.parse(job.bad, count)
    elif mask is None:
        if not blind:
            raise ValueError(
                f"{job.workdir} is a run of {trained.config.system!r}, which has to be "
                "told what is bad: give --bad-sections or --mask."
            )
        listed = list(_not_blank(volume))
        if not listed:
            raise ValueError(f"{volume.path}: every section is blank.")
    else:
        listed = []
    if listed and not blind and not _takes(trained, 1):
        raise ValueError(
            f"{job.workdir} is a run of {trained.config.system!r}, which restores no "
            "section that is bad whole; mark what is damaged in it by --mask, or name a "
            "run of another system, such as flowinpaint."
        )
    if not needed(trained) and job.bad is not None and not blind:
        raise ValueError(
            f"{trained.config.system!r} reads no neighbours; give --mask instead."
        )
    whole |= set(listed)
    voxels |= dict.fromkeys(whole, height * width)
    if needed(trained) and len(voxels) == count:
        raise MaskCoverageError(
            f"all {count} sections of {volume.path} are bad, so none has a sound "
            "neighbour; mark less."
        )
    return Holes(volume, mask, job.polarity, frozenset(whole), voxels, blind), notes


def _not_blank(volume: Volume) -> Iterator[int]:
    """Sections in which something is; blank ones lie beyond what was imaged."""
    for first, last in volume.blocks():
        for z, section in enumerate(volume.read(first, last), first):
            if section.any():
                yield z


def _takes(trained: Trained, fill: int | None) -> bool:
    """Whether a system takes a section without a mask (None), or all hole (1)."""
    spec = trained.system.batch_spec
    blank = {
        name: np.zeros((1, *one.shape[1:]), np.uint8)
        for name, one in spec.items()
        if name != "mask"
    }
    if fill is not None:
        blank["mask"] = np.full((1, *spec["mask"].shape[1:]), fill, np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            systems.validate_inputs(trained.config.system, "fill-volume", blank)
    except InpaintInputError:
        return False
    return True


def _read_mask(
    job: Job, volume: Volume, mask: Volume
) -> tuple[dict[int, int], set[int]]:
    """Counts the hole of each section, and finds those that are hole all over."""
    if mask.shape[:3] != volume.shape[:3]:
        raise ShapeMismatchError(
            f"{mask.path} is {_size(mask)}, but {volume.path} is {_size(volume)}; "
            "nothing is resized here."
        )
    if mask.shape[-1] != 1:
        raise MaskValueError(f"{mask.path}: a mask must be grey, this one has colours.")
    if isinstance(mask, NiftiVolume) and isinstance(volume, NiftiVolume):
        apart = float(abs(mask.file.affine - volume.file.affine).max())
        if not apart <= 1e-3:
            raise ShapeMismatchError(
                f"{mask.path} lies elsewhere than {volume.path}: their affines differ "
                f"by up to {apart:g}; resample the mask."
            )
    voxels: dict[int, int] = {}
    marks: set[float] = set()
    area = volume.shape[1] * volume.shape[2]
    for first, last in mask.blocks():
        for z, section in enumerate(mask.read(first, last), first):
            marks |= set(np.unique(section).tolist())
            if len(marks - {0}) > 1 or any(m != m for m in marks):
                raise MaskValueError(
                    f"{mask.path}: a mask holds 0 and one other value, this holds "
                    f"{sorted(marks)[:4]} at section {z}; threshold it."
                )
            white = int(np.count_nonzero(section))
            own = white if job.polarity == "hole" else area - white
            if own:
                voxels[z] = own
    share = sum(voxels.values()) / (area * volume.shape[0])
    says = f"what is not 0 marks {_marked(job)}"
    if share == 0:
        raise MaskCoverageError(
            f"{mask.path} marks no hole, so there is nothing to restore; {says} "
            "(--mask-polarity)."
        )
    if share == 1 or (share > INVERTED and not job.large_holes):
        what = "all" if share == 1 else f"{100 * share:.2f} %"
        more = "" if share == 1 else ", or add --allow-large-holes"
        raise MaskValueError(
            f"{mask.path} marks {what} of the volume as hole and may be inverted: {says}; "
            f"change --mask-polarity{more}."
        )
    return voxels, {z for z, n in voxels.items() if n == area}


def _marked(job: Job) -> str:
    return "the hole" if job.polarity == "hole" else "what is valid"


def _size(volume: Volume) -> str:
    return " x ".join(map(str, volume.shape[:3]))
