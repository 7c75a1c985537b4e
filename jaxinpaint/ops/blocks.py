"""A query grid done rectangle after rectangle, each with a halo, to bound memory.

Source: CCPGAN specification, section 3.6 (c) and (d).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinpaint.ops.diagonal import Cells, find_steps

SCORE_HALO = 3  # patch product 1, row-major propagation 1, column-major 1
PASTE_HALO = 1  # a pasted cell reads the weights of its neighbours


class Blocks(NamedTuple):
    """How a grid falls into rectangles, each in rows and columns of cells.

    Attributes:
      size: of a rectangle.
      number: of rectangles.
      score_halo: what the scores lose of a rectangle on each side; no columns where
        it has the grid's width, since there the flat order runs on by itself.
      paste_halo: what the paste loses after it.
    """

    size: tuple[int, int]
    number: tuple[int, int]
    score_halo: tuple[int, int]
    paste_halo: tuple[int, int]


def plan_blocks(grid: tuple[int, int], side: int) -> Blocks | None:
    """Squares of `side` cells, or whole rows, or None where the grid is one block.

    A block that, with its halo, is as large as the grid would save nothing.
    """
    halo = SCORE_HALO + PASTE_HALO
    fits = [side == 0 or side + 2 * halo >= n for n in grid]
    if all(fits):
        return None
    size = (min(side, grid[0]), grid[1] if fits[1] else side)
    count = (-(-grid[0] // size[0]), -(-grid[1] // size[1]))
    score, paste = (0, 0) if fits[1] else (SCORE_HALO, PASTE_HALO)
    return Blocks(size, count, (SCORE_HALO, score), (PASTE_HALO, paste))


def block_index(blocks: Blocks, grid: tuple[int, int]) -> np.ndarray:
    """Flat grid index [blocks, T] of every cell of a block and its halo.

    The flat order runs on over row ends and, cyclically, over the grid's end: that
    is where both flattenings of the propagation read on.
    """
    halo = np.add(blocks.score_halo, blocks.paste_halo)
    rows, columns = (
        np.arange(n)[:, None] * size + np.arange(-edge, size + edge)
        for n, size, edge in zip(blocks.number, blocks.size, halo, strict=True)
    )
    flat = rows[:, None, :, None] * grid[1] + columns[None, :, None, :]
    return flat.reshape(len(rows) * len(columns), -1) % (grid[0] * grid[1])


def inset(x: jax.Array, cells: Cells, margin: tuple[int, int]) -> jax.Array:
    """Drops rows and columns on each side of a rectangle: [B, T, ...], fewer T."""
    if margin == (0, 0):
        return x
    rows = x.reshape(x.shape[0], -1, cells.width, *x.shape[2:])
    inner = rows[:, margin[0] : rows.shape[1] - margin[0]]
    inner = inner[:, :, margin[1] : cells.width - margin[1]]
    return inner.reshape(x.shape[0], -1, *x.shape[2:])


def inset_cells(cells: Cells, margin: tuple[int, int]) -> Cells:
    """The cells that `inset` leaves."""
    steps = {name: inset(step, cells, margin) for name, step in cells.steps.items()}
    return cells._replace(width=cells.width - 2 * margin[1], steps=steps)


def map_blocks(
    attend: Callable[..., jax.Array],
    operands: tuple[jax.Array, ...],
    needed: jax.Array | None,
    blocks: Blocks,
    grid: tuple[int, int],
) -> jax.Array:
    """Runs a function on block after block; each is recomputed in the backward pass.

    Args:
      attend: (operands [B, T, ...] of a block and its halo, `Cells`) to
        [2, 2, B, rows * columns, C], the halo gone.
      operands: [B, Q, ...], cells of the whole grid.
      needed: [B, Q] bool, the cells whose result counts; a block without one is not
        computed, and zero. None to compute all.
      blocks: what `plan_blocks` made.
      grid: rows and columns of the whole grid.

    Returns:
      [2, 2, B, Q, C].
    """
    index = block_index(blocks, grid)
    halo = np.add(blocks.score_halo, blocks.paste_halo)
    (rows, columns), width = blocks.size, blocks.size[1] + 2 * int(halo[1])
    inner = index.reshape(len(index), -1, width)
    inner = inner[:, halo[0] : halo[0] + rows, halo[1] : halo[1] + columns]

    def block(xs: tuple) -> jax.Array:
        steps, wanted, *parts = xs
        run = lambda *parts: attend(*parts, Cells(grid, width, False, steps))
        if wanted is None:
            return run(*parts)
        shape = jax.eval_shape(run, *parts)
        nothing = lambda *_: jnp.zeros(shape.shape, shape.dtype)
        return lax.cond(wanted, run, nothing, *parts)

    results = lax.map(
        jax.checkpoint(block, prevent_cse=False),
        (
            {name: jnp.asarray(s) for name, s in find_steps(index, grid).items()},
            None if needed is None else needed[:, inner].any(axis=(0, 2, 3)),
            *(jnp.moveaxis(x[:, index], 1, 0) for x in operands),
        ),
    )  # [blocks, 2, 2, B, rows * columns, C]
    batch, channels = results.shape[3], results.shape[-1]
    results = results.reshape(*blocks.number, 2, 2, batch, rows, columns, channels)
    whole = results.transpose(2, 3, 4, 0, 5, 1, 6, 7).reshape(
        2, 2, batch, blocks.number[0] * rows, blocks.number[1] * columns, channels
    )
    whole = whole[:, :, :, : grid[0], : grid[1]]
    return whole.reshape(2, 2, batch, -1, channels)
