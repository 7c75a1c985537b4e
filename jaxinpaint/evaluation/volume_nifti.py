"""A NIfTI volume among the other containers; held in memory, for it is packed whole."""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxinpaint.data.images import expect_pixels
from jaxinpaint.data.pictures import write_whole
from jaxinpaint.data.volume_files import Grid, Plane, Voxel, section_axes
from jaxinpaint.data.volume_grids import GridVolume, Opened, write_planes
from jaxinpaint.data.volumes import import_nibabel
from jaxinpaint.inference.nifti import SUFFIXES, NiftiFile, read_nifti, write_nifti

_UNITS = {"mm": "millimeter", "micron": "micrometer", "meter": "meter"}


class NiftiVolume(GridVolume):
    """A NIfTI file; its sections are rows of y, or z, with x, or y, along the columns.

    Attributes:
      file: what was read.
    """

    kind = "NIfTI"

    def __init__(self, path: Path, axis: str, max_pixels: int) -> None:
        """Reads it.

        Raises:
          ValueError: no NIfTI, or too large.
          ImportError: nibabel is not installed.
          OSError: the file is not there.
        """
        self.path, self.axis, self.max_pixels = path, axis, max_pixels
        self.file: NiftiFile = read_nifti(path)
        raw = self.file.raw
        self.grid = Grid(raw, section_axes("xyz", axis))
        count, height, width = self.grid.shape
        expect_pixels(str(path), height, width, max_pixels)
        self.shape = (count, height, width, 1)
        self.dtype = raw.dtype.newbyteorder("=")
        header = _image(self.file).header
        x, y, z = (float(n) for n in header.get_zooms()[:3])
        self.voxel = Voxel((z, y, x), _UNITS.get(header.get_xyzt_units()[0], ""))

    def reopen(self, target: Path) -> "NiftiVolume":
        """See `Volume`."""
        return NiftiVolume(target, self.axis, self.max_pixels)

    @contextlib.contextmanager
    def opened(self, target: Path) -> Iterator[Opened]:
        """See `Volume`."""
        raw = self.file.raw.copy()
        yield Opened(self.grid._replace(array=raw), [])
        write_nifti(target, self.file, raw)

    def layer_name(self, word: str) -> str:
        """See `Volume`."""
        suffix = next(s for s in reversed(SUFFIXES) if self.path.name.endswith(s))
        return f"{word}{suffix}"

    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """See `Volume`."""
        raw = np.zeros(self.file.raw.shape, dtype)
        write_planes(self.grid._replace(array=raw), 1, dtype, plane)
        own = _image(self.file)
        header = own.header.copy()
        header.set_data_dtype(dtype)
        header.set_slope_inter(1, 0)
        content = type(own)(raw, own.affine, header).to_bytes()
        if target.name.endswith(".gz"):
            content = gzip.compress(content, compresslevel=6, mtime=0)
        write_whole(target, content)


def _image(file: NiftiFile) -> Any:
    nibabel = import_nibabel()
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next(k for k in kinds if k.header_class.may_contain_header(file.content))
    return kind.from_bytes(file.content)
