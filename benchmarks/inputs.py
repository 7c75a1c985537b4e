"""Random inputs for any system, on the host as 8-bit levels, on the device as floats.

Images are uniform noise, never constant: products of zeros run faster on some cards.
Masks hold a centred square hole of half the side.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.levels import HALF, from_levels
from jaxinpaint.core.system import Batch

HOLE = "a centred square of half the side, a quarter of the pixels"
LEAST_SETS = 8
MOST_SETS = 32
SETS_BYTES = 64 * 2**20  # more than a last-level cache holds, where MOST_SETS do


class Inputs(NamedTuple):
    """One input set twice.

    Attributes:
      levels: on the host; images uint8, masks uint8 of 0 and 1.
      batch: on the device, as `System.predict` takes it.
      key: on the device.
    """

    levels: Mapping[str, np.ndarray]
    batch: Batch
    key: jax.Array


def is_mask(name: str) -> bool:
    """Whether a batch entry is a mask."""
    return name == "mask" or name.endswith("_mask")


def shapes(
    spec: Mapping[str, jax.ShapeDtypeStruct], size: int, batch: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch that a system declares, at another size and batch."""
    return {
        name: jax.ShapeDtypeStruct(
            (batch, size, size, *entry.shape[3:])
            if len(entry.shape) >= 3
            else (batch, *entry.shape[1:]),
            entry.dtype,
        )
        for name, entry in spec.items()
    }


def draw(spec: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> dict[str, np.ndarray]:
    """One input set on the host.

    Float images become uint8 levels, masks uint8 of 0 and 1; what is no image keeps
    its dtype and is drawn from {0, 1}.
    """
    rng = np.random.default_rng(seed)

    def entry(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if is_mask(name):
            _, height, width, *_ = shape
            mask = np.zeros(shape, np.uint8)
            rows = slice(height // 4, height // 4 + height // 2)
            mask[:, rows, width // 4 : width // 4 + width // 2] = 1
            return mask
        if len(shape) == 4 and np.issubdtype(dtype, np.floating):
            return rng.integers(0, 256, shape, np.uint8)
        return rng.integers(0, 2, shape).astype(dtype)

    return {name: entry(name, e.shape, e.dtype) for name, e in spec.items()}


def to_batch(
    levels: Mapping[str, jax.Array], spec: Mapping[str, jax.ShapeDtypeStruct]
) -> Batch:
    """Levels to the dtypes that a system declares; images to [-1, 1]."""
    return {
        name: from_levels(array)
        if not is_mask(name) and len(array.shape) == 4 and array.dtype == jnp.uint8
        else array.astype(spec[name].dtype)
        for name, array in levels.items()
    }


def to_bytes(image: jax.Array) -> jax.Array:
    """[-1, 1] to uint8 on the device, halves rounded up."""
    scaled = (image.astype(jnp.float32) + 1.0) * HALF["uint8"]
    return jnp.floor(jnp.clip(scaled, 0.0, 255.0) + 0.5).astype(jnp.uint8)


def draw_sets(spec: Mapping[str, jax.ShapeDtypeStruct]) -> list[Inputs]:
    """So many sets that they outgrow the caches, within LEAST_SETS and MOST_SETS."""
    each = sum(int(np.prod(e.shape)) * e.dtype.itemsize for e in spec.values())
    number = min(MOST_SETS, max(LEAST_SETS, -(-SETS_BYTES // each)))
    sets = []
    for seed in range(number):
        levels = draw(spec, seed)
        on_device = {name: jnp.asarray(array) for name, array in levels.items()}
        sets.append(Inputs(levels, to_batch(on_device, spec), jax.random.key(seed)))
    return jax.block_until_ready(sets)
