"""Attention of every position to every other, a few queries at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_shape


def self_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, chunk: int
) -> jax.Array:
    """Mixes values by how well their keys answer a query.

        out[q] = sum over k of softmax_k(<query[q], key[k]>) value[k]

    The scores are not divided by the root of D: `jax.nn.dot_product_attention` would
    do so, and wants D equal to C. Scores and softmax are float32 at least, whatever
    the dtype of the arrays. One matrix of scores has N^2 numbers an image, which
    back-propagation keeps; in chunks it is `chunk` * N, computed again backwards.

    Args:
      query: [B, N, D] float, any range.
      key: [B, N, D].
      value: [B, N, C].
      chunk: queries at a time, the last ones filled up with zeros that are cut off
        again; 0, or N and more, does all at once. The result is the same.

    Returns:
      [B, N, C] in the dtype of `value`.

    Raises:
      ShapeMismatchError: shapes disagree.
      ValueError: a negative chunk.

    Source: SAGAN, the block in front of the first upsampling layer of the glomerulus
      paper's generator; specification, 2.3.
    """
    where = "self_attention"
    b, n, d = expect_shape(where, "query", query, "B N D")
    expect_shape(where, "key", key, f"{b} {n} {d}")
    *_, c = expect_shape(where, "value", value, f"{b} {n} C")
    if chunk < 0:
        raise ValueError(
            f"{where}: chunk is {chunk}; give a number of queries, or 0 for all."
        )
    wide = np.promote_types(query.dtype, np.float32)

    def attend(queries: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqd,bkd->bqk", queries, key, preferred_element_type=wide)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bqk,bkc->bqc", weights, value, preferred_element_type=wide)
        return mixed.astype(value.dtype)

    if chunk == 0 or chunk >= n:
        return attend(query)
    count = -(-n // chunk)
    filled = jnp.pad(query, ((0, 0), (0, count * chunk - n), (0, 0)))
    parts = jnp.moveaxis(filled.reshape(b, count, chunk, d), 1, 0)
    # A loop's body is never merged with its recomputation, so nothing need prevent it.
    mixed = jax.lax.map(jax.checkpoint(attend, prevent_cse=False), parts)
    return jnp.moveaxis(mixed, 0, 1).reshape(b, count * chunk, c)[:, :n]
