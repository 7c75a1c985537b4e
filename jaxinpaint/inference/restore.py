"""Restores batches of integer or float images with a trained system."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.core.checks import pad_to_multiple
from jaxinpaint.core.levels import HALF, scale_batch, to_levels
from jaxinpaint.core.system import System, Variables


def restorer(
    config: ConfigDict, system: System, variables: Variables, frozen: Variables
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Makes the function that restores host batches; it compiles once a shape.

    Args:
      config: of the run; `system`, `seed`, `eval.size_multiple` and
        `eval.least_size` are read.
      system: built from the config.
      variables: trained.
      frozen: what the stage reads besides.

    Returns:
      A function of a batch of arrays [B, H, W, C], uint8 or uint16 levels or float32
      in [-1, 1], and masks [B, H, W, 1] of 0 and 1 (1 = hole), of any size. It
      returns the completed images in the dtype of `image`; pixels outside the hole
      are those of `image`, bit for bit. It raises InpaintInputError where
      `validate_inputs` of the system does.
    """
    key = jax.random.key(config.seed)
    multiple, least = config.eval.size_multiple, config.eval.least_size

    @jax.jit
    def predict(variables: Variables, frozen: Variables, batch: dict) -> jax.Array:
        batch = scale_batch(batch)
        return system.predict(variables, frozen, batch, key)["completed"]

    def restore(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        systems.validate_inputs(config.system, "restore", batch)
        image, mask = batch["image"], batch["mask"]
        if not mask.any():
            return image.copy()
        _, height, width, _ = image.shape
        padded = {
            name: pad_to_multiple(array, multiple, least)
            for name, array in batch.items()
            if array is not None
        }
        out = np.asarray(predict(variables, frozen, padded))[:, :height, :width]
        if str(image.dtype) in HALF:
            out = to_levels(out, str(image.dtype))
        return np.where(mask > 0, out, image)

    return restore
