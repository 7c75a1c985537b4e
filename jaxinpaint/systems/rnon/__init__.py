"""RNON: trains the networks of `models/rnon.py` in two stages.

Stage "repair" (A) paints the hole by partial convolutions; stage "optimize" (B)
freezes it and corrects its whole image. Inside, images are in [0, 1], because both
generators end in a sigmoid, and masks are turned into `valid = 1 - mask`.

Source: RNON: image inpainting via repair network and optimization network, Eq. 1 to 14.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from ml_collections import ConfigDict

from jaxinpaint.core.checks import (
    MaskCoverageError,
    ShapeMismatchError,
    UnalignedSizeError,
    check_image,
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
from jaxinpaint.features.densenet import DENSENET121, DenseNet
from jaxinpaint.features.extractor import Extractor
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG16, VGG19
from jaxinpaint.losses.perceptual import Features
from jaxinpaint.models.rnon import Discriminator, RepairGenerator
from jaxinpaint.systems.rnon import optimize, repair

Stage = repair.Repair | optimize.Optimize
STAGES: Mapping[str, Callable[[ConfigDict, RepairGenerator], Stage]] = {
    "repair": repair.Repair,
    "optimize": optimize.Optimize,
}
DTYPES = ("float32", "bfloat16")
LEAST_DEPTH, MOST_DEPTH = 4, 8
LARGEST_HOLE = 0.6  # the end of the paper's last bin

_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "vgg16": lambda taps, dtype: VGG(VGG16, taps, IMAGENET, dtype),
    "vgg19": lambda taps, dtype: VGG(VGG19, taps, IMAGENET, dtype),
    "densenet121": lambda taps, dtype: DenseNet(DENSENET121, taps, IMAGENET, dtype),
}


def build(config: ConfigDict) -> System:
    """Builds the stage that a config describes.

    Raises:
      UnalignedSizeError: the training size does not fit the repair network.
      ValueError: a config value is not among the choices.
    """
    _check_config(config)
    size, dtype = config.image_size, jnp.dtype(config.model.dtype)
    net = RepairGenerator(
        widths=tuple(config.repair.widths),
        kernels=tuple(config.repair.kernels),
        upsample=config.repair.upsample,
        dtype=dtype,
    )
    stage = STAGES[config.stage](config, net)
    _check_outputs(config, stage.made)
    judge = Discriminator(
        widths=tuple(config.discriminator.widths),
        hidden=config.discriminator.hidden,
        fc_input=config.discriminator.fc_input,
        dtype=dtype,
    )
    judged = stage.adversarial_weight > 0
    extractor = feature_networks(config, stage.taps)
    adam = optimizer(config)
    shape = (config.batch_size, size, size)
    batch_spec = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
    }

    def init(key: Key) -> TrainState:
        keys = jax.random.split(key)
        given = stage.blank(size)
        variables = {"generator": stage.generator.init(keys[0], *given, train=False)}
        if judged:
            variables["discriminator"] = judge.init(keys[1], given[0], train=False)
        opt_state = {name: adam.init(v["params"]) for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    def load_frozen() -> Variables:
        left_out = sorted(set(stage.taps) - set(extractor.networks))
        if left_out:
            logging.warning(
                "rnon %s: losses without %s", config.stage, ", ".join(left_out)
            )
        return {**stage.load_frozen(), **extractor.load(size)}

    def discriminate(
        d: Mapping[str, Tree], opt_state: Tree, real: jax.Array, fake: jax.Array
    ) -> tuple[Mapping[str, Tree], Tree, jax.Array]:
        """One update; batch norm sees the true images first, then the made ones."""

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            logits, changed = [], d
            for images in (real, fake):
                out, statistics = judge.apply(
                    {**changed, "params": params},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                )
                changed = {**d, **statistics}
                logits.append(out)
            return stage.discriminator(*logits), changed

        (value, changed), grads = jax.value_and_grad(loss, has_aux=True)(d["params"])
        step, opt_state = adam.update(grads, opt_state, d["params"])
        params = optax.apply_updates(d["params"], step)
        return {**changed, "params": params}, opt_state, value

    def logits_of(d: Mapping[str, Tree], images: jax.Array) -> jax.Array:
        """By the statistics of these images, which are not stored."""
        return judge.apply(d, images, train=True, mutable=["batch_stats"])[0]

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del key
        image, mask = unit(batch["image"]), batch["mask"]
        given, _ = stage.inputs(frozen, image, mask)
        g = state.variables["generator"]

        def generate(params: Tree) -> tuple[jax.Array, Tree]:
            return stage.generator.apply(
                {**g, "params": params}, *given, train=True, mutable=["batch_stats"]
            )

        raw, pull_back, statistics = jax.vjp(generate, g["params"], has_aux=True)
        others: Variables = {}
        opt_state: dict[str, Tree] = {}
        logs_d: Scalars = {}
        if judged:
            d, opt_state["discriminator"], value = discriminate(
                state.variables["discriminator"],
                state.opt_state["discriminator"],
                image,
                raw,
            )
            others, logs_d = {"discriminator": d}, {"loss/discriminator": value}

        def read(images: Sequence[jax.Array]) -> Sequence[Features]:
            return extractor.each(frozen, [signed(x) for x in images])

        def loss(raw: jax.Array) -> tuple[jax.Array, Scalars]:
            total, logs = stage.terms(
                image, raw, mask, read if extractor.networks else None
            )
            if judged:
                term = stage.adversarial(functools.partial(logits_of, d), image, raw)
                logs = {**logs, "loss/adversarial": term}
                total = total + stage.adversarial_weight * term
            return total, {"loss/generator": total, **logs}

        gradient, logs = jax.grad(loss, has_aux=True)(raw)
        (grads,) = pull_back(gradient)
        step, opt = adam.update(grads, state.opt_state["generator"], g["params"])
        params = optax.apply_updates(g["params"], step)
        variables = {"generator": {**g, **statistics, "params": params}, **others}
        opt_state["generator"] = opt
        return TrainState(state.step + 1, variables, opt_state), {**logs, **logs_d}

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del key
        mask = batch["mask"]
        given, shown = stage.inputs(frozen, unit(batch["image"]), mask)
        made = stage.generator.apply(variables["generator"], *given, train=False)
        raw = signed(made)
        return {
            "completed": jnp.where(mask > 0, raw, batch["image"]),
            "raw": raw,
            **{name: signed(image) for name, image in shown.items()},
        }

    return System(batch_spec, init, load_frozen, update, predict)


def unit(image: jax.Array) -> jax.Array:
    """[-1, 1] to [0, 1], the range of the networks and losses here."""
    return (image + 1.0) / 2.0


def signed(image: jax.Array) -> jax.Array:
    """[0, 1] to [-1, 1]."""
    return 2.0 * image - 1.0


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam, with the decay in the gradient as PyTorch's `weight_decay` has it.

    Source: RNON, training; section 4 of the specification.
    """
    options = config.optimizer
    rate = schedule(
        options.schedule,
        options.learning_rate,
        config.steps,
        options.warmup_steps,
        options.final,
    )
    # Assumption: "Decay = 1e-7" is that term, for the paper uses PyTorch. "beta = 0.05"
    # is beta1 = 0.5 with a misplaced digit.
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.adam(rate, b1=options.b1, b2=options.b2, eps=options.eps),
    )


def feature_networks(
    config: ConfigDict, taps: Mapping[str, tuple[str, ...]]
) -> Extractor:
    """The pretrained networks that a loss with a weight reads.

    Args:
      config: `features` names their sources, `loss` their weights.
      taps: of each network.

    Raises:
      ValueError: `features` names other networks than `taps`.
    """
    sources, loss = config.features.to_dict(), config.loss
    if set(sources) != set(taps):
        raise ValueError(
            f"config.features names {sorted(sources)}; stage {config.stage!r} reads "
            f"features of {sorted(taps)}, each 'imported', 'random:SEED' or 'none'."
        )
    dtype, found = jnp.dtype(config.model.dtype), {}
    for name, tensors in taps.items():
        weight = loss.perceptual * loss.perceptual_nets[name]
        if "style" in loss:
            weight = weight + loss.style * loss.style_nets[name]
        if weight > 0 and sources[name] != "none":
            found[name] = _NETWORKS[name](tensors, dtype)
    return Extractor(found, sources)


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is restored.

    Args:
      where: the caller, for the message.
      batch: `image`, uint8, uint16 or float32 in [-1, 1], of 3 channels, and `mask`.
        What lies in the hole of `image` is not looked at.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.

    Warns:
      UserWarning: a mask that looks inverted.

    Source: RNON specification, section 8.
    """
    image, mask = batch.get("image"), batch.get("mask")
    if image is None:
        raise ShapeMismatchError(f"{where}: image is missing.")
    if mask is None:
        raise ShapeMismatchError(
            f"{where}: mask is missing; rnon needs a mask (1 = hole)."
        )
    b, h, w, _ = expect_shape(where, "image", image, "B H W 3")
    expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
    check_mask_values(where, mask)
    # float64, because float32 cannot tell one valid pixel in 2**25 from none.
    ratios = mask.mean(axis=(1, 2, 3), dtype=np.float64)
    worst = int(ratios.argmax())
    if ratios[worst] == 1.0:
        raise MaskCoverageError(
            f"{where}: sample {worst} of mask has no valid pixel; rnon paints a hole "
            "from what is around it."
        )
    if ratios[worst] > LARGEST_HOLE:
        warnings.warn(
            f"{where}: sample {worst} of mask has more than {LARGEST_HOLE:.0%} holes, "
            f"{ratios[worst]:.1%}: is the mask inverted? 1 means hole.",
            stacklevel=2,
        )
    expect_dtype(where, "image", image, *HALF, "float32")
    if np.issubdtype(image.dtype, np.floating):
        check_image(where, "image", image, counts=mask == 0)


def _check_config(config: ConfigDict) -> None:
    if config.stage not in STAGES:
        raise ValueError(
            f"config.stage is {config.stage!r}; the stages are {list(STAGES)}."
        )
    if config.model.dtype not in DTYPES:
        raise ValueError(
            f"config.model.dtype is {config.model.dtype!r}; the choices are "
            f"{list(DTYPES)}."
        )
    if config.channels != 3:
        raise ValueError(
            f"config.channels is {config.channels}; RNON restores photographs, of 3 "
            "channels."
        )
    depth, size = len(config.repair.widths), config.image_size
    if not LEAST_DEPTH <= depth <= MOST_DEPTH:
        raise ValueError(
            f"config.repair.widths has {depth} layers; depth must be in "
            f"{LEAST_DEPTH}..{MOST_DEPTH}."
        )
    if size % 2**depth or size < 1:
        raise UnalignedSizeError(
            f"config.image_size is {size}; rnon repair generator: height and width "
            f"must be multiples of {2**depth}, as its {depth} layers halve them."
        )


def _check_outputs(config: ConfigDict, made: tuple[str, ...]) -> None:
    """Checks what an evaluation is to score beside the completed image."""
    choices = {"also": made, "whole": ("raw", *made)}
    for key, names in choices.items():
        if not set(config.eval[key]) <= set(names):
            raise ValueError(
                f"config.eval.{key} is {tuple(config.eval[key])}; this stage offers "
                f"{list(names)}."
            )
