"""Channels padded with zeros to a multiple, so that tensor cores take them whole.

XLA pads convolutions in float16 alone. A network with odd widths keeps its features
padded from layer to layer: an axis of channels is a row of parts, as concatenation
left them, and zeros stand after each part. Kernels are padded the same way, so the
zeros stay zeros and no value changes.
"""

import itertools

import jax
import jax.numpy as jnp


def room(part: int, multiple: int) -> int:
    """What a part takes up with its zeros."""
    return -(-part // multiple) * multiple


def spread(x: jax.Array, axis: int, parts: tuple[int, ...], multiple: int) -> jax.Array:
    """Puts zeros after each part of an axis, up to a multiple.

    Args:
      x: any shape, sum(parts) long along `axis`.
      axis: from 0.
      parts: lengths, in order.
      multiple: 1 changes nothing.

    Returns:
      `x`, the sum of `room(part, multiple)` long along `axis`.

    Raises:
      ValueError: the parts are not those of the axis.
    """
    _check("spread", x, axis, parts, sum(parts))
    if all(part % multiple == 0 for part in parts):
        return x

    def widen(piece: jax.Array, part: int) -> jax.Array:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, room(part, multiple) - part)
        return jnp.pad(piece, pad)

    pieces = jnp.split(x, list(itertools.accumulate(parts))[:-1], axis)
    wide = [widen(piece, part) for piece, part in zip(pieces, parts, strict=True)]
    return jnp.concatenate(wide, axis) if len(wide) > 1 else wide[0]


def gather(x: jax.Array, axis: int, parts: tuple[int, ...], multiple: int) -> jax.Array:
    """Takes the zeros out again; the inverse of `spread`.

    Raises:
      ValueError: the parts are not those of the axis.
    """
    rooms = [room(part, multiple) for part in parts]
    _check("gather", x, axis, parts, sum(rooms))
    if all(part % multiple == 0 for part in parts):
        return x
    ends = itertools.accumulate(rooms)
    pieces = [
        jax.lax.slice_in_dim(x, end - wide, end - wide + part, axis=axis)
        for end, wide, part in zip(ends, rooms, parts, strict=True)
    ]
    return jnp.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]


def _check(
    where: str, x: jax.Array, axis: int, parts: tuple[int, ...], length: int
) -> None:
    if x.shape[axis] != length:
        raise ValueError(
            f"{where}: parts {parts} ask for {length} along axis {axis}, got an array "
            f"{list(x.shape)}."
        )
