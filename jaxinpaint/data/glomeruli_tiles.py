"""Tiles to train and test the segmentation of glomeruli, and the synthetic ones."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import slide_readers
from jaxinpaint.data.cases import Batch
from jaxinpaint.data.epochs import Rows, validation_order
from jaxinpaint.data.gathering import Gathered, Item, gather
from jaxinpaint.data.reduction import nearest_factor
from jaxinpaint.data.slide_labels import read_mask
from jaxinpaint.data.slides import Slide, expect_apart, open_folder
from jaxinpaint.data.split import Parts
from jaxinpaint.data.tiles import Cut, Tile, tiles_of

KEYS = (
    "tile",
    "tile_step",
    "min_tissue",
    "tissue_chroma",
    "tissue_block",
)  # of a `Cut`
_POOL = 4  # third word of a seed; validation has 2


def test_tiles(config: ConfigDict, slides: Sequence[Slide]) -> Iterator[Tile]:
    """Cuts the test slides into tiles; what has no tissue is left out.

    Args:
      config: reads of `data` source and `KEYS`.
      slides: of the config, as `slides.open_slides` opens them.

    Yields:
      Tiles by test set, slide, row and column; `split` is the test set's name.

    Raises:
      ValueError: no slide is for test, or as `tiles.tiles_of`.

    Source: glomeruli specification 5.4.
    """
    tests = [s for s in slides if s.split.startswith("test")]
    if not tests:
        raise ValueError(
            f"{config.data.source}: no slide is in a test list of splits.json or "
            "slides.csv, or config.data.phantom.test_slides is 0."
        )
    cut = _cut(config.data)
    for slide in sorted(tests, key=lambda s: (s.split, s.id)):
        yield from (tile for tile, enough in tiles_of(slide, cut) if enough)


def expect_side(data: ConfigDict, side: int) -> None:
    """Checks that tiles are as large as a system's images.

    Args:
      data: `config.data`; reads tile.
      side: of the system's images.

    Raises:
      ValueError: they are not.
    """
    if side != data.tile:
        raise ValueError(
            f"config.data.tile is {data.tile}, the system's image is {side} x {side}."
        )


def gather_tiles(
    slides: Sequence[Slide],
    data: ConfigDict,
    home: Path,
    generated: Callable[[Slide], np.ndarray] | None = None,
) -> Gathered:
    """Cuts slides into tiles that have tissue.

    Args:
      slides: in order.
      data: `config.data`; reads `KEYS`.
      home: where they are kept if they are many, as of `gathering.gather`.
      generated: slide -> uint8 [H, W], 1 where it was generated; tiles without such a
        pixel are left out.

    Returns:
      `image` uint8 [N, S, S, 3] and `label` uint8 [N, S, S, 2]; of each tile slide,
      group, top, left and `sclerosed`, whether a pixel of it is.

    Raises:
      ValueError: no tile at all, or as `tiles.tiles_of`.
    """
    cut = _cut(data)

    def items() -> Iterator[Item]:
        for slide in slides:
            marked = generated(slide) if generated else None
            for tile, enough in tiles_of(slide, cut):
                facts = {
                    "slide": slide.id,
                    "group": slide.group,
                    "top": tile.top,
                    "left": tile.left,
                    "sclerosed": bool(tile.label[..., 1].any()),
                }
                place = tuple(slice(a, a + cut.tile) for a in (tile.top, tile.left))
                if not enough:
                    yield None, facts | {"reason": "tissue"}
                elif marked is not None and not marked[place].any():
                    yield None, facts | {"reason": "nothing generated"}
                else:
                    yield {"image": tile.image, "label": tile.label}, facts

    found = gather(home, items)
    if not found.meta:
        raise ValueError(
            f"none of {len(found.left_out)} tiles of {len(slides)} slides is used: "
            f"{sorted({facts['reason'] for facts in found.left_out})}; see "
            "config.data.min_tissue."
        )
    return found


def validation_tiles(
    slides: Sequence[Slide],
    tiles: Gathered,
    positions: Sequence[int],
    count: int,
    seed: int,
) -> Batch:
    """The batch that a checkpoint is chosen by, in which no tile is twice.

    Args:
      slides: that the tiles are of.
      tiles: of the training slides.
      positions: those that may be taken.
      count: of tiles at most; 0 takes all.
      seed: of the draw.

    Returns:
      `image` uint8 [N, S, S, 3], `label` uint8 [N, S, S, 2] and `valid` uint8
      [N, S, S, 1], 1 on the slide.

    Raises:
      ValueError: a negative count.

    Source: glomeruli specification 6.2.
    """
    if count < 0:
        raise ValueError(
            f"config.data.validation_crops is {count}; it must be 1 or more, or 0 for "
            "all tiles that are held out."
        )
    # Deviation (6.2): where more than `count` are held out, a seeded draw of them
    # stands for all: the batch lies in memory whole and is segmented at every save.
    chosen = validation_order(positions, seed)[: count or None].tolist()
    batch = Rows(tiles.arrays).take(chosen)
    sizes = {slide.id: (slide.height, slide.width) for slide in slides}
    batch["valid"] = np.zeros((*batch["image"].shape[:3], 1), np.uint8)
    for valid, facts in zip(
        batch["valid"], (tiles.meta[at] for at in chosen), strict=True
    ):
        height, width = sizes[facts["slide"]]
        valid[: height - facts["top"], : width - facts["left"]] = 1
    return batch


def synthetic_count(percent: float, base: int) -> int:
    """How many synthetic tiles join the originals.

    Args:
      percent: 0 to 100.
      base: original training tiles with a sclerosed pixel.

    Returns:
      floor(percent * base / 100 + 0.5).

    Raises:
      ValueError: a percentage outside 0 to 100.

    Source: glomeruli specification 6.3.
    """
    if not 0 <= percent <= 100:
        raise ValueError(
            f"config.data.synthetic_percent is {percent}; it must be 0 to 100."
        )
    return int(np.floor(percent * base / 100 + 0.5))


def synthetic_tiles(
    config: ConfigDict,
    slides: Sequence[Slide],
    tiles: Gathered,
    parts: Parts,
    home_of: Callable[[Sequence[Slide]], Path],
) -> tuple[Gathered | None, tuple[int, ...]]:
    """Opens a synthetic set and chooses the tiles of it that are trained on.

    The tiles are the first ones of one seeded permutation, so that those of a lower
    percentage are among those of a higher one. The pool has no tile of a group that is
    held out for validation: around a new glomerulus it shows what validation shows.

    Args:
      config: reads seed, and of data synthetic, synthetic_percent, split_unit,
        working_mpp, downsample_all, max_pixels and `KEYS`.
      slides: the originals, test slides among them.
      tiles: of the training slides.
      parts: which of them are trained on.
      home_of: the pool's slides -> the folder where their tiles are kept.

    Returns:
      The pool, None without synthetic tiles; and the positions in it.

    Raises:
      ValueError: a percentage without a set, or outside 0 to 100; slides of the set that
        are not synthetic, have the group of no training slide, another resolution than
        it has, or are test slides; or fewer tiles than asked for.

    Source: glomeruli specification 6.3 and 9.2.
    """
    data = config.data
    percent, base = data.synthetic_percent, _sclerosed(tiles, parts)
    count = synthetic_count(percent, base)
    if not percent:
        return None, ()
    if not data.synthetic:
        raise ValueError(
            f"config.data.synthetic_percent is {percent}, but config.data.synthetic names "
            "no synthetic set."
        )
    pool = open_folder(
        data.synthetic,
        working_mpp=data.working_mpp,
        downsample_all=data.downsample_all,
        mask_threshold=0,
        max_pixels=data.max_pixels,
    )
    _check_pool(data.synthetic, slides, pool)
    if data.split_unit == "group":
        pool = [slide for slide in pool if slide.group not in parts.held_groups]
    if not count:
        return None, ()
    if not pool:
        raise ValueError(
            f"{data.synthetic}: every slide is of a group that is held out for "
            "validation; synthesise from more slides."
        )
    found = gather_tiles(
        pool,
        data,
        home_of(pool),
        lambda slide: _generated(data.synthetic, slide, data.max_pixels),
    )
    if len(found.meta) < count:
        raise ValueError(
            f"{data.synthetic}: {percent} % of {base} tiles with sclerosed glomeruli are "
            f"{count} synthetic tiles, but the set has {len(found.meta)} of training "
            "slides; synthesise more rounds."
        )
    order = np.random.default_rng([int(config.seed), 0, _POOL])
    return found, tuple(order.permutation(len(found.meta))[:count].tolist())


def _sclerosed(tiles: Gathered, parts: Parts) -> int:
    return sum(tiles.meta[at]["sclerosed"] for at in parts.kept)


def _check_pool(source: str, slides: Sequence[Slide], pool: Sequence[Slide]) -> None:
    original = [slide.id for slide in pool if not slide.synthetic]
    if original:
        raise ValueError(
            f"{source}: slides.csv does not mark {original[:10]} as synthetic=1; "
            "originals belong to config.data.source."
        )
    expect_apart([*slides, *pool])
    known: dict[str, list[float]] = {}  # resolutions by group
    for one in slides:
        if one.split == "train":
            known.setdefault(one.group, []).extend([one.mpp] if one.mpp else [])
    for slide in pool:
        if slide.split != "train":
            raise ValueError(
                f"{source}: {slide.id} is in the list '{slide.split}'; synthetic slides "
                "are for training alone."
            )
        if slide.group not in known:
            raise ValueError(
                f"{source}: the group of {slide.id} is '{slide.group}', which no training "
                "slide has; a synthetic slide has the group of the slide it is made from."
            )
        mpps = known[slide.group]
        if slide.mpp and mpps and all(nearest_factor(slide.mpp / m) != 1 for m in mpps):
            raise ValueError(
                f"{source}: {slide.id} has {slide.mpp:g} um/px, and the training slides "
                f"of '{slide.group}' are worked on at {mpps[0]:g} um/px; synthesise with "
                "the same config.data.working_mpp and downsample_all."
            )


def _generated(root: str, slide: Slide, max_pixels: int) -> np.ndarray:
    """Where a synthetic slide was generated, uint8 [H, W]."""
    path = Path(root) / "provenance" / f"{slide.id}.png"
    size = slide_readers.image_size(path)
    if size != (slide.height, slide.width):
        raise ValueError(
            f"{path} is {size[0]} x {size[1]}, slide {slide.id} is {slide.height} x "
            f"{slide.width}; they must be alike."
        )
    return read_mask(path, 0, max_pixels)


def _cut(data: ConfigDict) -> Cut:
    return Cut(*(data[key] for key in KEYS))
