"""Sums along the diagonals of a score matrix [B, T, G, K].

T query cells against the K cells of each of G key sources. Cells are numbered in
flat row-major order, so +1 is one column on and +width one row down, for query and
key at once; what leaves a matrix reads as zero. Keys are always the whole grid,
queries all of it or a block with a halo. Every sum is linear and costs one pass.

Source: CCPGAN specification, section 3.3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Cells(NamedTuple):
    """Query cells in a rectangle, and which of their steps exist.

    Attributes:
      grid: rows and columns of the whole grid.
      width: columns of the rectangle.
      whole: the rectangle is the grid; rows that leave it leave the array, so that
        they need no mask.
      steps: "up down left right first last" to [1, T, 1, 1], true where a step of one
        row or column stays in the grid, and where one cell back or on does.
    """

    grid: tuple[int, int]
    width: int
    whole: bool
    steps: dict[str, jax.Array]


def find_steps(index: np.ndarray, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The masks of `Cells` for flat indices [..., T]: bool [..., 1, T, 1, 1]."""
    rows, columns = np.divmod(index, grid[1])
    exists = {
        "up": rows > 0,
        "down": rows < grid[0] - 1,
        "left": columns > 0,
        "right": columns < grid[1] - 1,
        "first": index > 0,
        "last": index < grid[0] * grid[1] - 1,
    }
    return {name: step[..., None, :, None, None] for name, step in exists.items()}


def whole_grid(grid: tuple[int, int]) -> Cells:
    """All cells of a grid."""
    steps = find_steps(np.arange(grid[0] * grid[1]), grid)
    return Cells(grid, grid[1], True, {n: jnp.asarray(s) for n, s in steps.items()})


def _shift(x: jax.Array, query: int, key: int) -> jax.Array:
    """out[b, q, g, k] = x[b, q + query, g, k + key], zero outside."""
    none = (0, 0, 0)
    config = (none, (-query, query, 0), none, (-key, key, 0))
    return lax.pad(x, np.zeros((), x.dtype), config)


def row_sum(x: jax.Array, taps: tuple[int, ...], cells: Cells) -> jax.Array:
    """x[q, k] plus x[q + t, k + t] for each tap t, counted in rows."""
    total = x
    for tap in taps:
        moved = _shift(x, tap * cells.width, tap * cells.grid[1])
        if not cells.whole:
            moved *= cells.steps["down" if tap > 0 else "up"].astype(x.dtype)
        total += moved
    return total


def column_sum(x: jax.Array, taps: tuple[int, ...], cells: Cells) -> jax.Array:
    """x[q, k] plus x[q + t, k + t] for each tap t, counted in columns."""
    column = np.arange(x.shape[3]) % cells.grid[1]
    total = x
    for tap in taps:
        name, end = ("right", cells.grid[1] - 1) if tap > 0 else ("left", 0)
        key_step = jnp.asarray((column != end)[None, None, None]).astype(x.dtype)
        total += _shift(x, tap, tap) * cells.steps[name].astype(x.dtype) * key_step
    return total


def _next_in_column_order(x: jax.Array, axis: int, width: int, tap: int) -> jax.Array:
    """Reads the flat axis of a whole grid one place on in column-major order.

    That is one row down, and from the last row the first row one column on; nothing
    follows the last cell.
    """
    count = x.shape[axis]
    part = functools.partial(lax.slice_in_dim, x, axis=axis)
    nothing = jnp.zeros_like(part(0, 1))
    if tap > 0:
        pieces = [part(width, count), part(1, width), nothing]
    else:
        pieces = [nothing, part(count - width, count - 1), part(0, count - width)]
    return jnp.concatenate(pieces, axis=axis)


def propagate(x: jax.Array, cells: Cells) -> jax.Array:
    """Sums three neighbours along the diagonal, in row- then column-major order.

    Both orders run on over the ends of rows and columns, as in DeepFill v1.

    Source: CCPGAN specification, section 3.2, step 6 (R18).
    """
    step = {name: exists.astype(x.dtype) for name, exists in cells.steps.items()}
    total = x
    for tap, end in ((1, "last"), (-1, "first")):
        moved = _shift(x, tap, tap)
        total += moved if cells.whole else moved * step[end]
    x = total
    for tap, end, row in ((1, "last", "down"), (-1, "first", "up")):
        if cells.whole:
            moved = _next_in_column_order(x, 1, cells.width, tap)
        else:  # below the last row a block goes on with the first
            near = _shift(x, tap * cells.width, 0)
            wrapped = _shift(x, tap * (cells.width + 1), 0) * step[end]
            moved = near * step[row] + wrapped * (1 - step[row])
        total += _next_in_column_order(moved, 3, cells.grid[1], tap)
    return total
