"""Volumes in HDF5 files, such as those of the CREMI challenge."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxinpaint.data import cremi
from jaxinpaint.data.images import MAX_SECTIONS, ImageFileError, expect_pixels
from jaxinpaint.data.volume_files import Grid, Plane, Voxel, section_axes
from jaxinpaint.data.volume_grids import GridVolume, Opened, write_planes


class Hdf5Volume(GridVolume):
    """A dataset (z, y, x) of an HDF5 file."""

    kind = "HDF5"

    def __init__(
        self, path: Path, dataset: str | None, axis: str, max_pixels: int
    ) -> None:
        """Opens it.

        Args:
          path: of the file.
          dataset: in it; CREMI's volumes/raw if None.
          axis: which of "zyx" counts the sections.
          max_pixels: height * width above which it is refused.

        Raises:
          ImageFileError: no HDF5, or no such dataset of three axes of its own.
          ImportError: h5py is not installed.
          OSError: the file is not there.
        """
        self.path, self.axis, self.max_pixels = path, axis, max_pixels
        self.dataset = dataset or cremi.DATASET
        path.stat()
        h5py = cremi.import_h5py(path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ImageFileError(f"{path}: cannot be read as HDF5: {error}") from error
        try:
            self._open()
        except ImageFileError:
            self.close()
            raise

    def _open(self) -> None:
        path, array = self.path, self._file.get(self.dataset)
        if array is None or not hasattr(array, "shape"):
            names: list[str] = []
            self._file.visit(lambda n: names.append(n) if len(names) < 8 else None)
            raise ImageFileError(
                f"{path}: there is no dataset {self.dataset!r}; name one by --dataset, "
                f"the file holds {names}."
            )
        if array.file != self._file or array.is_virtual or array.external:
            raise ImageFileError(
                f"{path}: {self.dataset} lies in another file; give a file that holds "
                "it."
            )
        if array.ndim != 3 or 0 in array.shape:
            raise ImageFileError(
                f"{path}: {self.dataset} must be (z, y, x), got {array.shape}."
            )
        lossy = {"scaleoffset", "szip"} & {array.compression, *_filters(array)}
        if lossy:
            raise ImageFileError(
                f"{path}: {self.dataset} is stored with the filter {min(lossy)}, which "
                "may change valid voxels; store it with gzip."
            )
        self.grid = Grid(array, section_axes("zyx", self.axis))
        count, height, width = self.grid.shape
        if count > MAX_SECTIONS:
            raise ImageFileError(f"{path}: has more than {MAX_SECTIONS} sections.")
        expect_pixels(str(path), height, width, self.max_pixels)
        self.shape = (count, height, width, 1)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self.depth = array.chunks[self.grid.axes[0]] if array.chunks else 1
        found = np.asarray(array.attrs.get("resolution", ()))
        if found.shape == (3,) and found.dtype.kind in "iuf" and (found > 0).all():
            z, y, x = (float(n) for n in found)
            self.voxel = Voxel((z, y, x), "nanometer")

    def close(self) -> None:
        """See `Volume`."""
        self._file.close()

    def reopen(self, target: Path) -> "Hdf5Volume":
        """See `Volume`."""
        return Hdf5Volume(target, self.dataset, self.axis, self.max_pixels)

    @contextlib.contextmanager
    def opened(self, target: Path) -> Iterator[Opened]:
        """See `Volume`."""
        h5py = cremi.import_h5py(target)
        with h5py.File(target, "r+") as file:
            yield Opened(Grid(file[self.dataset], self.grid.axes), [])

    def layer_name(self, word: str) -> str:
        """See `Volume`."""
        return f"{word}{self.path.suffix}"

    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """See `Volume`."""
        h5py = cremi.import_h5py(target)
        own = self.grid.array
        with h5py.File(target, "w") as file:
            array = file.create_dataset(
                self.dataset, own.shape, dtype, chunks=own.chunks or True, compression=4
            )
            if "resolution" in own.attrs:
                array.attrs["resolution"] = own.attrs["resolution"]
            write_planes(Grid(array, self.grid.axes), self.depth, dtype, plane)


def _filters(array: object) -> list[str]:
    return ["scaleoffset"] if getattr(array, "scaleoffset", None) is not None else []
