"""How alike two feature maps are, at every small displacement between them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape

TILE = 16  # columns of the first map that are matched at once
ROOM = 0.2  # of arguments and result, that working memory may take besides


def cost_volume(
    first: jax.Array, second: jax.Array, *, max_displacement: int
) -> jax.Array:
    """Correlates every place of one map with the places around it in another.

        out[b, y, x, n (dy + m) + (dx + m)] =
            mean over c of first[b, y, x, c] * second[b, y + dy, x + dx, c]

    for dy and dx from -m to m, n = 2 m + 1; 0 where the place is outside.

    Row by row and tile by tile: 16 columns times the 16 + 2 m around them are one
    small matrix product, of which the diagonals are kept. That costs (16 + 2 m) / n
    times the products that are needed and no buffer of n * n maps of C channels:
    arguments and result, and about a fifth more, are all there is in memory (maps
    of a few rows take up to twice that). The gradients are the same products, and
    nothing but the arguments is kept for them.

    Args:
      first: [B, H, W, C] float.
      second: shaped like `first`.
      max_displacement: m, at least 1.

    Returns:
      [B, H, W, n * n]; sums in float32 or better.

    Raises:
      ValueError: the shapes disagree, or no displacement.

    Source: FlowInpaint Eq. 4, as section 3.3 of its definition has it (m = 4).
    """
    shape = expect_shape("cost_volume", "first", first, "B H W C")
    expect_shape("cost_volume", "second", second, " ".join(str(n) for n in shape))
    if max_displacement < 1:
        raise ValueError(
            f"cost_volume: max_displacement is {max_displacement}; at least 1."
        )
    return _correlate(first, second, max_displacement)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(first: jax.Array, second: jax.Array, m: int) -> jax.Array:
    b, h, w, c = first.shape
    n, rows = 2 * m + 1, _rows(first.shape, m)

    def add(i: jax.Array, out: jax.Array) -> jax.Array:
        dy, y = i % n, i // n * rows
        here = _tiles(_slice(first, y, rows))
        around = _bands(_take(second, y + dy - m, rows), m)
        products = _product("bktpc,bktqc->bktpq", here, around) / c
        products = _diagonals(products, m)[:, :, :w].astype(out.dtype)
        return jax.lax.dynamic_update_slice(out, products, (0, y, 0, dy * n))

    empty = jnp.zeros((b, h, w, n * n), first.dtype)
    return jax.lax.fori_loop(0, n * (h // rows), add, empty)


def _forward(
    first: jax.Array, second: jax.Array, m: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _correlate(first, second, m), (first, second)


def _backward(
    m: int, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    first, second = kept
    b, h, w, c = first.shape
    n, rows = 2 * m + 1, _rows(first.shape, m)

    def add(
        i: jax.Array, sums: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        d_first, d_second = sums
        dy, y = i % n, i // n * rows
        here = _tiles(_slice(first, y, rows))
        around = _bands(_take(second, y + dy - m, rows), m)
        part = jax.lax.dynamic_slice(g, (0, y, 0, dy * n), (b, rows, w, n))
        weights = _banded(part.astype(_wide(g)) / c, m)
        own = _product("bktpq,bktqc->bktpc", weights, around)
        own = own.reshape(b, rows, -1, c)[:, :, :w]
        own = own.astype(d_first.dtype) + _slice(d_first, y, rows)
        d_first = jax.lax.dynamic_update_slice(d_first, own, (0, y, 0, 0))
        other = _product("bktpq,bktpc->bktqc", weights, here)
        other = _from_bands(other, m)[:, :, :w].astype(d_second.dtype)
        places = _inside(y + dy - m + jnp.arange(rows), h)
        return d_first, d_second.at[:, places].add(other, mode="drop")

    start = jnp.zeros(first.shape, _wide(first)), jnp.zeros(first.shape, _wide(first))
    sums = jax.lax.fori_loop(0, n * (h // rows), add, start)
    return sums[0].astype(first.dtype), sums[1].astype(second.dtype)


_correlate.defvjp(_forward, _backward)


def _rows(shape: tuple[int, ...], m: int) -> int:
    """Rows that are worked on at once: as many as `ROOM` has room for."""
    _, h, _, c = shape
    have = ROOM * h * (2 * c + (2 * m + 1) ** 2)
    most = max(int(have / (2 * TILE + 6 * m + 1 + 4 * c)), 1)
    return max(rows for rows in range(1, min(most, h) + 1) if h % rows == 0)


def _product(form: str, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = x.astype(_wide(x)), y.astype(_wide(y))
    return jnp.einsum(form, x, y, precision="highest")


def _wide(x: jax.Array) -> Any:
    """The dtype of sums: float32, float64 of float64."""
    return x.dtype if x.dtype.itemsize > 4 else jnp.float32


def _slice(x: jax.Array, y: jax.Array, rows: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, y, rows, axis=1)


def _inside(places: jax.Array, h: int) -> jax.Array:
    """Row numbers, those outside turned into h, which "fill" and "drop" know."""
    return jnp.where(places < 0, h, places)


def _take(x: jax.Array, y: jax.Array, rows: int) -> jax.Array:
    """Rows from y on, 0 where they are outside."""
    places = _inside(y + jnp.arange(rows), x.shape[1])
    return jnp.take(x, places, axis=1, mode="fill", fill_value=0)


def _tiles(x: jax.Array) -> jax.Array:
    """[B, K, W, C] -> [B, K, tiles, TILE, C], filled up with 0."""
    b, k, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -w % TILE), (0, 0)))
    return x.reshape(b, k, -1, TILE, c)


def _bands(x: jax.Array, m: int) -> jax.Array:
    """[B, K, W, C] -> [B, K, tiles, TILE + 2 m, C]: each tile and m more beside it."""
    b, k, w, c = x.shape
    tiles = -(-w // TILE)
    beyond = -(-2 * m // TILE)  # tiles that the last one's margin reaches into
    wide = (tiles + beyond) * TILE
    x = jnp.pad(x, ((0, 0), (0, 0), (m, wide - w - m), (0, 0)))
    x = x.reshape(b, k, -1, TILE, c)
    parts = [x[:, :, i : i + tiles] for i in range(beyond + 1)]
    return jnp.concatenate(parts, axis=3)[:, :, :, : TILE + 2 * m]


def _from_bands(x: jax.Array, m: int) -> jax.Array:
    """Transpose of `_bands`, but for the columns past W: overlaps are added."""
    b, k, tiles, _, c = x.shape
    beyond = -(-2 * m // TILE)
    x = jnp.pad(x, ((0, 0),) * 3 + ((0, (beyond + 1) * TILE - TILE - 2 * m), (0, 0)))
    total = jnp.zeros((b, k, tiles + beyond, TILE, c), x.dtype)
    for i in range(beyond + 1):
        part = x[:, :, :, i * TILE : (i + 1) * TILE]
        total += jnp.pad(part, ((0, 0), (0, 0), (i, beyond - i), (0, 0), (0, 0)))
    return total.reshape(b, k, -1, c)[:, :, m:]


def _diagonals(x: jax.Array, m: int) -> jax.Array:
    """[B, K, tiles, TILE, TILE + 2 m] -> [B, K, W, 2 m + 1]: out[p, d] = x[p, p + d].

    One zero more to each row moves every row one place on when they are read anew.
    """
    b, k, tiles, side, wide = x.shape
    x = jnp.pad(x.reshape(b, k, tiles, -1), ((0, 0),) * 3 + ((0, side),))
    x = x.reshape(b, k, tiles, side, wide + 1)[..., : 2 * m + 1]
    return x.reshape(b, k, tiles * side, -1)


def _banded(x: jax.Array, m: int) -> jax.Array:
    """[B, K, W, 2 m + 1] -> [B, K, tiles, TILE, TILE + 2 m]: transpose of the above."""
    x = _tiles(x)
    x = jnp.pad(x, ((0, 0),) * 4 + ((0, TILE),))  # rows of TILE + 2 m + 1
    b, k, tiles, side, wide = x.shape
    x = x.reshape(b, k, tiles, -1)[..., : side * (wide - 1)]
    return x.reshape(b, k, tiles, side, wide - 1)
