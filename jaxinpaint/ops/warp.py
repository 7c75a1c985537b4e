"""Samples images where displacement fields point (backward warping)."""

import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_shape

BORDERS = ("edge", "zero")


def warp(image: jax.Array, flow: jax.Array, *, border: str) -> jax.Array:
    """Samples an image where a displacement field points (backward warping).

        out[b, y, x] = image[b, y + flow[b, y, x, 1], x + flow[b, y, x, 0]]

    The four neighbours of a point are gathered, as runs of channels. The gradient of
    the flow is a gather too; that of the image is one scatter-add, which falls away
    where nobody asks for it. Nothing but the arguments is kept for the backward pass.

    Args:
      image: [B, H, W, C] float, any range; sides of at least 2.
      flow: [B, H, W, 2] float displacement (dx, dy) in pixels of this level; of any
        dtype, points are computed in float32 or better.
      border: "edge" repeats the edge pixels outside; "zero" gives 0 where the point
        lies outside [0, W - 1] x [0, H - 1], and the same inside.

    Returns:
      [B, H, W, C], bilinear, in the range of `image` (with "zero" also 0). Where a
      point was moved to the edge, the flow has no gradient in that direction.

    Raises:
      ValueError: the two shapes disagree, a side is 1, or another border.

    Source: FlowInpaint, operator W of Eq. 1, 2, 4 and 6 (R2, section 2.3).
    """
    b, h, w, _ = expect_shape("warp", "image", image, "B H W C")
    expect_shape("warp", "flow", flow, f"{b} {h} {w} 2")
    if min(h, w) < 2:
        raise ValueError(f"warp: image is {h} x {w}; bilinear sampling needs 2 x 2.")
    if border not in BORDERS:
        raise ValueError(f"warp: border is '{border}'; it is one of {list(BORDERS)}.")
    sampled = _sample(image, flow)
    if border == "edge":
        return sampled
    x, y = _points(flow)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return jnp.where(inside[..., None], sampled, 0)


@jax.custom_vjp
def _sample(image: jax.Array, flow: jax.Array) -> jax.Array:
    corners, wx, wy = _corners(image, flow)
    # As weights, not as differences: a whole displacement gives back exact pixels.
    top = corners[0] * (1 - wx) + corners[1] * wx
    bottom = corners[2] * (1 - wx) + corners[3] * wx
    return top * (1 - wy) + bottom * wy


def _forward(
    image: jax.Array, flow: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sample(image, flow), (image, flow)


def _backward(
    kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, flow = kept
    b, h, w, c = image.shape
    corners, wx, wy = _corners(image, flow)
    along_x = (corners[1] - corners[0]) * (1 - wy) + (corners[3] - corners[2]) * wy
    along_y = (corners[2] - corners[0]) * (1 - wx) + (corners[3] - corners[1]) * wx
    x, y = _points(flow)
    d_flow = jnp.stack(
        [
            jnp.where((x > 0) & (x < w - 1), jnp.sum(along_x * g, axis=-1), 0),
            jnp.where((y > 0) & (y < h - 1), jnp.sum(along_y * g, axis=-1), 0),
        ],
        axis=-1,
    )
    parts = jnp.stack(
        [
            g * (1 - wx) * (1 - wy),
            g * wx * (1 - wy),
            g * (1 - wx) * wy,
            g * wx * wy,
        ]
    )
    places = jnp.stack(_places(flow)[0])
    empty = jnp.zeros((b * h * w, c), g.dtype)
    d_image = empty.at[places.ravel()].add(parts.reshape(-1, c), mode="drop")
    return d_image.reshape(image.shape), d_flow.astype(flow.dtype)


_sample.defvjp(_forward, _backward)


def _points(flow: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns x and rows y that a flow points at, each [B, H, W]."""
    _, h, w, _ = flow.shape
    # A column past 256 is no number of bfloat16, one past 2048 none of float16.
    flow = flow if flow.dtype == jnp.float64 else flow.astype(jnp.float32)
    x = flow[..., 0] + jnp.arange(w, dtype=flow.dtype)[None, None]
    y = flow[..., 1] + jnp.arange(h, dtype=flow.dtype)[None, :, None]
    return x, y


def _places(
    flow: jax.Array,
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    """Where the four neighbours lie among all pixels, and the weights of the far ones.

    Returns:
      The places of the top left, top right, bottom left and bottom right neighbour,
      int32 [B, H, W] into B * H * W pixels; the weights of the right and of the
      bottom ones, [B, H, W, 1].
    """
    b, h, w, _ = flow.shape
    x, y = _points(flow)
    x, y = jnp.clip(x, 0, w - 1), jnp.clip(y, 0, h - 1)
    left = jnp.clip(jnp.floor(x), 0, w - 2)  # so that a right neighbour is there
    top = jnp.clip(jnp.floor(y), 0, h - 2)
    first = jnp.arange(b, dtype=jnp.int32)[:, None, None] * (h * w)
    at = first + top.astype(jnp.int32) * w + left.astype(jnp.int32)
    places = (at, at + 1, at + w, at + w + 1)
    return places, (x - left)[..., None], (y - top)[..., None]


def _corners(
    image: jax.Array, flow: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    """The four neighbours, each [B, H, W, C], and the weights as in `_places`."""
    places, wx, wy = _places(flow)
    pixels = image.reshape(-1, image.shape[-1])
    corners = tuple(pixels.at[at].get(mode="clip") for at in places)
    return corners, wx.astype(image.dtype), wy.astype(image.dtype)
