"""Stage 1 of FlowInpaint: a reference that lies on the damaged section.

The truth of the hole supervises it: five times the weight of the valid pixels.

Source: FlowInpaint Eq. 4 to 6 and 13 to 17; R34 to R37.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from ml_collections import ConfigDict

from jaxinpaint.core.system import (
    Batch,
    Key,
    Scalars,
    System,
    TrainState,
    Tree,
    Variables,
)
from jaxinpaint.features import store
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG16
from jaxinpaint.losses.perceptual import Features, absolute, perceptual
from jaxinpaint.losses.reconstruction import masked_l1
from jaxinpaint.losses.structure import ssim_loss
from jaxinpaint.models.flowinpaint_refine import LEVELS, Refine
from jaxinpaint.ops.filters import block_mean
from jaxinpaint.ops.warp import warp

TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")  # R36
PERCEPTUAL = ("vgg16", "none")
LEAST_FOR_VGG = 8 * 2 ** (LEVELS - 1)  # three poolings of the coarsest level


def build(
    config: ConfigDict,
    net: Refine,
    adam: optax.GradientTransformation,
    batch_spec: Mapping[str, jax.ShapeDtypeStruct],
) -> System:
    """Builds the stage.

    Args:
      config: `image_size`, `refine` and `model.dtype` are read.
      net: whose variables are "generator".
      adam: its optimizer.
      batch_spec: of the batch.

    Raises:
      ValueError: a config value is not among the choices.
    """
    options, size = config.refine, config.image_size
    if options.perceptual not in PERCEPTUAL:
        raise ValueError(
            f"config.refine.perceptual is {options.perceptual!r}; the choices are "
            f"{list(PERCEPTUAL)}."
        )
    if options.perceptual == "vgg16" and size < LEAST_FOR_VGG:
        raise ValueError(
            f"config.image_size is {size}, but the perceptual loss of six levels needs "
            f"{LEAST_FOR_VGG}; set config.refine.perceptual='none' or a larger size."
        )
    if len(options.level_weights) != LEVELS:
        raise ValueError(
            f"config.refine.level_weights is {tuple(options.level_weights)}; give "
            f"{LEVELS} weights, the finest level's first."
        )
    vgg = VGG(VGG16, TAPS, IMAGENET, jnp.dtype(config.model.dtype))

    def init(key: Key) -> TrainState:
        blank = jnp.zeros((1, size, size, 1))
        variables = net.init(key, blank, blank, blank)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables={"generator": variables},
            opt_state={"generator": adam.init(variables["params"])},
        )

    def load_frozen() -> Variables:
        if options.perceptual == "none":
            logging.warning("flowinpaint refine: config without the perceptual loss")
            return {}
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        return {"vgg": store.load("vgg16", options.vgg, vgg, image).variables}

    def run(params: Tree, batch: Batch) -> Mapping[str, Any]:
        image, mask = batch["image"], batch["mask"]
        masked = jnp.where(mask > 0, 1.0, image)  # Eq. 22
        moved = jax.lax.stop_gradient(batch["intermediate"])
        return net.apply({"params": params}, masked, mask, moved)

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del key
        extract = None
        if options.perceptual != "none":
            extract = lambda image: vgg.apply(frozen["vgg"], image)

        def loss(params: Tree) -> tuple[jax.Array, Scalars]:
            return reference_loss(
                run(params, batch)["flows"],
                batch,
                level_weights=options.level_weights,
                hole_weight=options.hole_weight,
                flow_unit=options.flow_unit,
                extract=extract,
            )

        params = state.variables["generator"]["params"]
        grads, logs = jax.grad(loss, has_aux=True)(params)
        step, opt = adam.update(grads, state.opt_state["generator"], params)
        variables = {"generator": {"params": optax.apply_updates(params, step)}}
        return TrainState(state.step + 1, variables, {"generator": opt}), logs

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del frozen, key
        out = run(variables["generator"]["params"], batch)
        return {
            "completed": jnp.where(batch["mask"] > 0, out["reference"], batch["image"]),
            "reference": out["reference"],
            "intermediate": batch["intermediate"],
            "flow": out["flow"],
        }

    return System(batch_spec, init, load_frozen, update, predict)


def reference_loss(
    flows: Sequence[jax.Array],
    batch: Batch,
    *,
    level_weights: Sequence[float],
    hole_weight: float,
    flow_unit: float,
    extract: Callable[[jax.Array], Features] | None,
) -> tuple[jax.Array, Scalars]:
    """Distance of the warped section from the truth, at every level.

        sum_k w_k (hole_weight L_r(hole) + L_r(valid) + L_ssim + L_per)

    Level k compares images of H / 2^(k-1): truth, interpolated section and mask are
    block means (R37), the section is warped by that level's flow.

    Args:
      flows: u_1, u_2, ...: [B, H/2^(k-1), W/2^(k-1), 2], finest first, in units of
        `flow_unit` full-resolution pixels.
      batch: `image`, `intermediate` [B, H, W, 1] in [-1, 1] and `mask`.
      level_weights: one a flow.
      hole_weight: lambda_c.
      flow_unit: pixels to 1 of a flow.
      extract: features of an image, each with weight 1; None leaves L_per out.

    Returns:
      The loss, and for the log also the terms of the finest level.

    Source: FlowInpaint Eq. 13 and 14.
    """
    total = jnp.zeros(())
    logs: Scalars = {}
    for k, (weight, u) in enumerate(zip(level_weights, flows, strict=True)):
        truth, moved, mask = (
            block_mean(batch[name], 2**k) for name in ("image", "intermediate", "mask")
        )
        made = warp(moved, u * (flow_unit / 2**k), border="edge")
        terms = {
            "loss/hole": masked_l1(truth, made, mask),
            "loss/valid": masked_l1(truth, made, 1.0 - mask),
            "loss/ssim": ssim_loss(truth, made),
        }
        if extract is not None:
            each = dict.fromkeys(TAPS, 1.0)
            terms["loss/perceptual"] = perceptual(
                extract(truth), extract(made), each, absolute
            )
        logs = logs or dict(terms)
        hole = hole_weight * terms.pop("loss/hole")
        total = total + weight * sum(terms.values(), hole)
    return total, {"loss/generator": total, **logs}
