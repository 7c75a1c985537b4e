"""Reads the pictures that `restoring` restores, and refuses what is wrong."""

import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from jaxinpaint import systems
from jaxinpaint.core.checks import (
    DTypeError,
    InpaintInputError,
    MaskCoverageError,
    MaskValueError,
    ShapeMismatchError,
)
from jaxinpaint.core.system import Derived
from jaxinpaint.data.images import ImageFileError, read_image, read_mask
from jaxinpaint.data.pictures import Picture, read_picture
from jaxinpaint.evaluation.restoring_files import Item, Job
from jaxinpaint.evaluation.runs import Trained
from jaxinpaint.inference.tiles import Tile, cover, cut

INVERTED, LARGE, TINY = 0.95, 0.6, 0.001  # shares of hole that look wrong
DARK = 8192  # 16-bit images that end below it were likely not stretched
LEAST_TILE = 512  # of a side that nobody chose


class Tiled(Protocol):
    """What a job says of tiles."""

    @property
    def tile(self) -> int | None:
        """Side in pixels; 0 restores whole sections, None chooses."""

    @property
    def overlap(self) -> int | None:
        """In pixels; None is a quarter of a tile."""


class Loaded(NamedTuple):
    """A picture that can be restored.

    Attributes:
      item: its files.
      picture: as it was read.
      hole: [H, W] bool, what may be invented.
      arrays: what the system reads, each [H, W, channels].
      tiles: that paint the hole.
      notes: sentences about what looks wrong.
    """

    item: Item
    picture: Picture
    hole: np.ndarray
    arrays: Mapping[str, np.ndarray]
    tiles: list[Tile]
    notes: list[str]


def check_asked(job: Job, trained: Trained) -> None:
    """Checks that a run gets what it reads, and nothing else.

    Raises:
      ValueError: sections are missing, not read, or cannot be given, a mask is
        needed, or the tiles do not fit the networks.
    """
    config, spec = trained.config, trained.system.batch_spec
    needs = [n for n in spec if n not in ("image", "mask")]
    needs = [n for n in needs if n not in systems.derived(config)]
    strange = sorted(set(needs) - {"neighbor", "previous", "following"})
    if strange:
        raise ValueError(
            f"{job.workdir} is a run of {config.system!r}, which reads {strange}; fill "
            "cannot give it that."
        )
    missing = [f"--{name}" for name in needs if name not in job.sections]
    if missing:
        raise ValueError(
            f"{job.workdir} is a run of {config.system!r}, which also needs "
            f"{' and '.join(missing)}: an image, or a folder of images of the same "
            "names."
        )
    spare = [f"--{name}" for name in job.sections if name not in needs]
    if spare:
        raise ValueError(
            f"{job.workdir} is a run of {config.system!r}, which reads no "
            f"{' and no '.join(spare)}; leave it out."
        )
    if job.mask is None:
        blank = {
            name: np.zeros((1, *one.shape[1:]), np.uint8)
            for name, one in spec.items()
            if name != "mask"
        }
        try:
            systems.validate_inputs(config.system, "without --mask", blank)
        except InpaintInputError as error:
            raise ValueError(f"{error} Give --mask.") from error
    check_tile(job, trained)


def check_tile(job: Tiled, trained: Trained) -> None:
    """Checks that tiles fit the networks.

    Raises:
      ValueError: they do not.
    """
    multiple = trained.config.eval.size_multiple
    if job.tile and job.tile % multiple:
        raise ValueError(
            f"--tile is {job.tile}; this run needs multiples of {multiple}, such as "
            f"{-(-job.tile // multiple) * multiple}."
        )
    tiling(job, trained, (1, 1))


def tiling(job: Tiled, trained: Trained, shape: tuple[int, ...]) -> tuple[int, int]:
    """Side and overlap of the tiles of a picture [H, W, C], in pixels.

    Raises:
      ValueError: the overlap does not fit the tiles.
    """
    if job.tile == 0:
        return max(shape[:2]), 0
    side = job.tile
    if side is None:
        multiple = trained.config.eval.size_multiple
        least = max(LEAST_TILE, 2 * trained.config.image_size)
        side = -(-least // multiple) * multiple
    overlap = side // 4 if job.overlap is None else job.overlap
    if not 0 <= 3 * overlap <= side:
        raise ValueError(
            f"--overlap is {overlap}; tiles of {side} pixels overlap by 0 to "
            f"{side // 3}."
        )
    return side, overlap


def load(
    item: Item, job: Job, trained: Trained, derived: Mapping[str, Derived]
) -> Loaded:
    """Reads a picture and what belongs to it, and checks that it can be restored.

    Raises:
      ImageFileError: a file that cannot be read, or written again.
      InpaintInputError: what was read does not fit, or the mask looks wrong.
      OSError: a file may not be read.
    """
    picture = read_picture(item.image, job.max_pixels)
    image, notes = picture.pixels, list(picture.notes)
    channels = trained.system.batch_spec["image"].shape[-1]
    if image.shape[-1] != channels:
        has, wants = (
            "grey" if c == 1 else "colour" for c in (image.shape[-1], channels)
        )
        raise ShapeMismatchError(
            f"{item.image} is {has}, but this run restores {wants}; nothing is "
            "converted here, so convert the picture or name another run."
        )
    arrays = {"image": image}
    hole = np.ones(image.shape[:2], bool)
    if item.mask is not None:
        hole = _read_mask(item, job, image.shape, picture.notes)
        arrays["mask"] = hole[..., None].astype(np.uint8)
    for name, path in item.sections.items():
        section = read_picture(path, job.max_pixels).pixels
        if section.shape != image.shape:
            raise ShapeMismatchError(
                f"{path} is {_size(section)}, but {item.image} is {_size(image)}; "
                "adjacent sections are registered and alike."
            )
        if section.dtype != image.dtype:
            raise DTypeError(
                f"{path} is {section.dtype}, but {item.image} is {image.dtype}; save "
                "both with one depth."
            )
        arrays[name] = section
    valid = image if item.mask is None else image[~hole]
    if image.dtype == np.uint16 and valid.max(initial=0) < DARK:
        notes.append(
            f"its 16-bit levels end at {valid.max(initial=0)} of 65535, which is dark "
            "unless the run was trained on such images"
        )
    for name, one in derived.items():  # of the whole picture, not of a tile
        arrays[name] = one.function(arrays["previous"], arrays["following"], 0.5)
    tiles = cover(hole, *tiling(job, trained, image.shape), blind=item.mask is None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for tile in tiles:
            part = cut(arrays, tile)
            systems.validate_inputs(trained.config.system, str(item.image), part)
    if len(tiles) > 1:
        caught = []  # they are of parts, whose holes are larger than the picture's
    told = (str(one.message).removeprefix(f"{item.image}: ") for one in caught)
    said = [text.rstrip(".") for text in dict.fromkeys(told)]
    notes += said or ([] if item.mask is None else _hole_notes(hole))
    return Loaded(item, picture, hole, arrays, tiles, notes)


def _read_mask(
    item: Item, job: Job, shape: tuple[int, ...], notes: Iterable[str]
) -> np.ndarray:
    """Reads a mask and refuses what cannot be meant; bool [H, W]."""
    assert item.mask is not None
    if job.threshold is None:
        white = read_mask(item.mask, job.max_pixels)[..., 0] == 1
    else:
        soft = read_image(item.mask, job.max_pixels)
        if (soft != soft[..., :1]).any():
            raise ImageFileError(
                f"{item.mask}: a mask must be grey, this file has colours."
            )
        white = soft[..., 0] >= job.threshold
    hole = white if job.polarity == "hole" else ~white
    if hole.shape != shape[:2]:
        turned = hole.T.shape == shape[:2] and any("turned" in note for note in notes)
        raise ShapeMismatchError(
            f"{item.mask} is {hole.shape[0]} x {hole.shape[1]}, but {item.image} is "
            f"{shape[0]} x {shape[1]}; nothing is resized here"
            + (", and masks are of the pixels as they are stored." if turned else ".")
        )
    share = hole.mean()
    if share == 0:
        raise MaskCoverageError(
            f"{item.mask} marks no hole, so there is nothing to restore; white marks "
            f"{_marked(job)} (--mask-polarity)."
        )
    if share > INVERTED and not job.large_holes:
        what = "the whole image" if share == 1 else f"{100 * share:.2f} % of the image"
        raise MaskValueError(
            f"{item.mask} marks {what} as hole and may be inverted: white marks "
            f"{_marked(job)}; change --mask-polarity, or add --allow-large-holes."
        )
    return hole


def _marked(job: Job) -> str:
    return "the hole" if job.polarity == "hole" else "what is valid"


def _hole_notes(hole: np.ndarray) -> list[str]:
    share = hole.mean()
    if share > LARGE:
        return ["more than 60 % is hole: is the mask inverted?"]
    if share < TINY:
        return [f"the hole is {np.count_nonzero(hole)} pixels alone"]
    return []


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height} x {width} {'grey' if channels == 1 else 'RGB'}"
