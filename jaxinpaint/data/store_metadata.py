"""What the metadata say of volumes in folders of chunks; nothing is opened.

OME-Zarr 0.4 and 0.5, zarr 2 and 3, N5, and Neuroglancer precomputed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.volume_files import Voxel

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
        content = read_json(path / "zarr.json")
        attributes = content.get("attributes", {})
        is_array = content.get("node_type") == "array"
        ome = attributes.get("ome", attributes)
    else:
        is_array = (path / ".zarray").is_file()
        attributes = read_json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
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
    content = read_json(attributes) if attributes.is_file() else {}
    if "dimensions" not in content:
        inside = sorted(
            str(p.parent.relative_to(path))
            for p in [
                *path.glob("*/attributes.json"),
                *path.glob("*/*/attributes.json"),
            ]
            if "dimensions" in read_json(p)
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
    content = read_json(path / "info")
    scales = content.get("scales")
    if not isinstance(scales, list) or not scales:
        raise ImageFileError(f"{path}: its info names no scales.")
    lossy = {str(one.get("encoding")) for one in scales} & {"jpeg", "jxl", "fpzip"}
    if lossy:
        raise ImageFileError(
            f"{path}: {min(lossy)} chunks cannot be written again without changing "
            "valid voxels; convert it to raw chunks."
        )
    expect_below(path, [str(one.get("key", "")) for one in scales])
    x, y, z = (float(n) for n in scales[0]["resolution"])
    names = ("x", "y", "z", "channel")
    voxel = Voxel((z, y, x), "nanometer")
    return Found("neuroglancer_precomputed", ("",) * len(scales), names, voxel)


def expect_below(path: Path, names: Sequence[str]) -> None:
    """Refuses arrays that lie elsewhere, where a copy's changes would go too.

    Raises:
      ImageFileError: a name leads out of the folder.
    """
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts:
            raise ImageFileError(
                f"{path}: its array {name!r} lies outside of it; give a folder that "
                "holds its arrays."
            )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a table of metadata.

    Raises:
      ImageFileError: it is none.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ImageFileError(f"{path}: is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ImageFileError(f"{path}: is no table of metadata.")
    return content
