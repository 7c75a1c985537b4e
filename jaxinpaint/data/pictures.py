"""Reads a picture so that it can be written again with nothing changed but pixels.

The container stays, and with it bit depth, alpha, colour profile, EXIF, TIFF tags and
whatever else it holds. A JPEG is the exception: coding it again would change every
pixel, so it is written as PNG.
"""

import hashlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from jaxinpaint.data import tiff_pictures
from jaxinpaint.data.images import (
    MAX_PIXELS,
    TIFF,
    ImageFileError,
    decode_with_alpha,
)

# Of PNG: what holds pixels, frames, or the way that pixels are meant.
_PIXELS = (b"IHDR", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
_DEPTH = (b"PLTE", b"tRNS", b"sBIT", b"bKGD", b"hIST")
_PNG = b"\x89PNG\r\n\x1a\n"
_CONTAINERS = {  # beginning of the file -> name, endings, the first for what we write
    _PNG: ("PNG", (".png",)),
    b"\xff\xd8": ("JPEG", (".png",)),
    b"BM": ("BMP", (".bmp",)),
    **dict.fromkeys(TIFF, ("TIFF", (".tif", ".tiff"))),
}
_XMP = "XML:com.adobe.xmp"


class Picture(NamedTuple):
    """A picture, and the file that it came from.

    Attributes:
      path: of the file.
      container: "PNG", "JPEG", "BMP" or "TIFF".
      content: bytes of the file.
      pixels: uint8 or uint16 [H, W, 1 or 3].
      alpha: of the same dtype [H, W, 1], or None.
      notes: sentences about what is not as anybody would expect.
    """

    path: Path
    container: str
    content: bytes
    pixels: np.ndarray
    alpha: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.content).hexdigest()


def written_suffix(path: str | Path) -> str:
    """The ending of the file that a picture is written to, told by its first bytes.

    Raises:
      ImageFileError: it is no picture that can be restored.
      OSError: the file is not there or may not be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        _, suffixes = _container(file.read(8), path)
    return path.suffix if path.suffix.lower() in suffixes else suffixes[0]


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a PNG, JPEG, BMP or a TIFF of one page.

    A palette and 1 to 4 bits become 8-bit colour and grey, without loss; a note says
    so. Alpha stays apart.

    Args:
      path: the file.
      max_pixels: height * width above which the file is refused undecoded.

    Raises:
      ImageFileError: as `data.images.read_image`, but for transparent pixels, and but
        for TIFFs of 16-bit colour, which are read; TIFFs that `tiff_pictures` cannot
        write again.
      OSError: the file is not there or may not be read.
    """
    path = Path(path)
    content = path.read_bytes()
    container, _ = _container(content[:8], path)
    if container == "TIFF":
        pixels = tiff_pictures.read(content, str(path), max_pixels)
    else:
        pixels = decode_with_alpha(io.BytesIO(content), str(path), max_pixels)
    alpha = None
    if pixels.shape[-1] in (2, 4):
        pixels, alpha = pixels[..., :-1], pixels[..., -1:]
    notes = tuple(_notes(container, content, alpha))
    return Picture(path, container, content, pixels, alpha, notes)


def encode_picture(picture: Picture, pixels: np.ndarray) -> bytes:
    """The bytes of a file with other pixels, which are read back and compared.

    PNG: all other chunks are those of the source. TIFF: all bytes but those of the
    strips or tiles that change. BMP: pixels and resolution. JPEG: a PNG with its
    colour profile, EXIF, XMP and resolution.

    Args:
      picture: as it was read.
      pixels: of the shape and dtype of its own.

    Raises:
      ValueError: another shape or dtype.
      ImageFileError: what was written does not read back as it was given.
    """
    own = picture.pixels
    if pixels.shape != own.shape or pixels.dtype != own.dtype:
        raise ValueError(
            f"{picture.path}: pixels must be {own.dtype} {list(own.shape)}, got "
            f"{pixels.dtype} {list(pixels.shape)}."
        )
    name, full = str(picture.path), pixels
    if picture.alpha is not None:
        full = np.concatenate([pixels, picture.alpha], axis=-1)
    if picture.container == "TIFF":
        data = tiff_pictures.replace(picture.content, full, name)
        back = tiff_pictures.read(data, name, pixels.size)
    else:
        data = _encoders[picture.container](picture, full)
        back = decode_with_alpha(io.BytesIO(data), name, pixels.size)
    if back.dtype != full.dtype or not np.array_equal(back, full):
        raise ImageFileError(
            f"{name}: what was written does not read back as it was; convert the "
            "picture to an uncompressed TIFF or a PNG."
        )
    return data


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _container(head: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    for beginning, found in _CONTAINERS.items():
        if head.startswith(beginning):
            return found
    raise ImageFileError(
        f"{path}: is no PNG, JPEG, BMP or TIFF, the containers that pictures are "
        "restored in."
    )


def _notes(container: str, content: bytes, alpha: np.ndarray | None) -> Iterator[str]:
    if container == "JPEG":
        yield "a JPEG coded again would change valid pixels, so it is written as PNG"
    if alpha is not None:
        clear = int(np.count_nonzero(alpha != np.iinfo(alpha.dtype).max))
        what = f", under whose {clear} transparent pixels lies what is read as image"
        yield f"alpha is kept as it is{what if clear else ''}"
    if container == "TIFF":
        turned = tiff_pictures.orientation(content)
    else:
        with Image.open(io.BytesIO(content)) as image:
            turned = image.getexif().get(0x0112, 1)
            depth = content[24] if container == "PNG" else 8
            if image.mode == "P":
                yield "its palette is written as colour"
            elif image.mode == "1" or depth < 8:
                yield "its grey is written with 8 bits"
    if turned != 1:
        yield (
            f"it is meant to be shown turned (orientation {turned}); its mask is that "
            "of the pixels as they are stored"
        )


def _image(full: np.ndarray) -> Image.Image:
    plane = full[..., 0] if full.shape[-1] == 1 else full
    return Image.fromarray(np.ascontiguousarray(plane))


def _encode_png(picture: Picture, full: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    _image(full).save(buffer, "PNG")
    new, old = list(_chunks(buffer.getvalue())), list(_chunks(picture.content))
    header = next(chunk for kind, chunk in new if kind == b"IHDR")
    known = next(chunk for kind, chunk in old if kind == b"IHDR")
    same = header[8:18] == known[8:18]  # size, bit depth and colour type
    drop = _PIXELS if same else (*_PIXELS, *_DEPTH)
    parts = [_PNG, header]
    placed = False
    for kind, chunk in old:
        if kind == b"IDAT" and not placed:
            parts += [data for name, data in new if name == b"IDAT"]
            placed = True
        elif kind not in drop:
            parts.append(chunk)
    return b"".join([*parts, *(chunk for kind, chunk in new if kind == b"IEND")])


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and bytes of each chunk of a PNG, its length and checksum with them."""
    at = len(_PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        end = at + 12 + length
        yield content[at + 4 : at + 8], content[at:end]
        at = end


def _encode_jpeg(picture: Picture, full: np.ndarray) -> bytes:
    with Image.open(io.BytesIO(picture.content)) as image:
        known, exif = image.info, image.getexif()
        text = PngImagePlugin.PngInfo()
        if "xmp" in known:
            text.add_itxt(_XMP, known["xmp"].decode("utf-8", "replace"))
        more = {name: known[name] for name in ("icc_profile", "dpi") if known.get(name)}
        if exif:
            more["exif"] = exif
        buffer = io.BytesIO()
        _image(full).save(buffer, "PNG", pnginfo=text, **more)
    return buffer.getvalue()


def _encode_bmp(picture: Picture, full: np.ndarray) -> bytes:
    with Image.open(io.BytesIO(picture.content)) as image:
        dpi = image.info.get("dpi")
    buffer = io.BytesIO()
    _image(full).save(buffer, "BMP", **({"dpi": dpi} if dpi else {}))
    return buffer.getvalue()


_encoders = {"PNG": _encode_png, "JPEG": _encode_jpeg, "BMP": _encode_bmp}
