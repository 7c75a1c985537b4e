"""Volumes whose sections are pages of one TIFF, or pictures of one folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from jaxinpaint.data.images import (
    MAX_SECTIONS,
    ImageFileError,
    check_tiff_data,
    check_tiff_page,
    encode_png,
    list_sections,
)
from jaxinpaint.data.patches import Patch
from jaxinpaint.data.pictures import (
    Picture,
    encode_picture,
    read_picture,
    write_whole,
)
from jaxinpaint.data.tiff_pictures import check_rewritable, rewrite_page
from jaxinpaint.data.volume_files import NANOMETERS, Plane, Volume, Voxel, pages

_UNITS = {"nm": "nanometer", "µm": "micrometer", "um": "micrometer", "mm": "millimeter"}
_UNITS |= {"\\u00B5m": "micrometer", "micron": "micrometer"}  # as ImageJ writes it
_INCH, _CENTIMETRE = 2, 3
_UNIT_TAG = {_INCH: 25_400_000.0, _CENTIMETRE: 10_000_000.0}  # nanometres
_CLASSIC = 2**31  # bytes of pixels; a TIFF of 32-bit offsets ends at twice that


class TiffStack(Volume):
    """A TIFF whose pages, or planes, are the sections."""

    kind = "TIFF stack"

    def __init__(self, path: Path, max_pixels: int) -> None:
        """Opens it.

        Raises:
          ImageFileError: damaged, too large, not one stack, or of a kind that cannot
            be written again as it was.
          OSError: the file is not there.
        """
        self.path, self.max_pixels, name = path, max_pixels, str(path)
        self.size = path.stat().st_size
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:  # readers raise many types at damaged files
            raise ImageFileError(
                f"{name}: cannot be read as a TIFF: {error}"
            ) from error
        try:
            self._open(name)
        except ImageFileError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise ImageFileError(
                f"{name}: cannot be read as a TIFF: {error}"
            ) from error

    def _open(self, name: str) -> None:
        tiff = self._tiff
        if len(tiff.series) != 1:
            raise ImageFileError(
                f"{name}: its pages are not one stack but {len(tiff.series)} of "
                "different shapes; all sections must be alike."
            )
        series = tiff.series[0]
        axes = series.axes
        if len(axes.rstrip("S")) != 3 or axes.rstrip("S")[1:] != "YX":
            raise ImageFileError(
                f"{name}: axes are {axes} {series.shape}; a stack is ZYX, or ZYXS with "
                "S samples of colour."
            )
        page = series.keyframe
        check_tiff_page(page, name, self.max_pixels)
        check_rewritable(page, name)
        count, height, width, *samples = series.shape
        channels = samples[0] if samples else 1
        if channels not in (1, 3) or page.dtype == np.bool_:
            raise ImageFileError(
                f"{name}: {channels} samples a pixel; sections are grey or RGB."
            )
        if count > MAX_SECTIONS:
            raise ImageFileError(f"{name}: has more than {MAX_SECTIONS} pages.")
        self.shape = (int(count), int(height), int(width), int(channels))
        self.dtype = np.dtype(page.dtype).newbyteorder("=")
        self.voxel = _tiff_voxel(tiff)
        self._one = len(series.pages) != count  # ImageJ writes one above 4 GB
        if self._one and (
            series.dataoffset is None or series.dataoffset + series.nbytes > self.size
        ):
            raise ImageFileError(f"{name}: holds fewer pages than it declares.")

    def close(self) -> None:
        """See `Volume`."""
        self._tiff.close()

    def _place(self, z: int) -> tuple[int, int]:
        """Where a plane begins in a file of one page, and its bytes."""
        series = self._tiff.series[0]
        count = series.nbytes // self.shape[0]
        return series.dataoffset + z * count, count

    def read(self, first: int, last: int) -> np.ndarray:
        """See `Volume`."""
        return np.stack([self._read(z) for z in range(first, last)])

    def _read(self, z: int) -> np.ndarray:
        name = f"{self.path}: page {z}"
        try:
            if self._one:
                offset, count = self._place(z)
                self._tiff.filehandle.seek(offset)
                kind = self.dtype.newbyteorder(self._tiff.byteorder)
                flat = np.frombuffer(self._tiff.filehandle.read(count), kind)
                return flat.astype(self.dtype).reshape(self.shape[1:])
            page = self._tiff.series[0].pages[z]
            if page is None:
                raise ImageFileError(f"{name}: is missing.")
            check_tiff_data(self._tiff, page, name, self.size)
            return np.ascontiguousarray(page.asarray().reshape(self.shape[1:]))
        except ImageFileError:
            raise
        except Exception as error:
            raise ImageFileError(f"{name}: cannot be read: {error}") from error

    def reopen(self, target: Path) -> "TiffStack":
        """See `Volume`."""
        return TiffStack(target, self.max_pixels)

    def apply(self, target: Path, patches: Callable[[int], Patch | None]) -> None:
        """See `Volume`."""
        own = [z for z in range(self.shape[0]) if patches(z) is not None]
        with open(target, "r+b") as file, tifffile.TiffFile(file) as tiff:
            for z in own:
                patch = patches(z)
                assert patch is not None
                section = self.section(z)
                patch.paste(section)
                name = f"{target}: page {z}"
                if self._one:
                    kind = self.dtype.newbyteorder(self._tiff.byteorder)
                    file.seek(self._place(z)[0])
                    file.write(section.astype(kind).tobytes())
                    continue
                changed = np.zeros(self.shape[1:3], bool)
                changed[patch.box] = patch.hole
                page = tiff.series[0].pages[z].aspage()
                rewrite_page(file, tiff, page, changed, section, name)

    def layer_name(self, word: str) -> str:
        """See `Volume`."""
        return f"{word}.tif"

    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """See `Volume`."""
        shape = self.shape[:3]
        more: dict[str, Any] = {"metadata": {"axes": "ZYX"}}
        if self.voxel is not None and self.voxel.unit in NANOMETERS:
            scale = NANOMETERS[self.voxel.unit]
            spacing, *across = (n * scale for n in self.voxel.size)
            more["metadata"] |= {"spacing": spacing, "unit": "nm"}
            x_per_cm, y_per_cm = (1e7 / n for n in reversed(across))
            more |= {"resolution": (x_per_cm, y_per_cm), "resolutionunit": 3}
        tifffile.imwrite(
            target,
            pages(plane, shape, dtype),
            shape=shape,
            dtype=dtype,
            compression="zlib",
            photometric="minisblack",
            bigtiff=int(np.prod(shape)) * dtype.itemsize > _CLASSIC,
            **more,
        )


class PictureFolder(Volume):
    """A folder of numbered pictures, one a section."""

    kind = "folder of pictures"

    def __init__(self, path: Path, files: tuple[Path, ...], max_pixels: int) -> None:
        """Opens it.

        Args:
          path: the folder.
          files: that `list_sections` found there.
          max_pixels: height * width above which a section is refused undecoded.

        Raises:
          ImageFileError: a first section that cannot be written again as it was.
        """
        self.path, self.max_pixels = path, max_pixels
        self._files = files
        pixels = self._picture(0, None).pixels
        self.shape = (len(files), *pixels.shape)
        self.dtype = pixels.dtype

    def _picture(self, z: int, shape: tuple[int, ...] | None) -> Picture:
        path = self._files[z]
        picture = read_picture(path, self.max_pixels)
        if picture.container == "JPEG" or picture.alpha is not None:
            what = "transparency" if picture.alpha is not None else "JPEG"
            raise ImageFileError(
                f"{path}: {what} cannot stay as it is; save the sections as PNG or "
                "TIFF, grey or RGB."
            )
        pixels = picture.pixels
        if shape and (pixels.shape != shape or pixels.dtype != self.dtype):
            raise ImageFileError(
                f"{path} is {pixels.dtype} {list(pixels.shape)}, but "
                f"{self._files[0].name} is {self.dtype} {list(shape)}; sections are "
                "alike."
            )
        return picture

    def label(self, z: int) -> str:
        """See `Volume`."""
        return f"section {z} ({self._files[z].name})"

    def read(self, first: int, last: int) -> np.ndarray:
        """See `Volume`."""
        shape = self.shape[1:]
        return np.stack([self._picture(z, shape).pixels for z in range(first, last)])

    def files(self) -> list[Path]:
        """See `Volume`."""
        return [Path(path.name) for path in self._files]

    def written_name(self) -> str:
        """See `Volume`."""
        return self.path.resolve().name

    def reopen(self, target: Path) -> "PictureFolder":
        """See `Volume`."""
        return PictureFolder(target, list_sections(target), self.max_pixels)

    def apply(self, target: Path, patches: Callable[[int], Patch | None]) -> None:
        """See `Volume`."""
        for z, path in enumerate(self._files):
            patch = patches(z)
            if patch is None:
                continue
            picture = self._picture(z, self.shape[1:])
            pixels = picture.pixels.copy()
            patch.paste(pixels)
            write_whole(target / path.name, encode_picture(picture, pixels))

    def layer_name(self, word: str) -> str:
        """See `Volume`."""
        return word

    def write_layer(self, target: Path, dtype: np.dtype, plane: Plane) -> None:
        """See `Volume`."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        planes = pages(plane, self.shape, dtype)
        for path, own in zip(self._files, planes, strict=True):
            (target / f"{path.stem}.png").write_bytes(encode_png(own[..., None]))


def _tiff_voxel(tiff: tifffile.TiffFile) -> Voxel | None:
    """The size that ImageJ or OME wrote into a TIFF."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_voxel(tiff.ome_metadata)
    found = tiff.imagej_metadata if tiff.is_imagej else None
    own: dict[str, Any] = found or (tiff.shaped_metadata or ({},))[0]
    tags = tiff.pages[0].tags
    if "spacing" not in own or "XResolution" not in tags or "YResolution" not in tags:
        return None
    across = []
    for name in ("YResolution", "XResolution"):
        top, bottom = tags[name].value
        if not top:
            return None
        across.append(bottom / top)
    unit = _UNITS.get(str(own.get("unit", "")), str(own.get("unit", "")))
    code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
    if code in _UNIT_TAG:
        scale = _UNIT_TAG[code] / NANOMETERS.get(unit, 1.0)
        across = [n * scale for n in across]
    return Voxel((float(own["spacing"]), across[0], across[1]), unit)


def _ome_voxel(text: str) -> Voxel | None:
    try:
        root = ElementTree.fromstring(text)
        pixels = next(e for e in root.iter() if e.tag.endswith("}Pixels"))
        size = [float(pixels.attrib[f"PhysicalSize{a}"]) for a in "ZYX"]
        units = {pixels.attrib.get(f"PhysicalSize{a}Unit", "µm") for a in "ZYX"}
    except (StopIteration, KeyError, ValueError, ElementTree.ParseError):
        return None
    if len(units) > 1:
        return None
    unit = units.pop()
    return Voxel((size[0], size[1], size[2]), _UNITS.get(unit, unit))
