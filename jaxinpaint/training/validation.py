"""A fixed batch, scored and drawn while a run goes on."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.system import Batch, Key, System, Variables
from jaxinpaint.metrics.pixel import psnr
from jaxinpaint.training.sharding import replicated, split

COLUMNS = ("masked", "previous", "neighbor", "following", "completed", "image")


class Validation:
    """Scores `predict` on one batch, which every process holds whole.

    What is sampled rather than restored is drawn beside the batch, and not scored.

    Args:
      system: whose `predict` gives `completed`, or `sampled`.
      batch: of the host.
      mesh: that it is put on.
      key: of every prediction.
      whole: further images among what it predicts, such as "raw", that are scored and
        drawn as they are, valid pixels included; those that are not there are passed
        over.
    """

    def __init__(
        self,
        system: System,
        batch: Mapping[str, np.ndarray],
        mesh: Mesh,
        key: Key,
        whole: Sequence[str] = (),
    ) -> None:
        rows = len(next(iter(batch.values())))
        where = split(mesh) if rows % mesh.size == 0 else replicated(mesh)
        self.key = key
        self.whole = {name: f"{name}_whole" for name in whole}
        end = COLUMNS.index("image")
        self.columns = (*COLUMNS[:end], *self.whole.values(), *COLUMNS[end:])
        self.batch = {
            name: jax.make_array_from_callback(array.shape, where, array.__getitem__)
            for name, array in batch.items()
        }

        def score(
            variables: Variables, frozen: Variables, batch: Batch, key: Key
        ) -> tuple[dict[str, jax.Array], Batch]:
            batch = scale_batch(batch)
            out = system.predict(variables, frozen, batch, key)
            if "completed" not in out:
                return {}, {"image": batch["image"], "sampled": out["sampled"]}
            everywhere = jnp.ones_like(batch["image"][..., :1])
            region = batch.get("mask", everywhere)

            def mean_psnr(made: jax.Array, region: jax.Array) -> jax.Array:
                truth, made = ((x + 1.0) / 2.0 for x in (batch["image"], made))
                return psnr(truth, made, region, data_range=1.0).mean()

            scores = {"eval/psnr": mean_psnr(out["completed"], region)}
            shown = {
                **batch,
                "masked": jnp.where(region > 0, 0.0, batch["image"]),
                "completed": out["completed"],
            }
            for name, column in self.whole.items():
                if name in out:
                    scores[f"eval/psnr_{column}"] = mean_psnr(out[name], everywhere)
                    shown[column] = out[name]
            return scores, {name: shown[name] for name in self.columns if name in shown}

        self.score = jax.jit(score, out_shardings=replicated(mesh))

    def __call__(
        self, variables: Variables, frozen: Variables
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The scores, and the images [B, H, W, C] of a panel, left to right."""
        scores, images = self.score(variables, frozen, self.batch, self.key)
        order = [name for name in (*self.columns, "sampled") if name in images]
        shown = {name: np.asarray(jax.device_get(images[name])) for name in order}
        values = jax.device_get(scores)
        return {name: float(value) for name, value in values.items()}, shown
