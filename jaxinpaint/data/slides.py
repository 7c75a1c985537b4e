"""Slides of tissue at one working resolution, with the glomeruli that are marked."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import phantom_histology, slide_readers
from jaxinpaint.data.keeping import recent
from jaxinpaint.data.reduction import (
    nearest_factor,
    reduced_region,
    reduced_side,
)
from jaxinpaint.data.slide_labels import expect_sizes, read_label
from jaxinpaint.data.slide_tables import Row, read_rows

CLASSES = phantom_histology.CLASSES  # the channels of a label
RECENT_BYTES = 256 * 2**20  # of decoded images that stay in memory


class Slide(NamedTuple):
    """A slide, or a region of one, at working resolution.

    Attributes:
      id: its name, unlike all others of its set.
      group: patient or slide; what is split is groups.
      stain: "PAS", "HE" or "".
      split: "train", "test1", "test2" and so on; "" for a slide that is not used.
      synthetic: whether it holds generated pixels.
      height: rows.
      width: columns.
      factor: pixels of its file for one of the slide, along each side.
      mpp: micrometres of a pixel of the slide; None where nothing says it.
      digest: SHA-256 of the bytes of its image (file), in hex.
      region: (top, left, height, width), inside the slide -> uint8 [h, w, 3]; threads
        may share it, and what it returns may be written to.
      label: -> uint8 [H, W, 2], 1 in normal and in sclerosed glomeruli, never both.
      label_digest: SHA-256 of the bytes of its masks or outlines, in hex.
    """

    id: str
    group: str
    stain: str
    split: str
    synthetic: bool
    height: int
    width: int
    factor: float
    mpp: float | None
    digest: str
    region: Callable[[int, int, int, int], np.ndarray]
    label: Callable[[], np.ndarray]
    label_digest: str


def open_slides(config: ConfigDict) -> list[Slide]:
    """Opens the slides that `config.data` names.

    Reads of `config.data` source and working_mpp, and of the phantom `phantom` (as
    `phantom_histology.phantom_slides`; it counts as being at that resolution), of a
    folder downsample_all, mask_threshold and max_pixels (as `open_folder`).

    Returns:
      The slides, in the order of their ids.

    Raises:
      ValueError: as `open_folder`, and as the phantom.
      OSError: likewise.
      ImportError: likewise.
    """
    data = config.data
    if data.source == "phantom":
        return _phantom(data.phantom, data.working_mpp)
    return open_folder(
        data.source,
        working_mpp=data.working_mpp,
        downsample_all=data.downsample_all,
        mask_threshold=data.mask_threshold,
        max_pixels=data.max_pixels,
    )


def open_folder(
    root: str | Path,
    *,
    working_mpp: float,
    downsample_all: float,
    mask_threshold: int,
    max_pixels: int,
) -> list[Slide]:
    """Opens a folder of slides; pixels are read when they are asked for.

    A slide is reduced by `working_mpp` over its own resolution, which is that of the file
    of a whole slide, or else of slides.csv; what it was reduced by when it was prepared
    counts towards `downsample_all`. Images that are no whole slides and have none
    count as being at working resolution, and so do synthetic slides, which were made
    there.

    Args:
      root: the folder, as `slide_tables.read_rows` describes it.
      working_mpp: micrometres of a pixel to work at.
      downsample_all: reduces every slide by this, whatever its resolution; 0 for
        reducing by resolution.
      mask_threshold: mask values of at least this are 1; 0 refuses values other than 0
        and 255, or 0 and 1.
      max_pixels: height * width of an image or a mask above which it is refused.

    Returns:
      The slides, in the order of their ids.

    Raises:
      ValueError: a file that is refused; a mask of another size, with other values, or
        all 1; classes that overlap; no resolution of a whole slide, or one coarser than
        the working one; one image in training and in test; or as `read_rows`. What is
        wrong with the content of a mask is found by `label`.
      FileNotFoundError: as `read_rows`.
      OSError: an image that cannot be read.
      ImportError: a whole slide, and no package that reads it.

    Source: glomeruli specification 5.3, 5.4 and 9.2.
    """
    slides = open_rows(
        read_rows(root),
        working_mpp=working_mpp,
        downsample_all=downsample_all,
        mask_threshold=mask_threshold,
        max_pixels=max_pixels,
    )
    expect_apart(slides)
    return slides


def open_rows(
    rows: Mapping[str, Row],
    *,
    working_mpp: float,
    downsample_all: float,
    mask_threshold: int,
    max_pixels: int,
) -> list[Slide]:
    """Opens slides, wherever their files lie; as `open_folder`.

    Args:
      rows: files and facts of each slide, by its id.
      working_mpp: as of `open_folder`; so are the others.
      downsample_all: likewise.
      mask_threshold: likewise.
      max_pixels: likewise.

    Returns:
      The slides, in the order of the rows.

    Raises:
      ValueError: as `open_folder`, but for an image in training and in test.
      OSError: likewise.
      ImportError: likewise.
    """
    if working_mpp <= 0 or downsample_all < 0:
        raise ValueError(
            f"config.data.working_mpp is {working_mpp} and downsample_all "
            f"{downsample_all}; the first must be positive, the second not negative."
        )
    files = {n: slide_readers.open_pixels(r.image, max_pixels) for n, r in rows.items()}
    factors = {
        name: factor_of(name, row, files[name], working_mpp, downsample_all)
        for name, row in rows.items()
    }
    names = list(rows)

    def whole(at: int) -> np.ndarray:
        found, factor = files[names[at]], factors[names[at]]
        size = found.height, found.width
        height, width = (reduced_side(side, factor) for side in size)
        return reduced_region(
            found.region, size, factor, (0, 0, height, width), max(size)
        )

    held = recent(whole, RECENT_BYTES)

    def slide(at: int) -> Slide:
        name = names[at]
        row, found, factor = rows[name], files[name], factors[name]
        expect_sizes(row, found)
        size = found.height, found.width
        height, width = (reduced_side(side, factor) for side in size)
        mpp = found.mpp or row.mpp
        # What does not say its resolution counts as being at the working one, unless all
        # is reduced whatever its resolution.
        unknown = None if downsample_all else working_mpp

        def region(top: int, left: int, height: int, width: int) -> np.ndarray:
            if not found.whole:
                return np.array(held(at)[top : top + height, left : left + width])
            place = top, left, height, width
            block = slide_readers.BLOCK
            return reduced_region(found.region, size, factor, place, block)

        return Slide(
            id=name,
            group=row.group,
            stain=row.stain,
            split=row.split,
            synthetic=row.synthetic,
            height=height,
            width=width,
            factor=factor,
            mpp=unknown if mpp is None else mpp * factor,
            digest=_digest([row.image]),
            region=_inside(name, height, width, region),
            label=partial(read_label, row, size, factor, mask_threshold, max_pixels),
            label_digest=_digest(row.masks),
        )

    return [slide(at) for at in range(len(names))]


def expect_apart(slides: Sequence[Slide]) -> None:
    """Checks that no image is trained on and tested on.

    Raises:
      ValueError: two slides of one id or with the same bytes, one of them for training
        and one for test; both are named.
    """
    training = [s for s in slides if s.split == "train"]
    known = {key: s.id for s in training for key in (s.digest, s.id)}
    for slide in slides:
        other = known.get(slide.digest, known.get(slide.id))
        if slide.split.startswith("test") and other is not None:
            raise ValueError(
                f"slide {slide.id} of {slide.split} is the same image as slide {other} "
                "of train; take it out of one of the two."
            )


def _phantom(settings: ConfigDict, mpp: float) -> list[Slide]:
    return sorted(
        _of_phantom(one, mpp)
        for one in phantom_histology.phantom_slides(**settings.to_dict())
    )


def _of_phantom(one: phantom_histology.NamedPhantom, mpp: float) -> Slide:
    image, label = one.slide.image, one.slide.label
    height, width, _ = image.shape

    def region(top: int, left: int, height: int, width: int) -> np.ndarray:
        return image[top : top + height, left : left + width].copy()

    return Slide(
        id=one.name,
        group=one.name,
        stain=one.stain,
        split=one.split,
        synthetic=False,
        height=height,
        width=width,
        factor=1.0,
        mpp=mpp,
        digest=hashlib.sha256(image.tobytes()).hexdigest(),
        region=_inside(one.name, height, width, region),
        label=label.copy,
        label_digest=hashlib.sha256(label.tobytes()).hexdigest(),
    )


def _inside(
    name: str, height: int, width: int, read: slide_readers.Region
) -> slide_readers.Region:
    """Refuses regions that reach beyond the slide."""

    def region(top: int, left: int, rows: int, columns: int) -> np.ndarray:
        if not (
            0 <= top < top + rows <= height and 0 <= left < left + columns <= width
        ):
            raise ValueError(
                f"slide {name} is {height} x {width}; it has no region of {rows} x "
                f"{columns} at row {top}, column {left}."
            )
        return read(top, left, rows, columns)

    return region


def factor_of(
    name: str,
    row: Row,
    found: slide_readers.Pixels,
    working_mpp: float,
    downsample_all: float,
) -> float:
    """Pixels of a slide's file for one at working resolution.

    Args:
      name: the slide's id, for messages.
      row: what is said of the slide; what it was reduced by already counts.
      found: its file.
      working_mpp: as of `open_folder`.
      downsample_all: as of `open_folder`.

    Raises:
      ValueError: a whole slide of unknown resolution, or a slide that would have to be
        enlarged.
    """
    if row.synthetic:
        return 1.0
    if downsample_all:
        factor = float(downsample_all) / row.reduced
    else:
        mpp = found.mpp or row.mpp
        if mpp is None:
            if found.whole:
                raise ValueError(
                    f"{row.image}: the file does not say its resolution; give mpp, "
                    f"micrometres of a pixel, of {name} in slides.csv."
                )
            return 1.0
        factor = nearest_factor(working_mpp / mpp)
    if factor < 1:
        raise ValueError(
            f"{row.image} has to be reduced by {factor:.3g} to {working_mpp} um/px; "
            "slides are never enlarged. Raise config.data.working_mpp, or correct mpp "
            "in slides.csv."
            + (
                f" It was reduced by {row.reduced:g} when it was prepared; if all slides "
                f"were, set config.data.downsample_all to {row.reduced:g}."
                if row.reduced != 1
                else ""
            )
        )
    return factor


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, of the list of theirs."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
