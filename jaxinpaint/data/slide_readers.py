"""Regions of images and of whole slides, at the resolution of their files.

A whole slide is never decoded as a whole: a region reads the tiles it touches.
OpenSlide reads them where it is installed and knows the file; tifffile else.
"""

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from jaxinpaint.data import images

PLAIN = (".png", ".npy")
TIFF = (".tif", ".tiff")
WHOLE = (".svs", ".svslide", ".ndpi", ".scn", ".bif")  # whole slides by their names
SUFFIXES = PLAIN + TIFF + WHOLE
BLOCK = 2048  # pixels of the file that are read at once, along each side
OBJECTIVE = 10.0  # um / px at an objective of 1; 0.5 at one of 20
EXTRA = (
    "install the extra with `pip install 'jaxinpaint[slide]'`, which brings the packages "
    "openslide-python and openslide-bin"
)

Region = Callable[[int, int, int, int], np.ndarray]


class SlideFileError(OSError, images.ImageFileError):
    """A slide's file that cannot be read; what was read before it is not used."""


class Pixels(NamedTuple):
    """An image file that is read by regions.

    Attributes:
      height: rows of the file.
      width: columns of the file.
      mpp: micrometres of a pixel as the file says it; None where it says nothing.
      whole: whether it is a whole slide.
      region: (top, left, height, width), inside the image -> uint8 [h, w, 3].
    """

    height: int
    width: int
    mpp: float | None
    whole: bool
    region: Region


def open_pixels(path: str | Path, max_pixels: int) -> Pixels:
    """Opens an image or a whole slide; of both the header alone is read.

    A TIFF is a whole slide if it is tiled and has several levels, or more than
    `max_pixels` pixels.

    Args:
      path: .png, .npy, .tif, .tiff or a whole slide.
      max_pixels: height * width above which an image that is no whole slide is refused.

    Returns:
      The file.

    Raises:
      ImageFileError: no 8-bit RGB, or too large.
      SlideFileError: damaged, or a whole slide that no reader takes.
      ImportError: a whole slide, and no package that reads it.
      OSError: the file is not there.

    Source: glomeruli specification 5.3.
    """
    path = Path(path)
    path.stat()
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _open_array(path, max_pixels)
    if suffix in WHOLE:
        return _open_whole(path)
    if suffix in TIFF:
        with _tiff(path) as tiff:
            page = tiff.pages[0]
            size = page.imagelength, page.imagewidth
            levels = len(tiff.series[0].levels)
            reduced = any(_is_reduced(one, page) for one in tiff.pages)
        if page.is_tiled and (levels > 1 or reduced or math.prod(size) > max_pixels):
            return _open_whole(path)
    elif suffix in PLAIN:
        size = image_size(path)
    else:
        raise images.ImageFileError(
            f"{path}: {suffix or 'no suffix'}; slides are {', '.join(SUFFIXES)}."
        )
    images.expect_pixels(str(path), *size, max_pixels)

    def region(top: int, left: int, height: int, width: int) -> np.ndarray:
        pixels = _read_plain(path, max_pixels)
        return pixels[top : top + height, left : left + width]

    return Pixels(*size, None, False, region)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image, as `image_form`."""
    return image_form(path)[:2]


def image_form(path: str | Path) -> tuple[int, int, int]:
    """Height, width and channels of a PNG or TIFF, from its header alone.

    A palette counts as three channels.

    Raises:
      SlideFileError: it is none.
      OSError: the file is not there or may not be read.
    """
    path = Path(path)
    if path.suffix.lower() in TIFF:
        with _tiff(path) as tiff:
            page = tiff.pages[0]
            return page.imagelength, page.imagewidth, page.samplesperpixel
    with open(path, "rb") as file:
        try:
            with warnings.catch_warnings(action="ignore"):
                with Image.open(file, formats=("PNG",)) as image:
                    channels = 3 if image.mode == "P" else len(image.getbands())
                    return image.height, image.width, channels
        except Exception as error:  # decoders raise many types at damaged files
            raise SlideFileError(f"{path}: cannot be read as a PNG: {error}") from error


def _is_reduced(page: Any, first: Any) -> bool:
    """Whether a page is a lower level as most programs write it."""
    page = page.aspage()
    return bool(page.subfiletype & 1) and page.samplesperpixel == first.samplesperpixel


def read_channels(path: Path, max_pixels: int) -> np.ndarray:
    """As `images.read_channels`.

    Raises:
      SlideFileError: where that raises ImageFileError.
      OSError: the file is not there or may not be read.
    """
    try:
        return images.read_channels(path, max_pixels)
    except images.ImageFileError as error:
        raise SlideFileError(str(error)) from error


def _read_plain(path: Path, max_pixels: int) -> np.ndarray:
    pixels = read_channels(path, max_pixels)
    if pixels.shape[-1] == 4 and pixels.dtype == np.uint8:
        if (pixels[..., 3] == 255).all():
            warnings.warn(
                f"{path}: its alpha channel is opaque everywhere and is dropped.",
                stacklevel=2,
            )
            pixels = np.ascontiguousarray(pixels[..., :3])
    _expect_rgb(path, pixels)
    return pixels


def _expect_rgb(path: Path, pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise images.ImageFileError(
            f"{path}: expected 8-bit RGB, found shape {pixels.shape} {pixels.dtype}; "
            "convert it."
        )


def _open_array(path: Path, max_pixels: int) -> Pixels:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SlideFileError(f"{path}: cannot be read as .npy: {error}") from error
    _expect_rgb(path, pixels)
    height, width, _ = pixels.shape
    images.expect_pixels(str(path), height, width, max_pixels)

    def region(top: int, left: int, height: int, width: int) -> np.ndarray:
        return np.array(pixels[top : top + height, left : left + width])

    return Pixels(height, width, None, False, region)


def _open_whole(path: Path) -> Pixels:
    try:
        import openslide
    except ImportError:
        openslide = None  # tifffile may do
    if openslide is not None:
        try:
            if openslide.OpenSlide.detect_format(path):
                return _with_openslide(path, openslide.OpenSlide(path))
        except openslide.OpenSlideError as error:
            raise SlideFileError(f"{path}: cannot be read: {error}") from error
    return _with_tifffile(path, openslide is not None)


def _with_openslide(path: Path, slide: Any) -> Pixels:
    width, height = slide.dimensions
    mpp = slide.properties.get("openslide.mpp-x")
    power = slide.properties.get("openslide.objective-power")

    def region(top: int, left: int, height: int, width: int) -> np.ndarray:
        try:
            read = np.asarray(slide.read_region((left, top), 0, (width, height)))
        except Exception as error:  # of the library; the slide is closed by it
            raise SlideFileError(
                f"{path}: cannot be read at row {top}, column {left}: {error}"
            ) from error
        clear = 255 - read[..., 3:].astype(np.uint32)  # white lies under the slide
        mixed = read[..., :3] * (255 - clear) + 255 * clear
        return ((2 * mixed + 255) // 510).astype(np.uint8)

    return Pixels(height, width, _mpp(mpp, power), True, region)


def _mpp(mpp: str | None, power: str | None) -> float | None:
    """Micrometres of a pixel, from what is written of it or of the objective."""
    for text, convert in ((mpp, float), (power, lambda p: OBJECTIVE / float(p))):
        try:
            value = convert(text) if text else 0.0
        except (ValueError, ZeroDivisionError):
            continue
        if 0 < value < math.inf:
            return value
    return None


def _tiff(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except OSError:
        raise
    except Exception as error:  # decoders raise many types at damaged files
        raise SlideFileError(f"{path}: cannot be read as a TIFF: {error}") from error


def _with_tifffile(path: Path, has_openslide: bool) -> Pixels:
    with _tiff(path) as tiff:
        page = tiff.pages[0]
        if (page.dtype, page.samplesperpixel, page.planarconfig) != (np.uint8, 3, 1):
            raise images.ImageFileError(
                f"{path}: expected 8-bit RGB, found shape {page.shape} {page.dtype}; "
                "convert it."
            )
        if not page.is_tiled:
            raise SlideFileError(
                f"{path}: is not tiled, so no region of it can be read."
            )
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except (KeyError, ImportError) as error:
            raise ImportError(
                f"{path}: tifffile alone does not decompress it; "
                + ("install imagecodecs." if has_openslide else f"{EXTRA}.")
            ) from error
        # All that is read of the header, so that the file need not stay open.
        height, width, _ = page.shape
        rows, columns = page.tilelength, page.tilewidth
        offsets, lengths = page.dataoffsets, page.databytecounts
        decode, tables, text = page.decode, page.jpegtables, page.description or ""
    across = -(-width // columns)

    def tile(at: int) -> np.ndarray | None:
        with open(path, "rb") as file:
            file.seek(offsets[at])
            data = file.read(lengths[at])
        if len(data) < lengths[at]:
            raise ValueError("the file is cut short")
        return decode(data, at, jpegtables=tables)[0]

    def region(top: int, left: int, height: int, width: int) -> np.ndarray:
        out = np.full((height, width, 3), 255, np.uint8)
        for row in range(top // rows, -(-(top + height) // rows)):
            for column in range(left // columns, -(-(left + width) // columns)):
                at = row * across + column
                try:
                    read = tile(at)
                except Exception as error:  # decoders raise many types
                    raise SlideFileError(
                        f"{path}: tile {at} at offset {offsets[at]} cannot be "
                        f"read: {error}"
                    ) from error
                if read is None:  # a tile that was left out is empty glass
                    continue
                y, x = row * rows - top, column * columns - left
                part = read.reshape(-1, *read.shape[-2:])[max(-y, 0) :, max(-x, 0) :]
                y, x = max(y, 0), max(x, 0)
                part = part[: height - y, : width - x]
                out[y : y + part.shape[0], x : x + part.shape[1]] = part
        return out

    found = {
        key: match.group(1)
        if (match := re.search(rf"{key} *= *([\d.]+)", text))
        else None
        for key in ("MPP", "AppMag")
    }
    return Pixels(height, width, _mpp(found["MPP"], found["AppMag"]), True, region)
