"""A fixed batch of segmented images, scored and drawn while a run goes on."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.system import Batch, Key, System, Variables
from jaxinpaint.metrics.segmentation import confusion, mean_dice
from jaxinpaint.training.log import PANEL_ROWS
from jaxinpaint.training.sharding import replicated, split

THRESHOLD = 0.5  # a probability above it is of the class
# Colours of classes 0, 1 and 2 in [-1, 1], told apart without seeing red or green.
TINTS = ((-1.0, 0.25, 1.0), (1.0, 0.65, -1.0), (0.6, -0.05, 0.3))


class LabelValidation:
    """Scores `predict` on the labels of one batch, which every process holds whole.

    As many rows at a time as a step trains on, which the devices have room for.

    Args:
      system: whose batch has `label` [B, H, W, classes], and whose `predict` gives
        `probabilities` of that shape.
      batch: of the host; where it has `valid` [B, H, W, 1], what is 0 there does not
        count.
      mesh: that it is put on.
      key: of every prediction.
    """

    def __init__(
        self, system: System, batch: Mapping[str, np.ndarray], mesh: Mesh, key: Key
    ) -> None:
        self.batch = batch
        self.key = key
        self.rows = system.batch_spec["label"].shape[0]
        self.where = split(mesh)

        def score(
            variables: Variables, frozen: Variables, batch: Batch, key: Key
        ) -> tuple[jax.Array, Batch]:
            batch = scale_batch(batch)
            image, label = batch["image"], batch["label"]
            out = system.predict(variables, frozen, batch, key)["probabilities"]
            found = jnp.where(out > THRESHOLD, 1.0, 0.0)
            valid = batch.get("valid", jnp.ones_like(label[..., :1]))
            table = confusion(label, found, valid)
            image = jnp.broadcast_to(image, (*image.shape[:3], 3))  # a grey one too
            images = {
                "image": image,
                "label": drawn(image, label),
                "predicted": drawn(image, found),
            }
            return table, images

        self.score = jax.jit(score, out_shardings=replicated(mesh))

    def __call__(
        self, variables: Variables, frozen: Variables
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The scores, and the images [B, H, W, 3] of a panel, left to right.

        "eval/dice" is the mean over classes of the mean Dice of an image; an image
        counts for the classes that are in it, or were found in it.
        """
        count = len(self.batch["label"])
        tables: list[np.ndarray] = []
        shown: dict[str, list[np.ndarray]] = {}
        for first in range(0, count, self.rows):
            # The last run is filled up with the last row, which then does not count.
            rows = np.minimum(np.arange(first, first + self.rows), count - 1)
            part = {
                name: jax.make_array_from_callback(
                    (self.rows, *array.shape[1:]), self.where, array[rows].__getitem__
                )
                for name, array in self.batch.items()
            }
            table, images = self.score(variables, frozen, part, self.key)
            tables.append(np.asarray(jax.device_get(table))[: count - first])
            if first < PANEL_ROWS:
                for name in ("image", "label", "predicted"):
                    drawing = np.asarray(jax.device_get(images[name]))
                    shown.setdefault(name, []).append(drawing[: count - first])
        dice = mean_dice(np.concatenate(tables).astype(np.int64))
        panel = {name: np.concatenate(parts) for name, parts in shown.items()}
        return {"eval/dice": dice}, panel


def drawn(image: jax.Array, label: jax.Array) -> jax.Array:
    """Half of the image's colour where a class is, half of the class's.

    Args:
      image: [B, H, W, 3] in [-1, 1].
      label: [B, H, W, classes] of 0 and 1; where several are, the last one shows.
    """
    for number in range(label.shape[-1]):
        tint = jnp.asarray(TINTS[number % len(TINTS)]).reshape(1, 1, 1, 3)
        here = label[..., number : number + 1] > THRESHOLD
        image = jnp.where(here, 0.5 * (image + tint), image)
    return image
