"""Paints contours into windows of a slide, and draws the contours themselves."""

from collections.abc import Callable, Mapping
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jaxinpaint.core.checks import (
    DTypeError,
    MaskCoverageError,
    check_mask_values,
    expect_dtype,
    expect_shape,
)
from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.system import System, Variables

LATENTS = 7  # names the stream of the mask network's latents (specification 8.4)


def restore_windows(
    restore: Callable[[Mapping[str, Any]], np.ndarray],
    images: np.ndarray,
    masks: np.ndarray,
    *,
    batch_size: int,
    feather: float,
) -> np.ndarray:
    """Fills the holes of windows and puts what was made into them.

        out = alpha * made + (1 - alpha) * image    inside the mask, rounded half up
        alpha = clip(d / feather, 0, 1), or 1 where feather is 0

    with d the distance to the nearest pixel outside the mask. Outside, every byte is
    that of the image, whatever the network returns.

    Args:
      restore: a batch of image [B, S, S, 3] and mask [B, S, S, 1], uint8 -> completed
        uint8 [B, S, S, 3]; as `restore.restorer` makes it.
      images: uint8 [N, S, S, 3].
      masks: uint8 [N, S, S], 1 = hole.
      batch_size: windows at once; the last batch is filled up with its last window, so
        that one program serves all.
      feather: width in pixels of the blend inside the mask.

    Returns:
      uint8 [N, S, S, 3].

    Raises:
      InpaintInputError: a shape, a dtype, a mask of other values, or a mask that is
        empty or full.
      ValueError: a figure that cannot be, or a network that returns something else.

    Source: glomeruli specification 8.1, Eq. 13.
    """
    where = "restore_windows"
    count, height, width, _ = expect_shape(where, "images", images, "N H W 3")
    expect_shape(where, "masks", masks, f"{count} {height} {width}")
    if images.dtype != np.uint8:
        raise DTypeError(f"{where}: images must be uint8, got {images.dtype}.")
    expect_dtype(where, "masks", masks, "uint8", "bool")
    check_mask_values(where, masks[..., None])
    if batch_size < 1 or not feather >= 0:
        raise ValueError(
            f"{where}: batch_size is {batch_size} and feather {feather}; they must be "
            "at least 1 and 0."
        )
    area = masks.sum(axis=(1, 2), dtype=np.int64)
    for index in np.flatnonzero((area == 0) | (area == height * width)).tolist():
        kind = "full" if area[index] else "empty"
        raise MaskCoverageError(
            f"{where}: sample {index} of masks is {kind}; a window needs both a hole "
            "and something around it."
        )
    out = images.copy()
    for first in range(0, count, batch_size):
        own = np.arange(first, min(first + batch_size, count))
        rows = np.pad(own, (0, batch_size - len(own)), mode="edge")
        batch = {"image": images[rows], "mask": masks[rows][..., None].astype(np.uint8)}
        made = np.asarray(restore(batch))
        if made.shape != batch["image"].shape or made.dtype != np.uint8:
            raise ValueError(
                f"{where}: the network returned {made.dtype} {list(made.shape)} for "
                f"uint8 windows {list(batch['image'].shape)}."
            )
        for index, window in zip(own.tolist(), made, strict=False):
            out[index] = _composite(window, images[index], masks[index] > 0, feather)
    return out


def _composite(
    made: np.ndarray, image: np.ndarray, mask: np.ndarray, feather: float
) -> np.ndarray:
    """One window, uint8 [S, S, 3]."""
    if feather > 0:
        alpha = np.clip(ndimage.distance_transform_edt(mask) / feather, 0.0, 1.0)
        alpha = alpha[..., None]
        blend = alpha * made + (1.0 - alpha) * image
        made = np.floor(blend + 0.5).astype(np.uint8)
    return np.where(mask[..., None], made, image)


def sample_masks(
    system: System, variables: Variables, count: int, seed: int, batch: int
) -> np.ndarray:
    """Draws mask samples from a trained mask network.

    Batch n is drawn from `fold_in(fold_in(key(seed), 7), n)`, so that more samples begin
    with the same ones.

    Args:
      system: whose `predict` gives "sampled" [B, side, side, 3] in [-1, 1]; of its
        batch the size alone counts.
      variables: trained.
      count: samples.
      seed: of the run.
      batch: samples at once, 1 or more.

    Returns:
      float32 [count, side, side], luma in [0, 1].

    Raises:
      ValueError: count or batch is not positive, or a sample is not finite.

    Source: glomeruli specification 8.2, step 1, and 8.4.
    """
    if count < 1 or batch < 1:
        raise ValueError(
            f"sample_masks: count is {count} and batch {batch}; they must be 1 or more."
        )
    blank = {
        name: jnp.zeros((batch, *one.shape[1:]), one.dtype)
        for name, one in system.batch_spec.items()
    }
    root = jax.random.fold_in(jax.random.key(seed), LATENTS)

    @jax.jit
    def draw(variables: Variables, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(root, number)
        made = system.predict(variables, {}, scale_batch(blank), key)["sampled"]
        colours = (made.astype(jnp.float32) + 1.0) / 2.0
        return dm_pix.rgb_to_grayscale(colours)[..., 0]

    numbers = range(-(-count // batch))
    luma = [np.asarray(draw(variables, jnp.int32(number))) for number in numbers]
    samples = np.concatenate(luma)[:count]
    if not np.isfinite(samples).all():
        raise ValueError(
            "sample_masks: the mask network returned NaN or infinity; take an earlier "
            "checkpoint of it."
        )
    return np.clip(samples, 0.0, 1.0)  # tanh rounds, and so does the sum of weights
