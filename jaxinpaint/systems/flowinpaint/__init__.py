"""FlowInpaint: trains the networks of `models/flowinpaint*.py` in two stages.

Stage "refine" bends the interpolated section onto the damaged one; stage "inpaint"
freezes it and restores the hole, guided by both neighbours and that reference.

Source: Serial section microscopy image inpainting guided by axial optical flow,
Eq. 12 to 22. The numbers (R1, R38, ...) are those of the system's specification.
"""

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxinpaint.core.checks import (
    NonFiniteInputError,
    ShapeMismatchError,
    UnalignedSizeError,
    check_image,
    check_mask_values,
    expect_dtype,
    expect_shape,
)
from jaxinpaint.core.levels import HALF, from_levels
from jaxinpaint.core.schedules import schedule
from jaxinpaint.core.system import Derived, System
from jaxinpaint.models.flowinpaint_refine import STRIDE, Refine
from jaxinpaint.ops.optical_flow import FarnebackOptions, intermediate
from jaxinpaint.systems.flowinpaint import inpaint, refine

STAGES = {"refine": refine.build, "inpaint": inpaint.build}
DTYPES = ("float32", "bfloat16")
SECTIONS = ("image", "previous", "following")
INTERPOLATION = 1  # raise it with any change of values, or old caches are read on


def build(config: ConfigDict) -> System:
    """Builds the stage that a config describes.

    Raises:
      UnalignedSizeError: the training size does not fit the networks.
      ValueError: a config value is not among the choices.
    """
    size, options = config.image_size, config.refine
    if config.stage not in STAGES:
        raise ValueError(
            f"config.stage is {config.stage!r}; the stages are {list(STAGES)}."
        )
    if config.model.dtype not in DTYPES:
        raise ValueError(
            f"config.model.dtype is {config.model.dtype!r}; the choices are "
            f"{list(DTYPES)}."
        )
    if config.channels != 1:
        raise ValueError(
            f"config.channels is {config.channels}; FlowInpaint restores grey "
            "sections, of 1 channel."
        )
    if size % STRIDE or size < STRIDE:
        raise UnalignedSizeError(
            f"config.image_size is {size}; the networks need a multiple of {STRIDE}."
        )
    made = images_made(config)
    if not set(config.eval.also) <= set(made):
        raise ValueError(
            f"config.eval.also is {tuple(config.eval.also)}; beside the result this "
            f"stage makes {list(made)}."
        )
    net = Refine(
        channels=tuple(options.channels),
        hidden=tuple(options.hidden),
        dense=options.dense,
        max_displacement=options.max_displacement,
        flow_unit=options.flow_unit,
        dtype=jnp.dtype(config.model.dtype),
    )
    shape = (config.batch_size, size, size, 1)
    one = jax.ShapeDtypeStruct(shape, jnp.float32)
    batch_spec = {name: one for name in (*section_names(config), "mask")}
    adam = config.optimizer
    optimizer = optax.adam(rate(config), b1=adam.b1, b2=adam.b2, eps=adam.eps)
    return STAGES[config.stage](config, net, optimizer, batch_spec)


def rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate, by number of updates (section 5.6)."""
    options = config.optimizer
    return schedule(
        options.schedule,
        options.learning_rate,
        config.steps,
        options.warmup_steps,
        options.final,
        boundaries=options.boundaries,
        factor=options.factor,
    )


def section_names(config: ConfigDict) -> tuple[str, ...]:
    """The images of a batch; `intermediate` unless no guide comes from it."""
    if config.stage == "inpaint" and not inpaint.reads_intermediate(config):
        return SECTIONS
    return (*SECTIONS, "intermediate")


def images_made(config: ConfigDict) -> tuple[str, ...]:
    """What could fill the hole as well as `completed`, of the outputs of `predict`."""
    found = [name for name in section_names(config) if name not in SECTIONS]
    if config.stage == "refine" or "reference" in config.inpaint.guides:
        found.append("reference")
    return tuple(found)


def derived(config: ConfigDict) -> Mapping[str, Derived]:
    """`intermediate`, which the data compute once for each section (R5, R6).

    Its function takes integer sections [H, W, 1] and compiles once a shape.

    Source: FlowInpaint Eq. 1 to 3.
    """
    if "intermediate" not in section_names(config):
        return {}
    options = FarnebackOptions(**config.intermediate)

    @jax.jit
    def between(
        previous: jax.Array, following: jax.Array, alpha: jax.Array
    ) -> jax.Array:
        sections = from_levels(previous[None]), from_levels(following[None])
        return intermediate(*sections, alpha, options)[0]

    def function(
        previous: np.ndarray, following: np.ndarray, alpha: float
    ) -> np.ndarray:
        made = np.asarray(between(previous, following, jnp.float32(alpha)), np.float64)
        half = HALF[str(previous.dtype)]
        levels = np.rint((made + 1.0) * half)
        return np.clip(levels, 0.0, 2.0 * half).astype(previous.dtype)

    digest = f"{INTERPOLATION} {options!r}"
    return {"intermediate": Derived("intermediate", function, digest)}


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is restored.

    Args:
      where: the caller, for the message.
      batch: `image`, `previous`, `following`, `mask` and, unless the guides do without
        it, `intermediate`; images are uint8, uint16 of the full range, or float32 in
        [-1, 1]. What lies in the hole of `image` is not looked at.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.

    Warns:
      UserWarning: a mask that looks inverted, or a section that is missing whole.

    Source: FlowInpaint specification 9.3 and 9.4.
    """
    for name in (*SECTIONS, "mask"):
        if batch.get(name) is None:
            raise ShapeMismatchError(
                f"{where}: {name} is missing; FlowInpaint restores a section from its "
                "image, its mask and both adjacent sections."
            )
    mask = batch["mask"]
    b, h, w, channels = expect_shape(where, "image", batch["image"], "B H W C")
    if channels != 1:
        raise ShapeMismatchError(
            f"{where}: single-channel sections expected, got image "
            f"{list(batch['image'].shape)}; convert to grey first."
        )
    if min(h, w) < STRIDE:
        raise UnalignedSizeError(
            f"{where}: sections must be at least {STRIDE} x {STRIDE} "
            f"pixels, got {h} x {w}."
        )
    expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
    check_mask_values(where, mask)
    _warn_of_large_holes(where, mask)
    present = [
        name for name in (*SECTIONS, "intermediate") if batch.get(name) is not None
    ]
    for name in present:
        expect_shape(where, name, batch[name], f"{b} {h} {w} 1")
        expect_dtype(where, name, batch[name], *HALF, "float32")
        if np.issubdtype(batch[name].dtype, np.floating):
            counts = mask == 0 if name == "image" else None
            _check_finite(where, name, batch[name], counts)
            check_image(where, name, batch[name], counts=counts)


def _warn_of_large_holes(where: str, mask: np.ndarray) -> None:
    ratios = mask.mean(axis=(1, 2, 3), dtype=np.float64)
    worst = int(ratios.argmax())
    if ratios[worst] == 1.0:
        warnings.warn(
            f"{where}: sample {worst} of mask is all hole; a section that is missing "
            "whole is made up from its neighbours alone.",
            stacklevel=3,
        )
    elif ratios[worst] > 0.95:
        warnings.warn(
            f"{where}: sample {worst} of mask is {ratios[worst]:.1%} hole and looks "
            "inverted; 1 marks the hole.",
            stacklevel=3,
        )


def _check_finite(
    where: str, name: str, image: np.ndarray, counts: np.ndarray | None
) -> None:
    broken = ~np.isfinite(image)
    if counts is not None:
        broken &= counts
    number = broken.sum(axis=(1, 2, 3))
    if number.any():
        worst = int(number.argmax())
        raise NonFiniteInputError(
            f"{where}: sample {worst} of {name} has {int(number[worst])} values that "
            "are NaN or infinite."
        )
