"""Cuts a box out of every image of a batch."""

import jax


def crop(x: jax.Array, corner: jax.Array, box: int) -> jax.Array:
    """Cuts [B, box, box, C] out of [B, H, W, C], top-left at corner [B, 2].

    Corners count from 0; one too far out is moved in until the box fits.
    """

    def one(image: jax.Array, at: jax.Array) -> jax.Array:
        size = (box, box, image.shape[-1])
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), size)

    return jax.vmap(one)(x, corner)
