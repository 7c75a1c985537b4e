"""Integer grey levels on the host, the range [-1, 1] on the device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

HALF = {"uint8": 127.5, "uint16": 32767.5}
MARKS = (
    "mask",
    "neighbor_mask",
    "protect",
    "label",
    "valid",
)  # integers that are no grey levels


def from_levels(levels: jax.Array) -> jax.Array:
    """Scales 8-bit (v / 127.5 - 1) or 16-bit levels to float32 in [-1, 1].

    Raises:
      KeyError: another dtype.
    """
    top = 2.0 * HALF[str(levels.dtype)]
    # Divided last: v / 127.5 - 1, compiled into one rounding, leaves [-1, 1].
    return (2.0 * levels.astype(jnp.float32) - top) / top


def scale_batch(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Integer images to float32 in [-1, 1], masks to 0.0 and 1.0; floats stay."""
    return {
        name: (
            from_levels(array)
            if str(array.dtype) in HALF and name not in MARKS
            else array.astype(jnp.float32)
        )
        for name, array in batch.items()
    }


def to_levels(image: np.ndarray, dtype: str) -> np.ndarray:
    """Back to "uint8" or "uint16", halves rounded up; exact after `from_levels`.

    Values outside [-1, 1] become the nearest level.
    """
    top = 2.0 * HALF[dtype]
    scaled = (np.asarray(image, np.float64) + 1.0) * HALF[dtype]
    return np.floor(np.clip(scaled, 0.0, top) + 0.5).astype(dtype)
