"""Volumes in folders of chunks: OME-Zarr, zarr, N5 and Neuroglancer precomputed.

tensorstore reads and writes all of them, so that no byte of their metadata is ours.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.images import MAX_SECTIONS, ImageFileError, expect_pixels
from jaxinpaint.data.volume_files import Grid, Plane, Voxel, section_axes
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
_UNITS = {"nm": "nanometer", "um": "micrometer", "µm": "micrometer", "mm": "millimeter"}


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
      driver: of tensorstore.
      arrays: folders of the array and of its lower resolutions, relative; the same
        folder for precomputed.
      axes: names of the array's axes; () if nothing names them.
      voxel: size of a voxel, if it is told.
      multiscale: of OME-Zarr, the entry of `multiscales`; None otherwise.
      version: of OME-Zarr.
    """

    driver: str
    arrays: tuple[str, ...]
    axes: tuple[str, ...]
    voxel: Voxel | None
    multiscale: dict[str, Any] | None = None
    version: str = ""


def is_store(path: Path) -> bool:
    """Whether a folder is one of these, by the files in it."""
    names = ("zarr.json", ".zarray", ".zgroup", ".zattrs", "attributes.json", "info")
    return path.is_dir() and any((path / name).is_file() for name in names)


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
        own = _json(self.path / self._found.arrays[0] / "attributes.json")
        path = target / "attributes.json"
        names = ("resolution", "units", "pixelResolution", "axes")
        more = {name: own[name] for name in names if name in own}
        path.write_text(json.dumps(_json(path) | more))


def find(path: Path, dataset: str | None) -> Found:
    """Finds the array that a folder holds, without opening it.

    Raises:
      ImageFileError: damaged metadata, or none or several arrays.
    """
    if (path / "info").is_file():
        return _find_precomputed(path)
    three = (path / "zarr.json").is_file()
    two = any((path / n).is_file() for n in (".zarray", ".zgroup", ".zattrs"))
    if not three and not two:
        return _find_n5(path, dataset)
    driver = "zarr3" if three else "zarr"
    if three:
        content = _json(path / "zarr.json")
        attributes = content.get("attributes", {})
        is_array = content.get("node_type") == "array"
        ome = attributes.get("ome", attributes)
    else:
        is_array = (path / ".zarray").is_file()
        attributes = _json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
        ome = attributes
    scales = ome.get("multiscales") if isinstance(ome, dict) else None
    if scales and not is_array:
        try:
            return _from_multiscales(path, driver, scales, ome, dataset)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            if isinstance(error, ImageFileError):
                raise
            raise ImageFileError(
                f"{path}: its multiscales metadata are not OME-Zarr's: {error!r}"
            ) from error
    if is_array and not dataset:
        return Found(driver, ("",), (), None)
    if not dataset:
        mark = "zarr.json" if three else ".zarray"
        inside = sorted(p.parent.name for p in path.glob(f"*/{mark}"))
        raise ImageFileError(
            f"{path}: is a group without multiscales; name an array by --dataset, it "
            f"holds {inside[:8]}."
        )
    return Found(driver, (dataset,), (), None)


def _from_multiscales(
    path: Path, driver: str, scales: Any, ome: Any, dataset: str | None
) -> Found:
    first = scales[0]
    arrays = tuple(str(one["path"]) for one in first["datasets"])
    if dataset and dataset not in arrays:
        return Found(driver, (dataset,), (), None)
    if len(scales) > 1 or (dataset and dataset != arrays[0]):
        raise ImageFileError(
            f"{path}: holds {len(scales)} images of {len(arrays)} levels; only the full "
            f"resolution of a single one is restored, which here would be {arrays[0]!r}."
        )
    axes = first.get("axes") or list("tczyx")
    names = tuple(a["name"] if isinstance(a, dict) else str(a) for a in axes)
    if set("zyx") - set(names):
        raise ImageFileError(
            f"{path}: its axes are {list(names)}; a volume has z, y, x."
        )
    units = [a.get("unit", "") if isinstance(a, dict) else "" for a in axes]
    scale = np.ones(len(names))
    parts = [*first["datasets"][0].get("coordinateTransformations", ())]
    told = bool(parts)
    for one in [*parts, *first.get("coordinateTransformations", ())]:
        if one["type"] == "scale":
            scale *= np.asarray(one["scale"], float)
    own = [names.index(a) for a in "zyx"]
    z, y, x = (float(scale[n]) for n in own)
    unit = {units[n] for n in own}
    voxel = Voxel((z, y, x), unit.pop() if len(unit) == 1 else "") if told else None
    version = str(ome.get("version") or first.get("version") or "")
    return Found(driver, arrays, names, voxel, first, version)


def _find_n5(path: Path, dataset: str | None) -> Found:
    """N5 has its axes in the other order: x, y, z."""
    array = dataset or ""
    attributes = path / array / "attributes.json"
    content = _json(attributes) if attributes.is_file() else {}
    if "dimensions" not in content:
        inside = sorted(
            str(p.parent.relative_to(path))
            for p in [
                *path.glob("*/attributes.json"),
                *path.glob("*/*/attributes.json"),
            ]
            if "dimensions" in _json(p)
        )
        raise ImageFileError(
            f"{path}: {array or 'the folder'} is no N5 array; name one by --dataset, it "
            f"holds {inside[:8]}."
        )
    parts, unit = content.get("resolution"), ""
    if isinstance(content.get("pixelResolution"), dict):
        parts = parts or content["pixelResolution"].get("dimensions")
        unit = str(content["pixelResolution"].get("unit", ""))
    units = content.get("units")
    if isinstance(units, list) and units and len(set(map(str, units))) == 1:
        unit = str(units[0])
    voxel = None
    if isinstance(parts, list) and len(parts) == 3:
        x, y, z = (float(n) for n in parts)
        voxel = Voxel((z, y, x), _UNITS.get(unit, unit))
    arrays = [array]
    if Path(array).name == "s0":  # lower resolutions stand beside it
        while (
            path / (level := f"{array[:-1]}{len(arrays)}") / "attributes.json"
        ).exists():
            arrays.append(level)
    return Found("n5", tuple(arrays), ("x", "y", "z"), voxel)


def _find_precomputed(path: Path) -> Found:
    content = _json(path / "info")
    scales = content.get("scales")
    if not isinstance(scales, list) or not scales:
        raise ImageFileError(f"{path}: its info names no scales.")
    lossy = {str(one.get("encoding")) for one in scales} & {"jpeg", "jxl", "fpzip"}
    if lossy:
        raise ImageFileError(
            f"{path}: {min(lossy)} chunks cannot be written again without changing "
            "valid voxels; convert it to raw chunks."
        )
    x, y, z = (float(n) for n in scales[0]["resolution"])
    names = ("x", "y", "z", "channel")
    voxel = Voxel((z, y, x), "nanometer")
    return Found("neuroglancer_precomputed", ("",) * len(scales), names, voxel)


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


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ImageFileError(f"{path}: is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ImageFileError(f"{path}: is no table of metadata.")
    return content
