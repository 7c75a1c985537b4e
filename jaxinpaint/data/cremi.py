"""Reads stacks of the CREMI challenge: HDF5 files with `volumes/raw`.

Such a file holds (z, y, x) uint8 and, as the attribute `resolution`, nanometres in the
same order; those of the challenge are 125 sections of 1250 x 1250 at 40 x 4 x 4 nm.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxinpaint.data.images import MAX_SECTIONS, ImageFileError, expect_pixels

SUFFIXES = (".hdf", ".hdf5", ".h5")
DATASET = "volumes/raw"
SHAPE = (125, 1250, 1250)  # of samples A, B, C and A+, B+, C+
PADDED_SHAPE = (200, 3072, 3072)
BLOCK = 2**28  # bytes that are decoded at once, at most

_NAME = re.compile(r"sample_?[ABC]\+?([._-]|$)", re.IGNORECASE)


def is_volume(source: str | Path) -> bool:
    """Whether a source is to be read as HDF5, by its suffix."""
    source = Path(source)
    return source.suffix.lower() in SUFFIXES and not source.is_dir()


def read_sections(
    path: str | Path, max_pixels: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the sections of a volume, one after the other in axial order.

    Args:
      path: of the file.
      max_pixels: height * width above which it is refused undecoded.

    Yields:
      A name (for section 7 of sample_A.hdf, sample_A_0007) and uint8 [H, W, 1].

    Raises:
      ImageFileError: no HDF5, no `volumes/raw`, a wrong rank or dtype, a resolution
        that is none, a padded CREMI file, or data that lie in another file.
      ImportError: h5py is not installed.
      OSError: the file is not there or may not be read.

    Warns:
      UserWarning: the attribute `resolution` is missing.

    Source: FlowInpaint sections 6.1 and 9.4.
    """
    path = Path(path)
    with open(path, "rb"):
        pass  # h5py says less of a file that is not there
    h5py = import_h5py(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read as HDF5: {error}") from error
    with file:
        raw = _find(file, path, h5py)
        _expect_unpadded(file, path, raw.shape, h5py)
        count, height, width = raw.shape
        expect_pixels(str(path), height, width, max_pixels)
        # A chunk holds several sections: decoded for each of them, it would cost as
        # many times the time.
        depth = raw.chunks[0] if raw.chunks else 1
        depth = max(1, min(depth, BLOCK // (height * width)))
        for first in range(0, count, depth):
            try:
                block = raw[first : first + depth]
            except OSError as error:
                raise ImageFileError(
                    f"{path}: {DATASET} is damaged at section {first}: {error}"
                ) from error
            for z, pixels in enumerate(block, first):
                yield f"{path.stem}_{z:04d}", pixels[..., None]


def import_h5py(path: Path) -> ModuleType:
    """The package h5py.

    Raises:
      ImportError: it is not installed; names the file and what to do.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{path}: reading HDF5 needs h5py; pip install 'jaxinpaint[volume]', or "
            "give the sections as a TIFF or as a folder of images."
        ) from error
    return h5py


def _find(file: Any, path: Path, h5py: ModuleType) -> Any:
    """The dataset, checked without reading it."""
    raw = file.get(DATASET)
    if not isinstance(raw, h5py.Dataset):
        found: list[str] = []
        file.visit(lambda name: found.append(name) if len(found) < 8 else None)
        raise ImageFileError(
            f"{path}: there is no dataset {DATASET}, of (z, y, x) uint8; the file "
            f"holds {found}."
        )
    if raw.file != file or raw.is_virtual or raw.external:
        raise ImageFileError(
            f"{path}: {DATASET} lies in another file; give a file that holds it."
        )
    if raw.ndim != 3 or raw.dtype != np.uint8 or 0 in raw.shape:
        raise ImageFileError(
            f"{path}: {DATASET} must be (z, y, x) of uint8, got {raw.shape} of "
            f"{raw.dtype}."
        )
    if len(raw) > MAX_SECTIONS:
        raise ImageFileError(f"{path}: has more than {MAX_SECTIONS} sections.")
    resolution = raw.attrs.get("resolution")
    if resolution is None:
        warnings.warn(
            f"{path}: {DATASET} has no attribute `resolution` (nm; z, y, x); its "
            "sections are taken as equally spaced, alpha = 0.5.",
            stacklevel=3,
        )
        return raw
    values = np.asarray(resolution)
    if values.shape != (3,) or values.dtype.kind not in "iuf" or not (values > 0).all():
        raise ImageFileError(
            f"{path}: the resolution of {DATASET} is {resolution!r}; it must be three "
            "positive lengths in nm, (z, y, x)."
        )
    return raw


def _expect_unpadded(
    file: Any, path: Path, shape: tuple[int, ...], h5py: ModuleType
) -> None:
    """Refuses the larger volumes of CREMI, whose labels cover a part of them.

    They are known by their shape, by an `offset` of their labels, or by a name of the
    challenge on a volume of another shape.
    """
    labels = file.get("volumes/labels")
    parts = labels.values() if isinstance(labels, h5py.Group) else ()
    offset = any(np.any(part.attrs.get("offset", 0)) for part in parts)
    named = _NAME.match(path.name) is not None and shape != SHAPE
    if shape == PADDED_SHAPE or offset or named:
        size = " x ".join(str(n) for n in shape)
        raise ImageFileError(
            f"{path}: {DATASET} is {size} and looks like a padded CREMI file; take the "
            f"file of {' x '.join(str(n) for n in SHAPE)} without padding"
            + (", or give your own volume another name." if named else ".")
        )
