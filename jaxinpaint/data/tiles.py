"""Slides cut into square tiles that overlap."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.slides import Slide
from jaxinpaint.data.tissue import tissue_map


class Tile(NamedTuple):
    """A square of a slide.

    Attributes:
      slide: its id.
      split: its part, "train", or the test set's name.
      top: row of the slide.
      left: column of the slide.
      image: uint8 [S, S, 3], white beyond the slide.
      label: uint8 [S, S, 2], 0 beyond the slide.
      valid: uint8 [S, S, 1], 1 on the slide.
    """

    slide: str
    split: str
    top: int
    left: int
    image: np.ndarray
    label: np.ndarray
    valid: np.ndarray


class Cut(NamedTuple):
    """How slides are cut into tiles.

    Attributes:
      tile: side in pixels.
      step: pixels from one to the next.
      min_tissue: least share of tissue of a tile, in [0, 1].
      chroma: levels of colour above which a block is tissue.
      block: side of these blocks in pixels.
    """

    tile: int
    step: int
    min_tissue: float
    chroma: float
    block: int


def origins(side: int, tile: int, step: int) -> list[int]:
    """First rows (or columns) of the tiles of a side.

    Args:
      side: rows of the slide.
      tile: rows of a tile.
      step: rows from one to the next.

    Returns:
      0, step and so on while the tile lies inside, and one at the end if these do not
      reach it; 0 alone where the side is shorter than a tile.

    Raises:
      ValueError: a length below 1, or a step that would leave gaps.

    Source: glomeruli specification 5.4.
    """
    if min(side, tile, step) < 1 or step > tile:
        raise ValueError(
            f"tiles of {tile} pixels every {step} of {side} leave gaps; lengths must be "
            "positive and config.data.tile_step at most config.data.tile."
        )
    starts = list(range(0, side - tile + 1, step)) or [0]
    return starts + [side - tile] * (starts[-1] + tile < side)


def tiles_of(slide: Slide, cut: Cut) -> Iterator[tuple[Tile, bool]]:
    """Cuts a slide into tiles, row by row.

    Args:
      slide: the slide; read in strips as high as a tile.
      cut: how.

    Yields:
      Each tile, and whether it has enough tissue.

    Raises:
      ValueError: as `origins`, or min_tissue outside [0, 1].

    Source: glomeruli specification 5.4. Assumption: the share of tissue of a tile that
    reaches beyond the slide is that of its pixels on the slide.
    """
    side = cut.tile
    if not 0 <= cut.min_tissue <= 1:
        raise ValueError(f"config.data.min_tissue is {cut.min_tissue}; it is a share.")
    lefts = origins(slide.width, side, cut.step)
    label = slide.label()
    for top in origins(slide.height, side, cut.step):
        rows = min(side, slide.height - top)
        strip = slide.region(top, 0, rows, slide.width)
        for left in lefts:
            columns = min(side, slide.width - left)
            place = slice(top, top + rows), slice(left, left + columns)
            seen = strip[:, place[1]]
            tile = Tile(
                slide=slide.id,
                split=slide.split,
                top=top,
                left=left,
                image=np.full((side, side, 3), 255, np.uint8),
                label=np.zeros((side, side, 2), np.uint8),
                valid=np.zeros((side, side, 1), np.uint8),
            )
            tile.image[:rows, :columns] = seen
            tile.label[:rows, :columns] = label[place]
            tile.valid[:rows, :columns] = 1
            yield tile, _tissue(seen, cut) >= cut.min_tissue


def _tissue(image: np.ndarray, cut: Cut) -> float:
    """Tissue pixels / all pixels."""
    blocks = tissue_map(image, chroma=cut.chroma, block=cut.block)
    pixels = blocks.repeat(cut.block, axis=0).repeat(cut.block, axis=1)
    return float(pixels[: image.shape[0], : image.shape[1]].mean())
