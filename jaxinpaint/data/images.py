"""Reads and writes sections and masks, and refuses files that would be misread.

A header is read before the pixels, so a file that declares more pixels than allowed
costs neither time nor memory. Whatever is wrong with a file ends in `ImageFileError`,
which names the file.
"""

import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

MAX_PIXELS = 64_000_000  # of one section
MAX_SECTIONS = 100_000  # files of a folder, pages of a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

_PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE = (8, 32946)
# None, LZW, JPEG, PackBits, Deflate: what these decode to is bounded by the header.
_COMPRESSIONS = (1, 5, 7, 32773, *_DEFLATE)
_PHOTOMETRICS = (1, 2, 6)  # black is zero, RGB, YCbCr of JPEG


class ImageFileError(ValueError):
    """A file that is no image, is damaged, too large, or of a kind we misread."""


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads one image file: PNG, JPEG, BMP or a TIFF of one page.

    16-bit grey stays 16-bit. A palette becomes RGB and one bit becomes 0 and 255,
    both without loss. An alpha channel is dropped if every pixel is opaque.

    Args:
      path: the file.
      max_pixels: height * width above which the file is refused undecoded.

    Returns:
      uint8 or uint16 [H, W, C], C 1 (grey) or 3 (RGB).

    Raises:
      ImageFileError: damaged, too large, animated, with transparent pixels, CMYK,
        16-bit colour (of which decoders keep 8 bits), or float.
      OSError: the file is not there or may not be read.
    """
    with open(path, "rb") as file:
        return decode_image(file, str(path), max_pixels)


def decode_image(file: BinaryIO, name: str, max_pixels: int) -> np.ndarray:
    """As `read_image`, of an open file or bytes; `name` is for the message."""
    return _drop_alpha(decode_with_alpha(file, name, max_pixels), name)


def read_channels(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `read_image`, and of transparent pixels too, with the alpha channel.

    Returns:
      uint8 or uint16 [H, W, 1 to 4]; of 2 and 4 channels the last is alpha.
    """
    with open(path, "rb") as file:
        return decode_with_alpha(file, str(path), max_pixels)


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a mask whose values are {0, 255} or {0, 1}; the larger one marks holes.

    Of an RGBA file the colour channels count, never alpha.

    Returns:
      uint8 [H, W, 1], 1 = hole.

    Raises:
      ImageFileError: other values (soft edges, labels), colour, or as `read_image`.
    """
    pixels = read_channels(path, max_pixels)
    if pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise ImageFileError(f"{path}: a mask must be grey, this file has colours.")
    mask = pixels[..., :1]
    top = 255 if mask.max() > 1 else 1
    wrong = (mask != 0) & (mask != top)
    if wrong.any():
        y, x, _ = np.argwhere(wrong)[0]
        raise ImageFileError(
            f"{path}: a mask must hold {{0, 255}} or {{0, 1}} alone, got "
            f"{mask[y, x, 0]} at row {y}, column {x}; threshold soft edges."
        )
    return (mask != 0).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1 or 3] or uint16 [H, W, 1] as PNG, without loss.

    Raises:
      ValueError: another dtype or shape, 16-bit colour among them.
    """
    kinds = {("uint8", 1), ("uint8", 3), ("uint16", 1)}
    if pixels.ndim != 3 or (str(pixels.dtype), pixels.shape[-1]) not in kinds:
        raise ValueError(
            "PNG files hold uint8 [H, W, 1 or 3] or uint16 [H, W, 1] here, got "
            f"{pixels.dtype} {list(pixels.shape)}."
        )
    plane = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(out, "PNG")
    return out.getvalue()


def write_image(path: str | Path, pixels: np.ndarray) -> None:
    """Writes a PNG that `read_image` reads back bit for bit.

    The file appears whole or not at all.

    Args:
      path: ends in .png.
      pixels: as `encode_png` takes.

    Raises:
      ValueError: another suffix, or as `encode_png`.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: images are written as .png, which loses nothing.")
    data = encode_png(pixels)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def list_sections(source: str | Path) -> tuple[Path, ...]:
    """Lists the files of a stack in axial order.

    Args:
      source: a folder with one image a section, numbered in their names (00.png or
        s034_x.png; 9 comes before 10) and otherwise named alike, or a folder with
        one TIFF, or a TIFF. Files that are no images are passed over.

    Returns:
      The files; a single one is a TIFF whose pages are the sections.

    Raises:
      ValueError: no images, names without a number, two files of one number, or
        names of more than one stack.
      OSError: the source is not there.
    """
    source = Path(source)
    if not source.is_dir():
        source.stat()
        return (source,)
    files = []
    for count, entry in enumerate(os.scandir(source)):
        if count >= MAX_SECTIONS:
            raise ValueError(f"{source}: holds more than {MAX_SECTIONS} files.")
        path = Path(entry.path)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            files.append(path)
    if not files:
        raise ValueError(f"{source}: holds no image ({', '.join(SUFFIXES)}).")
    if len(files) == 1:
        return (files[0],)
    keys = {path: re.split(r"(\d+)", path.stem) for path in files}
    files.sort(key=lambda path: ([int(n) for n in keys[path][1::2]], path.name))
    first = files[0]
    for path in files:
        if len(keys[path]) == 1:
            raise ValueError(f"{path}: no number in the name gives its place.")
        if keys[path][::2] != keys[first][::2]:
            raise ValueError(
                f"{source}: {first.name} and {path.name} are not numbered alike; "
                "keep one stack in a folder."
            )
    for one, two in zip(files, files[1:], strict=False):
        if [int(n) for n in keys[one][1::2]] == [int(n) for n in keys[two][1::2]]:
            raise ValueError(f"{source}: {one.name} and {two.name} have one number.")
    return tuple(files)


def read_sections(
    files: tuple[Path, ...], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads what `list_sections` found, one section after the other.

    Yields:
      The name (a file's stem; for page 7 of vnc.tif, vnc_0007) and uint8 or uint16
      [H, W, C].

    Raises:
      ImageFileError: as `read_image`.
    """
    with open(files[0], "rb") as file:
        if len(files) == 1 and file.read(4) in TIFF:
            file.seek(0)
            pages = _tiff_pages(file, str(files[0]), max_pixels)
            for z, pixels in enumerate(pages):
                name = f"{files[0].stem}_{z:04d}"
                yield name, _drop_alpha(pixels, f"{files[0]}: page {z}")
            return
    for path in files:
        yield path.stem, read_image(path, max_pixels)


def _drop_alpha(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.shape[-1] in (2, 4):
        if (pixels[..., -1] != 255).any():
            raise ImageFileError(
                f"{name}: has transparent pixels, under which there is no image; "
                "flatten it, or mark them in a mask."
            )
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(pixels)


def decode_with_alpha(file: BinaryIO, name: str, max_pixels: int) -> np.ndarray:
    """As `decode_image`, with alpha: [H, W, 1 to 4], of which 2 and 4 end in it."""
    head = file.read(32)
    file.seek(0)
    if head[:4] in TIFF:
        pages = _tiff_pages(file, name, max_pixels)
        pixels = next(pages)
        if next(pages, None) is not None:
            raise ImageFileError(f"{name}: has several pages, one image is needed.")
        return pixels
    if head.startswith(_PNG) and len(head) >= 26 and head[24] == 16 and head[25]:
        # Pillow would hand back the upper 8 bits without a word.
        raise ImageFileError(
            f"{name}: 16 bits a channel are supported for grey alone; "
            "convert it to 8-bit colour or to 16-bit grey."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("error", UserWarning)
            with Image.open(file, formats=("PNG", "JPEG", "BMP")) as image:
                expect_pixels(name, image.height, image.width, max_pixels)
                return _pillow_pixels(image, name)
    except ImageFileError:
        raise
    except Exception as error:  # decoders raise many types at damaged files
        raise ImageFileError(f"{name}: cannot be read as an image: {error}") from error


def _pillow_pixels(image: Image.Image, name: str) -> np.ndarray:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageFileError(f"{name}: holds {frames} frames, not one image.")
    image.load()
    clear = image.has_transparency_data
    if image.mode == "P":
        image = image.convert("RGBA" if clear else "RGB")
    elif clear and image.mode in ("L", "RGB"):  # one colour is declared transparent
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA") and (
        image.mode != "I;16" or clear
    ):
        raise ImageFileError(
            f"{name}: Pillow mode {image.mode} is not supported; "
            "convert it to grey (8 or 16 bits) or 8-bit RGB."
        )
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    return pixels.reshape(*pixels.shape[:2], -1)


def expect_pixels(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuses a declared size above the limit.

    Raises:
      ImageFileError: height * width is more than max_pixels.
    """
    if height * width > max_pixels:
        raise ImageFileError(
            f"{name}: {height} x {width} is more than {max_pixels} pixels; "
            "raise max_pixels if the file is to be trusted."
        )


def _tiff_pages(file: BinaryIO, name: str, max_pixels: int) -> Iterator[np.ndarray]:
    """Yields each page [H, W, C] of a TIFF whose pages are alike."""
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            if len(tiff.series) != 1:
                shapes = " and ".join(str(s.shape) for s in tiff.series[:2])
                raise ImageFileError(
                    f"{name}: its pages are not one stack but have the shapes "
                    f"{shapes}; all sections must be alike."
                )
            series = tiff.series[0]
            if not re.fullmatch("[ZIQT]?YXS?", series.axes):
                raise ImageFileError(
                    f"{name}: axes are {series.axes} {series.shape}; "
                    "a stack is ZYX, or ZYXS with S samples of colour."
                )
            count = series.shape[0] if len(series.axes.rstrip("S")) == 3 else 1
            if count > MAX_SECTIONS:
                raise ImageFileError(f"{name}: has more than {MAX_SECTIONS} pages.")
            check_tiff_page(series.keyframe, name, max_pixels)
            if len(series.pages) == count:
                for index in range(count):
                    page = series.pages[index]
                    check_tiff_data(tiff, page, name, size)
                    yield _tiff_pixels(page.asarray(), series.shape, name)
            elif series.dataoffset is not None and (
                series.dataoffset + series.nbytes <= size
            ):  # ImageJ writes one page for a stack above 4 GB
                for index in range(count):
                    offset = series.dataoffset + index * series.nbytes // count
                    file.seek(offset)
                    data = file.read(series.nbytes // count)
                    flat = np.frombuffer(data, tiff.byteorder + series.dtype.char)
                    flat = flat.astype(series.dtype).reshape(series.shape[1:])
                    yield _tiff_pixels(flat, series.shape, name)
            else:
                raise ImageFileError(f"{name}: holds fewer pages than it declares.")
    except ImageFileError:
        raise
    except Exception as error:  # decoders raise many types at damaged files
        raise ImageFileError(f"{name}: cannot be read as a TIFF: {error}") from error


def _tiff_pixels(pixels: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[-1] > 4 or pixels.shape[0] * pixels.shape[1] == 0:
        raise ImageFileError(f"{name}: shape {shape} is no stack of images.")
    return np.ascontiguousarray(pixels)


def check_tiff_page(
    page: tifffile.TiffPage, name: str, max_pixels: int, *, deep_colour: bool = False
) -> None:
    """Refuses from the header what would be too large or misread.

    `deep_colour` says whether 16 bits a channel of colour are taken.

    Raises:
      ImageFileError: it is.
    """
    expect_pixels(name, page.imagelength, page.imagewidth, max_pixels)
    bits = page.bitspersample
    kind = None if page.dtype is None else str(page.dtype)
    if kind not in ("bool", "uint8", "uint16") or bits not in (1, 8, 16):
        raise ImageFileError(f"{name}: {kind} ({bits} bits) is not uint8 or uint16.")
    if bits == 16 and page.samplesperpixel > 1 and not deep_colour:
        raise ImageFileError(
            f"{name}: 16 bits a channel are supported for grey alone; "
            "convert it to 8-bit colour or to 16-bit grey."
        )
    if page.photometric not in _PHOTOMETRICS:
        raise ImageFileError(
            f"{name}: photometric {page.photometric!r} is not supported; "
            "save it as grey with black as zero, or as RGB."
        )
    if page.compression not in _COMPRESSIONS:
        raise ImageFileError(
            f"{name}: compression {page.compression!r} is not supported; "
            "save it uncompressed or with Deflate."
        )
    if int(np.prod(page.chunks)) > 2 * max_pixels * page.samplesperpixel:
        raise ImageFileError(f"{name}: declares strips larger than the image.")


def check_tiff_data(
    tiff: tifffile.TiffFile,
    page: tifffile.TiffPage | tifffile.TiffFrame,
    name: str,
    size: int,
) -> None:
    """Refuses data outside the file, absent, or inflating beyond its strip.

    Raises:
      ImageFileError: it is.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not segments or any(o <= 0 or n <= 0 or o + n > size for o, n in segments):
        raise ImageFileError(f"{name}: the file is cut short.")
    key = page.keyframe
    if key.compression == 1 and sum(n for _, n in segments) < key.nbytes:
        raise ImageFileError(f"{name}: the file is cut short.")
    if key.compression in _DEFLATE:
        limit = int(np.prod(key.chunks)) * key.dtype.itemsize
        for offset, count in segments:
            tiff.filehandle.seek(offset)
            inflate = zlib.decompressobj()
            data = inflate.decompress(tiff.filehandle.read(count), limit + 1)
            if len(data) > limit:
                raise ImageFileError(f"{name}: its data inflate beyond the image.")
