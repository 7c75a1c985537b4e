"""A fixed batch, scored and drawn while a run goes on."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.system import Batch, Key, System, Variables
from jaxinpaint.metrics.pixel import psnr
from jaxinpaint.training.sharding import replicated, split


class Validation:
    """Scores `predict` on one batch, which every process holds whole."""

    def __init__(
        self, system: System, batch: Mapping[str, np.ndarray], mesh: Mesh, key: Key
    ) -> None:
        rows = len(next(iter(batch.values())))
        where = split(mesh) if rows % mesh.size == 0 else replicated(mesh)
        self.key = key
        self.batch = {
            name: jax.make_array_from_callback(array.shape, where, array.__getitem__)
            for name, array in batch.items()
        }

        def score(
            variables: Variables, frozen: Variables, batch: Batch, key: Key
        ) -> tuple[jax.Array, Batch]:
            batch = scale_batch(batch)
            out = system.predict(variables, frozen, batch, key)
            truth, made = ((x + 1.0) / 2.0 for x in (batch["image"], out["completed"]))
            region = batch.get("mask", jnp.ones_like(truth[..., :1]))
            value = psnr(truth, made, region, data_range=1.0).mean()
            masked = jnp.where(region > 0, 0.0, batch["image"])
            guides: dict[str, jax.Array] = {
                name: batch[name]
                for name in ("previous", "neighbor", "following")
                if name in batch
            }
            return value, {
                "masked": masked,
                **guides,
                "completed": out["completed"],
                "image": batch["image"],
            }

        self.score = jax.jit(score, out_shardings=replicated(mesh))

    def __call__(
        self, variables: Variables, frozen: Variables
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The scores, and the images [B, H, W, C] of a panel, left to right."""
        value, images = self.score(variables, frozen, self.batch, self.key)
        shown = {name: np.asarray(jax.device_get(x)) for name, x in images.items()}
        return {"eval/psnr": float(jax.device_get(value))}, shown
