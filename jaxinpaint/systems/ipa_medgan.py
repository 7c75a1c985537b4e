"""ipA-MedGAN: restores brain MR slices without being told where they are damaged.

A cascade of two U-Nets paints the whole slice anew. Two discriminators judge it beside
the damaged slice, one by patches of 70 pixels, one whole; the first one's features
and those of VGG19 say how far it is from the truth.

Source: ipA-MedGAN: Inpainting of Arbitrarily Regions in Medical Modalities. Sections
are those of the system's specification.
"""

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
    expect_choice,
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
from jaxinpaint.features import store
from jaxinpaint.features.normalization import CAFFE, IMAGENET
from jaxinpaint.features.vgg import VGG, VGG19
from jaxinpaint.losses.adversarial import (
    softplus_discriminator,
    softplus_generator,
)
from jaxinpaint.losses.perceptual import (
    Features,
    absolute,
    elements,
    perceptual,
    positions,
    style,
)
from jaxinpaint.models.ipa_medgan import (
    Generator,
    GlobalDiscriminator,
    PatchDiscriminator,
)

STRIDE, LEAST_SIZE = 16, 96  # of training: the global discriminator's
# Eq. 1 as printed has no gradient where a discriminator wins (section 3.1).
GAME: dict[str, Callable[[jax.Array], jax.Array]] = {
    "nonsaturating": softplus_generator,
    "saturating": lambda fake: -jnp.mean(jax.nn.softplus(fake)),
}
DIVISORS = {"hw": positions, "hwd": elements}
NORMALIZATIONS = {"imagenet": IMAGENET, "caffe": CAFFE}
CHOICES: dict[str, Sequence[str]] = {
    "loss.gan_g": list(GAME),
    "loss.gram_norm": list(DIVISORS),
    "loss.vgg_preprocess": list(NORMALIZATIONS),
    "model.dtype": ["float32", "bfloat16"],
}
DISCRIMINATORS = ("patch", "global")

Extract = Callable[[jax.Array], Features]


def build(config: ConfigDict) -> System:
    """Builds the system that a config describes.

    Raises:
      UnalignedSizeError: the training size does not fit the discriminators.
      ValueError: a config value is not among the choices.
    """
    check_config(config)
    options, weights, size = config.model, config.loss, config.image_size
    dtype = jnp.dtype(options.dtype)
    generator = Generator(
        widths=tuple(options.widths),
        cascade_depth=options.cascade_depth,
        share_weights=options.share_weights,
        channel_multiple=options.channel_multiple,
        norm_decay=options.norm_decay,
        dtype=dtype,
    )
    judges: dict[str, nn.Module] = {
        "patch": PatchDiscriminator(tuple(options.patch_widths), dtype),
        "global": GlobalDiscriminator(tuple(options.global_widths), dtype),
    }
    vgg = style_network(weights, dtype)
    styled = weights.vgg != "none" and weights.style != 0
    adam = optax.adam(
        rate(config),
        b1=config.optimizer.b1,
        b2=config.optimizer.b2,
        eps=config.optimizer.eps,
    )
    shape = (config.batch_size, size, size, 1)
    one = jax.ShapeDtypeStruct(shape, jnp.float32)
    batch_spec = {"image": one, "mask": one}

    def init(key: Key) -> TrainState:
        keys = jax.random.split(key, 3)
        blank = jnp.zeros((1, size, size, 1))
        variables = {"generator": generator.init(keys[0], blank, train=False)}
        for own, (name, judge) in zip(keys[1:], judges.items(), strict=True):
            variables[name] = judge.init(own, blank, blank, train=False)
        opt_state = {name: adam.init(v["params"]) for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    def load_frozen() -> Variables:
        if not styled:
            if weights.style != 0:
                logging.warning("ipa_medgan: config without the style loss")
            return {}
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        return {"vgg": store.load("vgg19", weights.vgg, vgg, image).variables}

    def look(
        name: str, variables: Mapping[str, Tree], image: jax.Array, damaged: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...], Mapping[str, Tree]]:
        """Logits, features and new statistics of a discriminator, by this batch."""
        (logits, features), changed = judges[name].apply(
            variables, image, damaged, train=True, mutable=["batch_stats"]
        )
        return logits, features, changed

    def judge_step(
        name: str, variables: Mapping[str, Tree], opt: Tree, seen: tuple[jax.Array, ...]
    ) -> tuple[Mapping[str, Tree], Tree, jax.Array]:
        image, fake, damaged = seen
        statistics = {k: v for k, v in variables.items() if k != "params"}

        def loss(params: Tree) -> tuple[jax.Array, Mapping[str, Tree]]:
            real, _, after = look(
                name, {"params": params, **statistics}, image, damaged
            )
            made, _, after = look(name, {"params": params, **after}, fake, damaged)
            return softplus_discriminator(real, made), after

        params = variables["params"]
        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        step, opt = adam.update(grads, opt, params)
        return {"params": optax.apply_updates(params, step), **after}, opt, value

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del key
        for name, want in batch_spec.items():
            axes = " ".join(str(n) for n in want.shape)
            expect_shape("ipa_medgan.update", name, batch[name], axes)
        variables, opt_state = dict(state.variables), dict(state.opt_state)
        image = batch["image"]
        damaged = damage(image, batch["mask"], options.hole_fill)
        params = variables["generator"]["params"]
        statistics = {k: v for k, v in variables["generator"].items() if k != "params"}

        def paint(params: Tree) -> tuple[tuple[jax.Array, ...], Mapping[str, Tree]]:
            return generator.apply(
                {"params": params, **statistics},
                damaged,
                train=True,
                mutable=["batch_stats"],
            )

        # One forward pass serves both sides: the discriminators move first.
        painted, pull, after = jax.vjp(paint, params, has_aux=True)
        fake = jax.lax.stop_gradient(painted[-1])
        logs: dict[str, jax.Array] = {}
        for name in DISCRIMINATORS:
            variables[name], opt_state[name], logs[f"loss/{name}"] = judge_step(
                name, variables[name], opt_state[name], (image, fake, damaged)
            )

        def loss(painted: tuple[jax.Array, ...]) -> tuple[jax.Array, Scalars]:
            seen = {
                name: look(name, variables[name], painted[-1], damaged)
                for name in DISCRIMINATORS
            }
            _, wanted, _ = look("patch", variables["patch"], image, damaged)
            extract: Extract | None = None
            if styled:
                extract = lambda image: vgg.apply(frozen["vgg"], image)
            logits = {name: found[0] for name, found in seen.items()}
            pair = wanted, seen["patch"][1]
            return generator_loss(weights, image, painted, logits, pair, extract)

        grads, scalars = jax.grad(loss, has_aux=True)(painted)
        (grads,) = pull(grads)
        step, opt_state["generator"] = adam.update(
            grads, opt_state["generator"], params
        )
        variables["generator"] = {
            "params": optax.apply_updates(params, step),
            **after,
        }
        return TrainState(state.step + 1, variables, opt_state), {**scalars, **logs}

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del frozen, key
        image, mask, protect = (batch.get(k) for k in ("image", "mask", "protect"))
        assert image is not None
        damaged = image if mask is None else damage(image, mask, options.hole_fill)
        raw = generator.apply(variables["generator"], damaged, train=False)[-1]
        completed = raw if mask is None else jnp.where(mask > 0, raw, image)
        if protect is not None:
            completed = jnp.where(protect > 0, image, completed)
        return {"completed": completed, "raw": raw}

    return System(batch_spec, init, load_frozen, update, predict)


def check_config(config: ConfigDict) -> None:
    """Checks what no other part of the system does.

    Raises:
      UnalignedSizeError: the training size does not fit the discriminators.
      ValueError: a value is not among the choices.
    """
    for key, choices in CHOICES.items():
        section, name = key.split(".")
        expect_choice(f"config.{key}", config[section][name], choices)
    if config.channels != 1:
        raise ValueError(
            f"config.channels is {config.channels}; ipA-MedGAN restores grey slices, "
            "of 1 channel."
        )
    size, stride = config.image_size, max(STRIDE, 2 ** (len(config.model.widths) - 1))
    if size % stride or size < LEAST_SIZE:
        raise UnalignedSizeError(
            f"config.image_size is {size}; the generator needs a multiple of {stride}, "
            f"the global discriminator at least {LEAST_SIZE}."
        )
    pairs = {
        "style_weights": ("style_layers", len(config.loss.style_layers)),
        "features": ("model.patch_widths", len(config.model.patch_widths)),
    }
    for name, (of, count) in pairs.items():
        if len(config.loss[name]) != count:
            raise ValueError(
                f"config.loss.{name} is {tuple(config.loss[name])}; give {count} "
                f"weights, one for each of {of}."
            )
    unknown = {*config.eval.also, *config.eval.whole} - {"raw"}
    if unknown:
        raise ValueError(
            f"config.eval.also and config.eval.whole name {sorted(unknown)}; beside "
            "`completed` this system makes 'raw'."
        )


def rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate of all three optimizers, by number of updates (section 4)."""
    options = config.optimizer
    return schedule(
        options.schedule,
        options.learning_rate,
        config.steps,
        options.warmup_steps,
        options.final,
    )


def style_network(weights: ConfigDict, dtype: jnp.dtype) -> VGG:
    """VGG19 up to the last of `config.loss.style_layers`."""
    taps, levels = tuple(weights.style_layers), NORMALIZATIONS[weights.vgg_preprocess]
    return VGG(VGG19, taps, levels, dtype)


def damage(image: jax.Array, mask: jax.Array, fill: float) -> jax.Array:
    """The slice as the generator sees it, all that it is ever told of the hole.

    Args:
      image: [B, H, W, 1] in [-1, 1]; what lies in the hole is not read.
      mask: [B, H, W, 1], 1 = hole.
      fill: level of the hole.

    Returns:
      [B, H, W, 1].

    Source: ipA-MedGAN specification 5.2 (Assumption: the paper says "cropped"; the
    default fill, -1, is the level of the background too).
    """
    return jnp.where(mask > 0, jnp.asarray(fill, image.dtype), image)


def generator_loss(
    weights: ConfigDict,
    image: jax.Array,
    painted: Sequence[jax.Array],
    logits: Mapping[str, jax.Array],
    features: tuple[Sequence[jax.Array], Sequence[jax.Array]],
    extract: Extract | None,
) -> tuple[jax.Array, Scalars]:
    """What the generator minimises.

        adversarial * L_adv + style * L_style + perceptual * L_percep
        L_percep = l1 * mean|x_hat - x| + sum_i features_i * mean|R_i(x_hat) - R_i(x)|
        L_style = sum_n style_weights_n / (4 d_n^2) * mean_b |Gr_n(x_hat) - Gr_n(x)|^2

    Args:
      weights: `config.loss`.
      image: x, [B, H, W, 1].
      painted: images of the networks of the cascade; the last is x_hat.
      logits: of x_hat, by discriminator.
      features: R_i of x and of x_hat, the patch discriminator's; those of x are
        constants here.
      extract: VGG19's features of an image; None leaves L_style out.

    Returns:
      The loss, and its terms for the log.

    Source: ipA-MedGAN Eq. 1 to 5; sections 3.1 to 3.4.
    """
    fake = painted[-1]
    gan = jnp.sum(jnp.stack([GAME[weights.gan_g](z) for z in logits.values()]))
    wanted, found = features
    # Assumption (3.2): the L1 loss that the text announces and Eq. 5 lacks is the
    # term i = 0 of Eq. 3, as in MedGAN.
    # Deviation (Eq. 3): means in place of unnormalised norms, as the text says.
    wanted = jax.lax.stop_gradient(wanted)
    truth, made = (
        {str(i): layer for i, layer in enumerate(row)}
        for row in ((image, *wanted), (fake, *found))
    )
    l1 = perceptual(truth, made, {"0": 1.0}, absolute)
    scale = {str(i): w for i, w in enumerate(weights.features, start=1)}
    percep = weights.l1 * l1 + perceptual(truth, made, scale, absolute)
    total = weights.adversarial * gan + weights.perceptual * percep
    logs = {"loss/gan": gan, "loss/l1": l1, "loss/perceptual": percep}
    if extract is not None:
        # The mean in `style` divides by d^2, its weights by 4.
        pairs = zip(weights.style_layers, weights.style_weights, strict=True)
        scale = {name: weight / 4.0 for name, weight in pairs}
        logs["loss/style"] = style(
            jax.lax.stop_gradient(extract(image)),
            extract(fake),
            scale,
            DIVISORS[weights.gram_norm],
            jnp.square,
        )
        total += weights.style * logs["loss/style"]
    if weights.intermediate:
        # Assumption (2.3): the paper's losses are on x_hat alone, and this weight 0.
        apart = [jnp.mean(absolute(early - image)) for early in painted[:-1]]
        total += weights.intermediate * jnp.sum(jnp.stack(apart))
    return total, {"loss/generator": total, **logs}


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is restored.

    Args:
      where: the caller, for the message.
      batch: `image`, and maybe `mask` and `protect`; an image is integer levels or
        float32 in [-1, 1]. Without a mask the damage is as it is in the image; with
        one, what lies in the hole is not looked at.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.

    Source: ipA-MedGAN specification 8.
    """
    image, mask = batch.get("image"), batch.get("mask")
    if image is None:
        raise ShapeMismatchError(
            f"{where}: image is missing; ipA-MedGAN restores a slice from itself alone."
        )
    b, h, w, _ = expect_shape(where, "image", image, "B H W 1")
    expect_dtype(where, "image", image, *HALF, "float32")
    for name in ("mask", "protect"):
        given = batch.get(name)
        if given is not None:
            expect_shape(where, name, given, f"{b} {h} {w} 1")
            check_mask_values(where, given)
    if mask is not None and mask.all(axis=(1, 2, 3)).any():
        sample = int(mask.all(axis=(1, 2, 3)).argmax())
        raise MaskCoverageError(
            f"{where}: sample {sample} of mask is all hole; no valid pixel is left."
        )
    if np.issubdtype(image.dtype, np.floating):
        check_image(where, "image", image, counts=None if mask is None else mask == 0)
