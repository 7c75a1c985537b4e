"""Volumes in folders of chunks: OME-Zarr, zarr, N5 and Neuroglancer precomputed.

tensorstore reads and writes all of them, so that no byte of their metadata is ours.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxinpaint.data.images import MAX_SECTIONS, ImageFileError, expect_pixels
from jaxinpaint.data.store_metadata import Found, expect_below, find, read_json
from jaxinpaint.data.volume_files import Grid, Plane, section_axes
from jaxinpaint.data.volume_grids import GridVolume, Opened, factors, write_planes

_DRIVERS = {
    "zarr": "zarr",
    "zarr3": "zarr 3",
    "n5": "N5",
    "neuroglancer_precomputed": "precomputed",
}
_SUFFIX = {"zarr": ".zarr", "zarr3": ".zarr", "n5": ".n5"}
_CODECS: dict[str, dict[str, Any]] = {  # of layers, which are mostly zeros
    "zarr": {"compressor": {"id": "zlib", "level": 5}},
    "zarr3": {
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 5}},
        ]
    },
    "n5": {"compression": {"type": "gzip"}},
}


class StoreVolume(GridVolume):
    """An array of chunks."""

    def __init__(
        self, path: Path, dataset: str | None, axis: str, max_pixels: int
    ) -> None:
        """Opens it.

        Args:
          path: of the folder.
          dataset: array in it; None where it is one, or says which.
          axis: which of "zyx" counts the sections.
          max_pixels: height * width above which it is refused.

        Raises:
          ImageFileError: no such array, damaged metadata, or axes that are no volume.
        """
        self.path, self.axis, self.max_pixels = path, axis, max_pixels
        self.dataset = dataset
        found = self._found = find(path, dataset)
        expect_below(path, found.arrays)
        ome = "OME-" if found.multiscale else ""
        self.kind = f"{ome}{_DRIVERS[found.driver].replace('zarr', 'Zarr')}"
        array = self._array(path, 0, write=False)
        names = _names(path, found, array)
        self.grid = Grid(array, section_axes("".join(names), axis))
        count, height, width = self.grid.shape
        if count > MAX_SECTIONS:
            raise ImageFileError(f"{path}: has more than {MAX_SECTIONS} sections.")
        expect_pixels(str(path), height, width, max_pixels)
        self.shape = (count, height, width, 1)
        self.dtype = np.dtype(array.dtype.numpy_dtype).newbyteorder("=")
        self.voxel = found.voxel
        chunk = array.chunk_layout.read_chunk.shape
        self.depth = int((chunk or array.shape)[self.grid.axes[0]])
        self._check_levels()

    def _array(self, root: Path, level: int, *, write: bool) -> Any:
        """Opens an array with its origin at 0, whatever its file says."""
        import tensorstore

        found = self._found
        spec: dict[str, Any] = {
            "driver": found.driver,
            "kvstore": {"driver": "file", "path": f"{root / found.arrays[level]}/"},
        }
        if found.driver == "neuroglancer_precomputed":
            spec["scale_index"] = level
        try:
            array = tensorstore.open(spec, open=True, read=True, write=write).result()
        except Exception as error:  # it raises many types at damaged metadata
            raise ImageFileError(
                f"{root}: cannot be read as {_DRIVERS[found.driver]}: {error}"
            ) from error
        for n in range(array.rank):
            array = array[tensorstore.d[n].translate_to[0]]
        return array

    def _check_levels(self) -> None:
        """Refuses lower resolutions that could not be brought up to date."""
        for n in range(1, len(self._found.arrays)):
            level = self.grid._replace(array=self._array(self.path, n, write=False))
            if factors(level, self.grid) is None:
                raise ImageFileError(
                    f"{self.path}: its level {n} is {list(level.shape)} of "
                    f"{list(self.shape[:3])}, no whole factor; give the array of full "
                    "resolution by --dataset, or a volume without that level."
                )

    def reopen(self, target: Path) -> "StoreVolume":
        """See `Volume`."""
        return StoreVolume(target, self.dataset, self.axis, self.max_pixels)

    @contextlib.contextmanager
    def opened(self, target: Path) -> Iterator[Opened]:
        """See `Volume`."""
        grids = [
            self.grid._replace(array=self._array(target, n, write=True))
            for n in range(len(self._found.arrays))
        ]
        yield Opened(grids[0], grids[1:])

    def layer_name(self, word: str) -> str:
        """See `Volume`."""
        return f"{word}{_SUFFIX.get(self._found.driver, '.precomputed')}"

    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """See `Volume`."""
        import tensorstore

        found, own = self._found, self.grid.array
        inner = "0" if found.multiscale else ""
        spec: dict[str, Any] = {
            "driver": found.driver,
            "kvstore": {"driver": "file", "path": f"{target / inner}/"},
        }
        chunk = [int(n) for n in own.chunk_layout.read_chunk.shape or own.shape]
        shape = [int(n) for n in own.shape]
        spec |= _metadata(found, shape, chunk, dtype.name, own)
        array = tensorstore.open(spec, create=True, read=True, write=True).result()
        for n in range(array.rank):
            array = array[tensorstore.d[n].translate_to[0]]
        if found.multiscale:
            _write_group(target, found)
        elif found.driver == "n5":
            self._add_resolution(target)
        write_planes(self.grid._replace(array=array), self.depth, dtype, plane)

    def _add_resolution(self, target: Path) -> None:
        """Copies the voxel size of an N5 array to its layer."""
        own = read_json(self.path / self._found.arrays[0] / "attributes.json")
        path = target / "attributes.json"
        names = ("resolution", "units", "pixelResolution", "axes")
        more = {name: own[name] for name in names if name in own}
        path.write_text(json.dumps(read_json(path) | more))


def _names(path: Path, found: Found, array: Any) -> list[str]:
    """One letter an axis; there must be nothing along others than z, y and x."""
    names = [name[0] for name in found.axes] or list("tczyx"[-array.rank :])
    if len(names) != array.rank or set("zyx") - set(names):
        raise ImageFileError(
            f"{path}: the array has the shape {list(array.shape)}; a volume has the "
            "axes z, y and x."
        )
    more = [f"{n} of {a!r}" for a, n in zip(names, array.shape, strict=True) if n != 1]
    more = [one for one in more if one[-2] not in "zyx"]
    if more:
        raise ImageFileError(
            f"{path}: has {' and '.join(more)}; one channel and one time are restored, "
            "so save each as a volume of its own."
        )
    return names


def _metadata(
    found: Found, shape: list[int], chunk: list[int], dtype: str, own: Any
) -> dict[str, Any]:
    """What tensorstore is told to make a layer like an array."""
    if found.driver == "neuroglancer_precomputed":
        scale = own.spec().to_json()["scale_metadata"]
        return {
            "multiscale_metadata": {
                "type": "image",
                "data_type": dtype,
                "num_channels": 1,
            },
            "scale_metadata": {
                "size": scale["size"],
                "resolution": scale["resolution"],
                "voxel_offset": scale.get("voxel_offset", [0, 0, 0]),
                "chunk_size": chunk[:3],
                "encoding": "raw",
            },
        }
    made: dict[str, Any] = dict(_CODECS[found.driver])
    if found.driver == "n5":
        return {
            "metadata": made
            | {"dimensions": shape, "blockSize": chunk, "dataType": dtype}
        }
    if found.driver == "zarr":
        made |= {"shape": shape, "chunks": chunk, "dtype": np.dtype(dtype).str}
        made |= {"dimension_separator": "/", "fill_value": 0}
        return {"metadata": made}
    if dtype == "uint8":
        made["codecs"] = [{"name": "bytes"}, made["codecs"][1]]
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    made |= {"shape": shape, "data_type": dtype, "chunk_grid": grid, "fill_value": 0}
    return {"metadata": made}


def _write_group(target: Path, found: Found) -> None:
    """The OME-Zarr metadata of a layer: axes and scale of its volume, one level."""
    assert found.multiscale is not None
    first = found.multiscale
    own: dict[str, Any] = {
        k: first[k]
        for k in ("axes", "version", "coordinateTransformations")
        if k in first
    }
    level = {**first["datasets"][0], "path": "0"}
    own |= {"name": target.name.partition(".")[0], "datasets": [level]}
    if found.driver == "zarr3":
        ome = {"version": found.version or "0.5", "multiscales": [own]}
        content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        (target / "zarr.json").write_text(json.dumps(content))
    else:
        (target / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (target / ".zattrs").write_text(json.dumps({"multiscales": [own]}))
