"""Trains the plain U-Net of `models/unet.py` with an L1 distance and nothing else.

A learned baseline for serial sections, and the smallest example of a system.
"""

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxinpaint.core.checks import (
    ShapeMismatchError,
    check_image,
    check_mask,
    check_mask_values,
    expect_dtype,
    expect_shape,
)
from jaxinpaint.core.levels import HALF
from jaxinpaint.core.schedules import schedule
from jaxinpaint.core.system import (
    Batch,
    Key,
    Scalars,
    System,
    TrainState,
    Tree,
    Variables,
)
from jaxinpaint.losses.reconstruction import masked_l1
from jaxinpaint.models.unet import UNet

SECTIONS = ("image", "previous", "following")


def build(config: ConfigDict) -> System:
    """Builds the system that a config describes."""
    size, channels = config.image_size, config.channels
    net = UNet(tuple(config.model.widths), channels, jnp.dtype(config.model.dtype))
    options = config.optimizer
    adam = optax.adam(
        schedule(
            options.schedule,
            options.learning_rate,
            config.steps,
            options.warmup_steps,
            options.final,
        ),
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
    )

    def spec(channels: int) -> jax.ShapeDtypeStruct:
        shape = (config.batch_size, size, size, channels)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    batch_spec = {name: spec(channels) for name in SECTIONS} | {"mask": spec(1)}

    def init(key: Key) -> TrainState:
        image = jnp.zeros((1, size, size, channels))
        both = jnp.concatenate([image, image], axis=-1)
        variables = net.init(key, image, image[..., :1], both)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables={"generator": variables},
            opt_state={"generator": adam.init(variables["params"])},
        )

    def generate(params: Tree, batch: Batch) -> jax.Array:
        both = jnp.concatenate([batch["previous"], batch["following"]], axis=-1)
        return net.apply({"params": params}, batch["image"], batch["mask"], both)

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del frozen, key
        image, mask = batch["image"], batch["mask"]

        def loss(params: Tree) -> tuple[jax.Array, Scalars]:
            raw = generate(params, batch)
            hole = masked_l1(image, raw, mask)
            valid = masked_l1(image, raw, 1.0 - mask)
            total = config.loss.hole_weight * hole + config.loss.valid_weight * valid
            return total, {"loss/generator": total, "loss/hole": hole}

        params = state.variables["generator"]["params"]
        grads, logs = jax.grad(loss, has_aux=True)(params)
        step, opt = adam.update(grads, state.opt_state["generator"], params)
        params = optax.apply_updates(params, step)
        variables = {"generator": {"params": params}}
        return TrainState(state.step + 1, variables, {"generator": opt}), logs

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del frozen, key
        raw = jnp.clip(generate(variables["generator"]["params"], batch), -1.0, 1.0)
        completed = jnp.where(batch["mask"] > 0, raw, batch["image"])
        return {"completed": completed, "raw": raw}

    return System(batch_spec, init, lambda: {}, update, predict)


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is restored.

    Args:
      where: the caller, for the message.
      batch: `image`, `previous`, `following` and `mask`; images are integer levels
        or float32 in [-1, 1]. What lies in the hole of `image` is not looked at.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.

    Warns:
      UserWarning: a large hole, or a section that is missing whole.
    """
    for name in (*SECTIONS, "mask"):
        if batch.get(name) is None:
            raise ShapeMismatchError(
                f"{where}: {name} is missing; the U-Net restores a section from its "
                "image, its mask and both adjacent sections."
            )
    b, h, w, c = expect_shape(where, "image", batch["image"], "B H W C")
    expect_shape(where, "mask", batch["mask"], f"{b} {h} {w} 1")
    check_mask_values(where, batch["mask"])
    whole = batch["mask"].all(axis=(1, 2, 3))
    if whole.any():
        warnings.warn(
            f"{where}: sample {int(whole.argmax())} of mask is all hole; a section that "
            "is missing whole is made up from its neighbours alone.",
            stacklevel=2,
        )
    if not whole.all():
        check_mask(where, batch["mask"][~whole], allow_large_holes=True)
    for name in SECTIONS:
        expect_shape(where, name, batch[name], f"{b} {h} {w} {c}")
        expect_dtype(where, name, batch[name], *HALF, "float32")
        if np.issubdtype(batch[name].dtype, np.floating):
            counts = batch["mask"] == 0 if name == "image" else None
            check_image(where, name, batch[name], counts=counts)
