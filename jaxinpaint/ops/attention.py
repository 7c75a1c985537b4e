"""Context perceive layer: hole features copied from valid patches, as one function.

No patch is ever built. With X and b on the query grid, half of the feature
resolution, a 3 x 3 patch product is a sum of pixel products along diagonals,

    P[q, k] = sum over u, v in {-1, 0, 1} of <X[q + (u, v)], b[k + (u, v)]>

so every step is one matrix product or a sum of shifted copies of a score matrix
(`ops/diagonal.py`). The steps below are those of the CCPGAN specification, section
3.2; `ops/keys.py` has the masks of steps 2 and 3, and step 1 is the caller's.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinpaint.core.checks import ShapeMismatchError, expect_multiple, expect_shape
from jaxinpaint.ops.blocks import inset, inset_cells, map_blocks, plan_blocks
from jaxinpaint.ops.diagonal import Cells, column_sum, propagate, row_sum, whole_grid
from jaxinpaint.ops.keys import hole_cells, patch_sum, whole_patches


class AttentionOptions(NamedTuple):
    """What the layer does; `PERCEIVE` and `DEEPFILL_V1` are the two presets.

    Attributes:
      rate: stride of the matching grid on the feature map; 2 is built.
      match_size: side of the patches that are compared; 3 is built.
      value_size: side of the patches that are pasted; 4, twice the rate, is built.
      eps: floor of a patch norm.
      softmax_scale: factor on the scores before the softmax.
      fuse: propagate scores along diagonals before the softmax.
      normalize_query: divide by the norm of the query patch, not of the key alone.
      mask_foreground: queries see the hole alone, keys and values the rest alone.
      exclude_masked_keys: invalid keys are no part of the softmax; otherwise their
        score becomes 0 before it and their weight 0 after it.
      composite: return `features` untouched outside the hole.
      use_neighbor: the neighbour is a second set of keys; else it is not read.
      score_precision: "highest" or "default", of the product of queries and keys.
      value_precision: the same, of the product of weights and values.
      query_block_rows: side of the square blocks of queries that are done one after
        the other, which bounds memory; 0 does all at once. Blocks are recomputed
        in the backward pass. A block that, with its halo of 4 on each side, spans
        the width takes whole rows, and one that spans the grid is the grid.
      restrict_queries: skip blocks where no image of the batch has a hole; exact,
        since `composite` discards them. Needs `composite` and blocks.
    """

    rate: int
    match_size: int
    value_size: int
    eps: float
    softmax_scale: float
    fuse: bool
    normalize_query: bool
    mask_foreground: bool
    exclude_masked_keys: bool
    composite: bool
    use_neighbor: bool
    score_precision: str
    value_precision: str
    query_block_rows: int
    restrict_queries: bool


PERCEIVE = AttentionOptions(
    rate=2,
    match_size=3,
    value_size=4,
    eps=1e-4,
    softmax_scale=10.0,
    fuse=True,
    normalize_query=True,
    mask_foreground=True,
    exclude_masked_keys=True,
    composite=True,
    use_neighbor=True,
    score_precision="highest",  # a score error is times 90 before the exponential
    value_precision="default",
    query_block_rows=0,
    restrict_queries=False,
)
DEEPFILL_V1 = PERCEIVE._replace(
    normalize_query=False,
    mask_foreground=False,
    exclude_masked_keys=False,
    composite=False,
    use_neighbor=False,
)


class Perceived(NamedTuple):
    """The layer's output and how it came about.

    Attributes:
      output: [B, h, w, C].
      weights: [B, Q, G * K] after the softmax; image keys, then neighbour keys.
      scores: [B, Q, G * K] after propagation, before scale and masking.
    """

    output: jax.Array
    weights: jax.Array
    scores: jax.Array


def context_perceive(
    features: jax.Array,
    neighbor: jax.Array | None,
    mask: jax.Array,
    neighbor_mask: jax.Array | None,
    options: AttentionOptions,
) -> jax.Array:
    """Fills the hole with valid patches, weighted by how well they match.

        S[q, k] = <f_q, b_k> / (|f_q| |b_k|),  A = softmax over valid k of 10 fuse(S)
        output = mask * overlap_add(sum over k of A[q, k] V_k) / 4 + valid * features

    Products take the dtype of `features` (bfloat16 halves their cost) and add up in
    float32, as norms, scores and the softmax do. Each image has its own mask. Where
    an image has no valid key, the hole becomes zero; see `check_keys`.

    Args:
      features: [B, h, w, C] float, any range; h and w even.
      neighbor: the same of an adjacent section, the second source of keys; None
        where `use_neighbor` is off.
      mask: [B, h, w, 1], 1 = hole, at feature resolution (max-pooled).
      neighbor_mask: the same of the neighbour's damage; None if it has none.
      options: `PERCEIVE`, `DEEPFILL_V1` or a variant of them.

    Returns:
      [B, h, w, C] in the dtype of `features`.

    Raises:
      ShapeMismatchError: arrays that disagree, or no neighbour where one is used.
      UnalignedSizeError: h or w is odd.
      ValueError: options that cannot go together or are not built.

    Source: CCPGAN, Eq. 2 and Fig. 4; specification, sections 3.2 and 3.3.
    FlowInpaint, Eq. 8 to 11, with `mask_foreground` and `use_neighbor` off.
    """
    inputs = _prepare(features, neighbor, mask, neighbor_mask, options)
    blocks = plan_blocks(inputs.grid, options.query_block_rows)
    if blocks is None:
        pasted = _whole(inputs, options).output
    else:
        margins = (blocks.score_halo, blocks.paste_halo)
        attend = lambda queries, gain, cells: (
            _attend(queries, gain, cells, margins, inputs, options).output
        )
        operands, needed = (inputs.queries, inputs.query_gain), None
        if options.restrict_queries:
            needed = hole_cells(mask.astype(bool)).reshape(features.shape[0], -1)
        pasted = map_blocks(attend, operands, needed, blocks, inputs.grid)
    return _compose(pasted, features, mask, options)


def context_perceive_details(
    features: jax.Array,
    neighbor: jax.Array | None,
    mask: jax.Array,
    neighbor_mask: jax.Array | None,
    options: AttentionOptions,
) -> Perceived:
    """`context_perceive` with its weights and scores, for tests and analysis.

    Arguments and errors are the same; all queries are done at once, whatever
    `query_block_rows` says, because the matrices are wanted whole.
    """
    inputs = _prepare(features, neighbor, mask, neighbor_mask, options)
    result = _whole(inputs, options)
    return result._replace(output=_compose(result.output, features, mask, options))


def _check(
    features: jax.Array,
    neighbor: jax.Array | None,
    mask: jax.Array,
    neighbor_mask: jax.Array | None,
    options: AttentionOptions,
) -> None:
    where = "context_perceive"
    shape = expect_shape(where, "features", features, "B h w C")
    batch, height, width, channels = shape
    expect_multiple(where, shape, of=2, least=2)
    expect_shape(where, "mask", mask, f"{batch} {height} {width} 1")
    if options.use_neighbor:
        if neighbor is None:
            raise ShapeMismatchError(
                f"{where}: neighbor is None, but use_neighbor asks for one; pass "
                f"[{batch}, {height}, {width}, {channels}] or set use_neighbor=False."
            )
        one = f"{batch} {height} {width}"
        expect_shape(where, "neighbor", neighbor, f"{one} {channels}")
        if neighbor_mask is not None:
            expect_shape(where, "neighbor_mask", neighbor_mask, f"{one} 1")
    if (options.rate, options.match_size, options.value_size) != (2, 3, 4):
        raise ValueError(
            f"{where}: rate, match_size and value_size must be 2, 3 and 4, got "
            f"{options.rate}, {options.match_size} and {options.value_size}."
        )
    if options.restrict_queries and not (
        options.composite and options.query_block_rows > 0
    ):
        raise ValueError(
            f"{where}: restrict_queries skips blocks that composite discards; set "
            "composite=True and query_block_rows > 0 with it."
        )
    if options.query_block_rows < 0:
        raise ValueError(
            f"{where}: query_block_rows is {options.query_block_rows}; it must be a "
            "number of rows, or 0 for all at once."
        )


class _Inputs(NamedTuple):
    """Queries on the half grid, and keys and values of all G sources one by one."""

    queries: jax.Array  # [B, Q, C]
    query_gain: jax.Array  # [B, Q], 1 / patch norm
    keys: jax.Array  # [B, G * K, C]
    key_gain: jax.Array  # [B, G * K]
    valid: jax.Array  # [B, G * K] bool
    values: jax.Array  # [2, 2, B, G * K, C], by parity of row and column
    grid: tuple[int, int]


def _prepare(
    features: jax.Array,
    neighbor: jax.Array | None,
    mask: jax.Array,
    neighbor_mask: jax.Array | None,
    options: AttentionOptions,
) -> _Inputs:
    """Steps 2 to 4: foreground and background, valid keys, norms of the patches."""
    _check(features, neighbor, mask, neighbor_mask, options)
    batch, height, width, _ = features.shape
    dtype = np.promote_types(features.dtype, np.float32)
    zero = np.zeros((), features.dtype)
    blank = lambda x, where: jnp.where(where, zero, x)

    hole = mask.astype(bool)
    if options.mask_foreground or options.exclude_masked_keys:
        cells = hole_cells(hole)
    else:  # DeepFill v1 samples the mask; the two agree on holes aligned to 2 cells
        cells = hole[:, ::2, ::2]
    queries = sampled = features[:, ::2, ::2]
    values = features
    if options.mask_foreground:
        queries, sampled = blank(queries, ~cells), blank(sampled, cells)
        values = blank(values, hole)
    sources = [(sampled, values, whole_patches(cells))]

    if options.use_neighbor:
        assert neighbor is not None
        values = neighbor.astype(features.dtype)
        sampled = values[:, ::2, ::2]
        valid = jnp.ones((*sampled.shape[:3], 1), bool)
        if neighbor_mask is not None:
            damage = neighbor_mask.astype(bool)
            cells = hole_cells(damage)
            sampled, values = blank(sampled, cells), blank(values, damage)
            valid = whole_patches(cells)
        sources.append((sampled, values, valid))

    flat = lambda x: x.reshape(batch, -1, x.shape[-1])
    gain = functools.partial(_gain, eps=options.eps, dtype=dtype)
    return _Inputs(
        queries=flat(queries),
        query_gain=gain(queries)
        if options.normalize_query
        else jnp.ones((batch, height * width // 4), dtype),
        keys=jnp.concatenate([flat(keys) for keys, _, _ in sources], axis=1),
        key_gain=jnp.concatenate([gain(keys) for keys, _, _ in sources], axis=1),
        valid=jnp.concatenate([flat(v)[..., 0] for _, _, v in sources], axis=1),
        values=jnp.concatenate([_phases(v) for _, v, _ in sources], axis=3),
        grid=(height // 2, width // 2),
    )


def _gain(x: jax.Array, eps: float, dtype: Any) -> jax.Array:
    """1 / max(norm of the 3 x 3 patch, eps), with a finite gradient at zero."""
    squares = jnp.square(x.astype(dtype)).sum(axis=-1, keepdims=True)
    gain = lax.rsqrt(jnp.maximum(patch_sum(squares), eps**2))
    return gain.reshape(x.shape[0], -1)


def _phases(x: jax.Array) -> jax.Array:
    """[B, h, w, C] to [2, 2, B, h / 2 * w / 2, C] by parity of row and column."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(2, 4, 0, 1, 3, 5).reshape(2, 2, batch, -1, channels)


def _whole(inputs: _Inputs, options: AttentionOptions) -> Perceived:
    """All queries at once; `output` is by phase, [2, 2, B, Q, C]."""
    cells, margins = whole_grid(inputs.grid), ((0, 0), (0, 0))
    return _attend(inputs.queries, inputs.query_gain, cells, margins, inputs, options)


def _attend(
    queries: jax.Array,
    query_gain: jax.Array,
    cells: Cells,
    margins: tuple[tuple[int, int], tuple[int, int]],
    inputs: _Inputs,
    options: AttentionOptions,
) -> Perceived:
    """Steps 5 to 8 for a rectangle of queries [B, T, C]; `output` is by phase.

    `cells` holds the rectangle with its halo, of which the scores lose the first of
    the margins (rows, columns) on each side, and the paste the second.
    """
    scores = _scores(queries, query_gain, cells, inputs, options)
    scores = inset(scores, cells, margins[0])
    weights = _weights(scores, inputs.valid, options)
    cells = inset_cells(cells, margins[0])
    pasted = _paste(weights, cells, margins[1], inputs, options)
    return Perceived(pasted, weights, scores)


def _scores(
    queries: jax.Array,
    query_gain: jax.Array,
    cells: Cells,
    inputs: _Inputs,
    options: AttentionOptions,
) -> jax.Array:
    """Steps 5 and 6: similarity [B, T, G * K], propagated in each source."""
    grid = inputs.grid
    batch, count, _ = queries.shape
    x = jnp.einsum(
        "bqc,bkc->bqk",
        queries,
        inputs.keys,
        precision=options.score_precision,
        preferred_element_type=query_gain.dtype,
    )
    x = x.reshape(batch, count, -1, grid[0] * grid[1])
    x = column_sum(row_sum(x, (-1, 1), cells), (-1, 1), cells)
    x = x * query_gain[:, :, None, None]
    x = x * inputs.key_gain.reshape(batch, 1, -1, x.shape[-1])
    if options.fuse:
        x = propagate(x, cells)
    return x.reshape(batch, count, -1)


def _weights(
    scores: jax.Array, valid: jax.Array, options: AttentionOptions
) -> jax.Array:
    """Step 7: softmax over the valid keys of all sources; zeros where none is."""
    scores = scores * options.softmax_scale
    keep = valid[:, None, :]
    if not options.exclude_masked_keys:
        factor = keep.astype(scores.dtype)
        return jax.nn.softmax(scores * factor, axis=-1) * factor
    # With no valid key at all, `where` gives zeros, and zero gradients.
    return jax.nn.softmax(scores, axis=-1, where=keep)


def _paste(
    weights: jax.Array,
    cells: Cells,
    margin: tuple[int, int],
    inputs: _Inputs,
    options: AttentionOptions,
) -> jax.Array:
    """Step 8: overlap-adds the value patches; [2, 2, B, T, C] by phase."""
    grid = inputs.grid
    batch, count, _ = weights.shape
    weights = weights.reshape(batch, count, -1, grid[0] * grid[1])

    def phase(rows: jax.Array, row: int, column: int) -> jax.Array:
        x = inset(column_sum(rows, (2 * column - 1,), cells), cells, margin)
        return 0.25 * jnp.einsum(
            "bqk,bkc->bqc",
            x.reshape(batch, x.shape[1], -1).astype(inputs.values.dtype),
            inputs.values[row, column],
            precision=options.value_precision,
            preferred_element_type=weights.dtype,
        )

    # Recomputed in the backward pass, or six sums as large as the scores would stay.
    @functools.partial(jax.checkpoint, static_argnums=(1,))
    def row_phase(weights: jax.Array, row: int) -> jax.Array:
        rows = row_sum(weights, (2 * row - 1,), cells)
        return jnp.stack([phase(rows, row, column) for column in (0, 1)])

    return jnp.stack([row_phase(weights, row) for row in (0, 1)])


def _compose(
    pasted: jax.Array, features: jax.Array, mask: jax.Array, options: AttentionOptions
) -> jax.Array:
    """Step 9: the phases put in place, in the hole alone with `composite`."""
    batch, height, width, channels = features.shape
    cells = pasted.reshape(2, 2, batch, height // 2, width // 2, channels)
    full = cells.transpose(2, 3, 0, 4, 1, 5).reshape(features.shape)
    full = full.astype(features.dtype)
    return jnp.where(mask.astype(bool), full, features) if options.composite else full
