"""Restores a NIfTI volume slice by slice, into a copy that differs in nothing else."""

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.core.checks import (
    MaskValueError,
    NonFiniteInputError,
    ShapeMismatchError,
)

SUFFIXES = (".nii", ".nii.gz")
Restore = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


class Restored(NamedTuple):
    """What `restore_nifti` did.

    Attributes:
      top: the grey value that became 1; 0 became -1.
      slices: how many slices went through the network.
      voxels: how many voxels were written anew.
      blind: whether there was no mask.
    """

    top: float
    slices: int
    voxels: int
    blind: bool


class NiftiFile(NamedTuple):
    """A NIfTI file.

    Attributes:
      content: its bytes, unpacked.
      offset: where the voxels begin.
      raw: [X, Y, Z], as they are stored.
      slope: value = raw * slope + inter.
      inter: see slope.
      affine: [4, 4], of voxels to millimetres.
    """

    content: bytes
    offset: int
    raw: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray

    def values(self) -> np.ndarray:
        """Grey values, float64 [X, Y, Z]."""
        return self.raw.astype(np.float64) * self.slope + self.inter


def restore_nifti(
    restore: Restore,
    source: str | Path,
    target: str | Path,
    *,
    mask: str | Path | None = None,
    protect: str | Path | None = None,
    axis: int,
    percentile: float,
    multiple: int,
    batch_size: int,
) -> Restored:
    """Restores a volume and writes it as a new file.

    The volume is brought to the scale of `data/intensity.py`: a percentile of its valid
    voxels that are not 0 becomes 1, and 0 becomes -1; values beyond are clipped for the
    network alone. A slice is [rows, columns] with the first of the two other axes along
    the columns, as in training; it is padded about its centre with background, and the
    result cropped back.

    With a mask, only its voxels are written, and only slices that have one are
    restored: every other bit of the file is that of the source. Without one (blind),
    the whole output of every slice that is not all 0 is written, values above the
    percentile included. The header, its affine, codes, data type and scaling are those
    of the source in both, byte for byte; restored values are rounded to the data type
    and held within its range.

    Args:
      restore: batch -> images by name, of which "completed" is written; such as
        `restore.predictor` makes. A batch has image [B, H, W, 1] float32 in [-1, 1] and,
        where the volumes are given, mask (1 = hole, less what is protected) and protect
        (1 = keep), [B, H, W, 1] float32.
      source: a .nii or .nii.gz file with three axes.
      target: the file to write, which must not be there; .nii, or .nii.gz.
      mask: volume of the same grid, 0 and one other value, which marks the hole.
      protect: likewise of voxels that are never written, in the hole or out of it.
      axis: which of the volume's axes counts the slices.
      percentile: as the network was trained with.
      multiple: slices are padded to multiples of it.
      batch_size: slices of a batch; the last one is filled up with its last slice.

    Returns:
      What was done.

    Raises:
      ShapeMismatchError: no three axes, or a mask of another grid.
      MaskValueError: a mask of several values.
      NonFiniteInputError: NaN or infinity outside the hole.
      ValueError: another kind of file, a target that is there, or a network that
        returns another shape or values that are not finite.
      ImportError: nibabel is not installed.
      OSError: a file is not there or cannot be written.
    """
    source, target = Path(source), Path(target)
    _check_target(target, source, mask, protect)
    if axis not in (0, 1, 2):
        raise ValueError(f"restore_nifti: axis is {axis}; it is 0, 1 or 2.")
    volume = read_nifti(source)
    kept = _read_mask(protect, volume, source)
    hole = _read_mask(mask, volume, source)
    where = np.ones(volume.raw.shape, bool) if hole is None else hole
    where = where if kept is None else where & ~kept
    values = volume.values()
    valid = np.ones_like(where) if hole is None else ~where
    bad = np.count_nonzero(~np.isfinite(values) & valid)
    if bad:
        raise NonFiniteInputError(
            f"{source}: {bad} voxels outside the hole are NaN or infinite; replace "
            "them, by 0 where they are background."
        )
    top = grey_top(source, values[valid], percentile)
    image = (
        2.0 * np.clip(np.where(np.isfinite(values), values, 0.0) / top, 0.0, 1.0) - 1
    )
    views = {"image": image.astype(np.float32)}
    if hole is not None:
        views["mask"] = where.astype(np.float32)
    if kept is not None:
        views["protect"] = kept.astype(np.float32)
    planes = {
        name: np.moveaxis(array, axis, 0).swapaxes(1, 2)
        for name, array in views.items()
    }
    ours = np.moveaxis(where, axis, 0).swapaxes(1, 2)
    # Assumption: a blank slice lies beyond the head, where blind restoration must not
    # invent one.
    blank = (np.moveaxis(values, axis, 0) == 0).all(axis=(1, 2)) & (hole is None)
    chosen = np.flatnonzero(ours.any(axis=(1, 2)) & ~blank)
    raw = volume.raw.copy()
    stored = np.moveaxis(raw, axis, 0).swapaxes(1, 2)  # a view
    for first in range(0, len(chosen), batch_size):
        own = chosen[first : first + batch_size]
        completed = _restore(restore, planes, own, multiple, batch_size)
        grey = (completed.astype(np.float64) + 1) / 2 * top
        for k, plane in zip(own.tolist(), grey, strict=True):
            new = as_stored(plane, volume)
            stored[k][ours[k]] = new[ours[k]]
    write_nifti(target, volume, raw)
    voxels = int(np.count_nonzero(ours[chosen]))
    return Restored(top, len(chosen), voxels, hole is None)


def _check_target(target: Path, source: Path, *others: str | Path | None) -> None:
    """Refuses a target that would lose a file, before anything is read."""
    if not target.name.endswith(SUFFIXES):
        raise ValueError(f"{target}: a volume is written as .nii or .nii.gz.")
    for other in (source, *others):
        if other is not None and os.path.realpath(target) == os.path.realpath(other):
            raise ValueError(f"{target}: is read from; write to another file.")
    if target.exists():
        raise ValueError(f"{target}: is there already; remove it or name another file.")


def read_nifti(path: Path) -> NiftiFile:
    """Reads a NIfTI file of one piece.

    Raises:
      ShapeMismatchError: no three axes.
      ValueError: it is none, or damaged.
      ImportError: nibabel is not installed.
      OSError: the file is not there.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "NIfTI needs the package nibabel; install jaxinpaint[volume]."
        ) from error
    content = path.read_bytes()
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
        kind = next(k for k in kinds if k.header_class.may_contain_header(content))
        image = kind.from_bytes(content)
        proxy = image.dataobj
        raw = np.asarray(proxy.get_unscaled()).astype(proxy.dtype, copy=False)
    except StopIteration as error:
        raise ValueError(f"{path}: is no NIfTI file of one piece.") from error
    except Exception as error:  # readers raise many types at damaged files
        raise ValueError(f"{path}: cannot be read as NIfTI: {error}") from error
    while raw.ndim > 3 and raw.shape[-1] == 1:
        raw = raw[..., 0]
    if raw.ndim != 3 or raw.dtype.kind not in "uif":
        raise ShapeMismatchError(
            f"{path}: a volume has three axes of real numbers, this is {raw.dtype} "
            f"{list(raw.shape)}."
        )
    slope, inter = float(proxy.slope), float(proxy.inter)
    return NiftiFile(content, int(proxy.offset), raw, slope, inter, image.affine)


def _read_mask(
    path: str | Path | None, volume: NiftiFile, source: Path
) -> np.ndarray | None:
    """Reads a mask of the volume's grid, bool [X, Y, Z]; None if there is none."""
    if path is None:
        return None
    own = read_nifti(Path(path))
    if own.raw.shape != volume.raw.shape:
        raise ShapeMismatchError(
            f"{path} is {list(own.raw.shape)}, but {source} is "
            f"{list(volume.raw.shape)}; a mask has the grid of its volume."
        )
    if not np.allclose(own.affine, volume.affine, atol=1e-3):
        raise ShapeMismatchError(
            f"{path} lies elsewhere than {source}: their affines differ by up to "
            f"{abs(own.affine - volume.affine).max():g}; resample the mask."
        )
    values = own.values()
    marks = np.unique(values[values != 0])
    if len(marks) > 1 or not np.isfinite(marks).all():
        raise MaskValueError(
            f"{path}: a mask holds 0 and one other value, this {len(marks)} others, "
            f"such as {marks[0]:g} and {marks[-1]:g}; threshold it."
        )
    return values != 0


def grey_top(source: Path, values: np.ndarray, percentile: float) -> float:
    """The grey value that becomes 1; the rule of `data/intensity.py`.

    Args:
      source: the file, for messages.
      values: of valid voxels.
      percentile: of those that are not 0.

    Raises:
      ValueError: a percentile that is none, or one of 0.
    """
    if not 0 < percentile <= 100:
        raise ValueError(
            f"restore_nifti: percentile is {percentile}; it must be above 0, at most "
            "100."
        )
    shown = values[values != 0]
    top = float(np.percentile(shown, percentile)) if shown.size else 0.0
    if top <= 0:
        raise ValueError(
            f"{source}: {shown.size} valid voxels are not 0, and their percentile "
            f"{percentile:g} is {top:g}; a volume needs positive values."
        )
    return top


def _restore(
    restore: Restore,
    planes: Mapping[str, np.ndarray],
    own: np.ndarray,
    multiple: int,
    batch_size: int,
) -> np.ndarray:
    """Runs one batch of slices; returns [len(own), H, W]."""
    rows = np.pad(own, (0, batch_size - len(own)), mode="edge")
    height, width = planes["image"].shape[1:]
    spare = [-size % multiple for size in (height, width)]
    pad = [(more // 2, more - more // 2) for more in spare]
    batch = {
        name: np.pad(
            array[rows],
            [(0, 0), *pad],
            constant_values=-1 if name == "image" else 0,
        )[..., None]
        for name, array in planes.items()
    }
    completed = np.asarray(restore(batch)["completed"])
    if completed.shape != batch["image"].shape:
        raise ValueError(
            f"restore_nifti: the network returned {list(completed.shape)} for slices "
            f"of {list(batch['image'].shape)}."
        )
    if not np.isfinite(completed).all():
        raise ValueError(
            f"restore_nifti: the network returned NaN or infinity for slices "
            f"{own.tolist()}; nothing was written."
        )
    (top, _), (left, _) = pad
    return completed[: len(own), top : top + height, left : left + width, 0]


def as_stored(values: np.ndarray, volume: NiftiFile) -> np.ndarray:
    """Grey values as the file stores them, by its slope, intercept and data type.

    Args:
      values: of any shape, rounded and held within the range of an integer type.
      volume: the file.
    """
    stored = (values - volume.inter) / volume.slope
    dtype = volume.raw.dtype
    if dtype.kind == "f":
        return stored.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(stored), limits.min, limits.max).astype(dtype)


def write_nifti(target: Path, volume: NiftiFile, raw: np.ndarray) -> None:
    """Writes the source's bytes with other voxels [X, Y, Z], whole or not at all."""
    voxels = raw.tobytes(order="F")
    end = volume.offset + len(voxels)
    content = volume.content[: volume.offset] + voxels + volume.content[end:]
    if target.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
