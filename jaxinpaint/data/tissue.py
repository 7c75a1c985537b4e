"""Where a slide shows tissue: coloured blocks, and their share of a window."""

import numpy as np


def tissue_map(image: np.ndarray, *, chroma: float, block: int) -> np.ndarray:
    """Marks the blocks whose mean colour is no grey.

        max(R, G, B) - min(R, G, B) > chroma

    Args:
      image: uint8 [H, W, 3].
      chroma: in levels.
      block: side of a block in pixels; the last ones of an image may be smaller.

    Returns:
      bool [ceil(H / block), ceil(W / block)].

    Raises:
      ValueError: the image is not uint8 RGB, or the block is empty.

    Source: glomeruli specification 5.4.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"tissue_map: expected 8-bit RGB, found {list(image.shape)} {image.dtype}."
        )
    if block < 1:
        raise ValueError(f"tissue_map: block is {block}; it must be 1 or more.")
    height, width = image.shape[:2]
    rows, columns = (np.arange(0, side, block) for side in (height, width))
    # Whole rows are added at once: several times as fast as np.add.reduceat.
    strips = np.zeros((len(rows), width, 3), np.int64)
    sums = np.zeros((len(rows), len(columns), 3), np.int64)
    for offset in range(block):
        part = image[offset::block]
        strips[: len(part)] += part
    for offset in range(block):
        part = strips[:, offset::block]
        sums[:, : part.shape[1]] += part
    sizes = np.minimum(block, height - rows)[:, None] * np.minimum(
        block, width - columns
    )
    # Whole numbers on both sides: a block on the limit is not left to rounding.
    return sums.max(-1) - sums.min(-1) > chroma * sizes


def tissue_share(
    tissue: np.ndarray, tops: np.ndarray, lefts: np.ndarray, *, size: int, block: int
) -> np.ndarray:
    """Tissue pixels / all pixels of windows on a grid.

    Args:
      tissue: bool [h, w] of blocks, from `tissue_map`.
      tops: [M] first rows of windows that lie inside the image.
      lefts: [N] first columns of them.
      size: side of the windows in pixels.
      block: side of the blocks in pixels.

    Returns:
      float64 [M, N] in [0, 1].
    """
    rows = _overlaps(tops, tissue.shape[0], size, block)
    columns = _overlaps(lefts, tissue.shape[1], size, block)
    return rows @ tissue @ columns.T / size**2


def _overlaps(starts: np.ndarray, count: int, size: int, block: int) -> np.ndarray:
    """Pixels [M, count] that each window shares with each row of blocks."""
    starts, edges = np.asarray(starts)[:, None], np.arange(count) * block
    ends = np.minimum(starts + size, edges + block)
    return np.maximum(0, ends - np.maximum(starts, edges)).astype(np.float64)
