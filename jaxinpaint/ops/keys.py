"""Which cells of the matching grid are hole, and which keys may be copied.

A cell is 2 x 2 features, a patch the 3 x 3 cells around one, zero outside the grid.

Source: CCPGAN specification, section 3.2, steps 2 and 3, and section 8.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinpaint.core.checks import NoValidKeyError, expect_multiple, expect_shape


def patch_sum(x: jax.Array) -> jax.Array:
    """3 x 3 sums of [B, h, w, 1], zero outside."""
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def hole_cells(hole: jax.Array) -> jax.Array:
    """Max-pools [B, h, w, 1] bool to [B, h / 2, w / 2, 1]."""
    batch, height, width, _ = hole.shape
    cells = hole.reshape(batch, height // 2, 2, width // 2, 2, 1)
    return cells.any(axis=(2, 4))


def whole_patches(cells: jax.Array) -> jax.Array:
    """The cells [B, h, w, 1] around which no cell of the patch is hole."""
    return patch_sum(cells.astype(jnp.float32)) == 0


def valid_keys(mask: jax.Array) -> jax.Array:
    """Marks the keys whose patches hold no hole.

    With both poolings, neither the 3 x 3 patch that is compared nor the 4 x 4 patch
    that is pasted touches a feature of the hole.

    Args:
      mask: [B, h, w, 1], 1 = hole, at feature resolution; h and w even.

    Returns:
      [B, h / 2, w / 2, 1] bool.
    """
    return whole_patches(hole_cells(mask.astype(bool)))


def check_keys(
    mask: np.ndarray, neighbor_mask: np.ndarray | None, *, stride: int = 8
) -> None:
    """Checks on the host that every image has a patch that may be copied.

    Args:
      mask: [B, H, W, 1], 1 = hole, at image resolution.
      neighbor_mask: the same of the neighbour's damage; None = no damage, and then
        the neighbour's keys are always valid.
      stride: pixels of `mask` to a cell of the matching grid: 8 at CCPGAN's image
        resolution, 2 for masks at feature resolution.

    Raises:
      NoValidKeyError: an image where neither source has a valid key.
      UnalignedSizeError: H or W is not a multiple of `stride`.

    Warns:
      UserWarning: an image that only the neighbour can restore.

    Source: CCPGAN specification, section 8.
    """

    def any_key(name: str, holes: np.ndarray) -> np.ndarray:
        batch, height, width, _ = expect_shape("check_keys", name, holes, "B H W 1")
        expect_multiple("check_keys", holes.shape, of=stride, least=stride)
        cells = np.asarray(holes, bool).reshape(
            batch, height // stride, stride, width // stride, stride
        )
        padded = np.pad(cells.max(axis=(2, 4)), ((0, 0), (1, 1), (1, 1)))
        near = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.asarray((~near.max(axis=(3, 4))).any(axis=(1, 2)))

    own = any_key("mask", mask)
    other = (
        np.ones_like(own)
        if neighbor_mask is None
        else any_key("neighbor_mask", neighbor_mask)
    )
    if not (own | other).all():
        raise NoValidKeyError(
            f"check_keys: sample {int((own | other).argmin())} has no undamaged patch "
            f"of {3 * stride} x {3 * stride} pixels in the image or its neighbour; "
            "give a smaller hole or another neighbour."
        )
    if not own.all():
        warnings.warn(
            f"check_keys: sample {int(own.argmin())} of mask leaves no undamaged patch "
            f"of {3 * stride} x {3 * stride} pixels; it is restored from the "
            "neighbour alone.",
            stacklevel=2,
        )
