"""A TIFF of one page with other pixels: no byte but those of the pixels changes.

Strips and tiles that hold no changed pixel keep their bytes too. One that grew when it
was compressed again moves to the end of the file, and the page's offsets follow.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import tifffile

from jaxinpaint.data.images import ImageFileError, check_tiff_data, check_tiff_page

_LOSSY = 7  # JPEG in TIFF
_HORIZONTAL = 2  # the predictor that stores differences of neighbours in a row
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of strips and of tiles
_LONG = 4


def read(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Reads the pixels of a TIFF.

    Args:
      content: of the file.
      name: for messages.
      max_pixels: height * width above which it is refused undecoded.

    Returns:
      uint8 or uint16 [H, W, 1 to 4]; 2 and 4 end in alpha.

    Raises:
      ImageFileError: damaged, too large, several pages, or of a kind that cannot be
        written again: one bit, lossy, planes apart.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page = _page(tiff, name, max_pixels)
            check_tiff_data(tiff, page, name, len(content))
            pixels = page.asarray()
    except ImageFileError:
        raise
    except Exception as error:  # decoders raise many types at damaged files
        more = "; jaxinpaint[volume] brings it" if "imagecodecs" in str(error) else ""
        raise ImageFileError(
            f"{name}: cannot be read as a TIFF: {error}{more}"
        ) from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))


def orientation(content: bytes) -> int:
    """How the picture is meant to be shown; 1 as it is stored."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        tag = tiff.pages[0].tags.get(274)
        return 1 if tag is None else int(tag.value)


def replace(content: bytes, pixels: np.ndarray, name: str) -> bytes:
    """Writes other pixels into a TIFF.

    Args:
      content: of the file that `read` read.
      pixels: of the shape and dtype that it read.
      name: for messages.

    Raises:
      ImageFileError: the compression cannot be written here.
    """
    known = read(content, name, pixels.size)
    changed = (known != pixels).any(axis=-1)
    file = io.BytesIO(content)
    with tifffile.TiffFile(file) as tiff:
        rewrite_page(file, tiff, _page(tiff, name, pixels.size), changed, pixels, name)
    return file.getvalue()


def rewrite_page(
    file: BinaryIO,
    tiff: tifffile.TiffFile,
    page: tifffile.TiffPage,
    changed: np.ndarray,
    pixels: np.ndarray,
    name: str,
) -> None:
    """Writes other pixels into a page of an open TIFF.

    Args:
      file: the open file, to be read and written.
      tiff: the same, as tifffile opened it.
      page: of it, which `check_rewritable` let through.
      changed: [H, W] bool; strips and tiles without a True stay as they are.
      pixels: [H, W, S], of the shape and dtype of the page.
      name: for messages.

    Raises:
      ImageFileError: the compression cannot be written here.
    """
    offsets, counts = list(page.dataoffsets), list(page.databytecounts)
    shared = len(set(offsets)) < len(offsets)
    for index, (rows, columns, shape) in enumerate(_segments(page)):
        if not changed[rows, columns].any():
            continue
        part = pixels[rows, columns]
        pad = [(0, n - m) for n, m in zip(shape, part.shape, strict=False)]
        data = _encode(np.pad(part, [*pad, (0, 0)], "edge"), page, tiff, name)
        if len(data) > counts[index] or shared:
            end = file.seek(0, io.SEEK_END)
            file.write(b"\0" * (end % 2))  # offsets are even
            offsets[index] = end + end % 2
        file.seek(offsets[index])
        file.write(data)
        counts[index] = len(data)
    for codes, values, old in (
        (_OFFSETS, offsets, page.dataoffsets),
        (_COUNTS, counts, page.databytecounts),
    ):
        if list(values) != list(old):
            tag = next(page.tags[code] for code in codes if code in page.tags)
            short = tag.dtype == 3 and max(values) > 0xFFFF
            tag.overwrite(tuple(values), dtype=_LONG if short else None)


def _page(tiff: tifffile.TiffFile, name: str, max_pixels: int) -> tifffile.TiffPage:
    """The one page, if it can be written again."""
    if len(tiff.pages) != 1:
        raise ImageFileError(
            f"{name}: has {len(tiff.pages)} pages, one picture is needed; save each as "
            "a file."
        )
    page = tiff.pages[0]
    check_tiff_page(page, name, max_pixels, deep_colour=True)
    check_rewritable(page, name)
    return page


def check_rewritable(page: tifffile.TiffPage, name: str) -> None:
    """Refuses a page that cannot be written as it was.

    Raises:
      ImageFileError: one bit, lossy, planes apart, or an unknown predictor.
    """
    if page.bitspersample == 1:
        raise ImageFileError(
            f"{name}: one bit a pixel holds no restored grey; convert it to 8 bits."
        )
    if page.compression == _LOSSY:
        raise ImageFileError(
            f"{name}: JPEG compression would change valid pixels; save it with "
            "Deflate, or uncompressed."
        )
    apart = page.samplesperpixel > 1 and page.planarconfig != 1
    if apart or page.samplesperpixel > 4 or page.imagedepth != 1:
        raise ImageFileError(
            f"{name}: axes are {page.axes} {page.shape}; a picture is YX or YXS, with "
            "at most 4 samples a pixel, stored together."
        )
    if page.predictor not in (1, _HORIZONTAL):
        raise ImageFileError(
            f"{name}: predictor {page.predictor!r} is not supported; save it with "
            "Deflate, or uncompressed."
        )


def _segments(
    page: tifffile.TiffPage,
) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Rows, columns and stored height and width of each strip or tile, in order."""
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled:
        tall, wide = page.tilelength, page.tilewidth
        for top in range(0, height, tall):
            for left in range(0, width, wide):
                rows, columns = slice(top, top + tall), slice(left, left + wide)
                yield rows, columns, (tall, wide)
        return
    tall = min(page.rowsperstrip, height)
    for top in range(0, height, tall):
        yield slice(top, top + tall), slice(0, width), (min(tall, height - top), width)


def _encode(
    part: np.ndarray, page: tifffile.TiffPage, tiff: tifffile.TiffFile, name: str
) -> bytes:
    """The bytes of a strip or tile [H, W, S]."""
    if page.predictor == _HORIZONTAL:
        part = np.diff(part, axis=1, prepend=part.dtype.type(0))
    raw = part.astype(part.dtype.newbyteorder(tiff.byteorder)).tobytes()
    if page.compression == 1:
        return raw
    try:
        encode = tifffile.TIFF.COMPRESSORS[page.compression]
        if page.compression == 32773:  # PackBits goes row by row
            size = len(raw) // len(part)
            rows = [raw[at : at + size] for at in range(0, len(raw), size)]
            return b"".join(bytes(encode(row)) for row in rows)
        return bytes(encode(raw))
    except (KeyError, AttributeError) as error:
        raise ImageFileError(
            f"{name}: compression {page.compression!r} is written by imagecodecs "
            "alone; install jaxinpaint[volume], or save the picture with Deflate."
        ) from error
