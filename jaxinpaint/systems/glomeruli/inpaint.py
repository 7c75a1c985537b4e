"""Stage "inpaint": paints a sclerosed glomerulus into its outline.

Two discriminators judge what was painted: one the whole crop, one the glomerulus
alone, on white.

Source: the paper's Eq. 1 to 12; sections 3.1 and 4 of the specification.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging
from ml_collections import ConfigDict

from jaxinpaint.core.checks import expect_multiple
from jaxinpaint.core.system import (
    Batch,
    Key,
    Scalars,
    System,
    TrainState,
    Tree,
    Variables,
)
from jaxinpaint.features.extractor import Extractor, by_tap
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG19
from jaxinpaint.losses.adversarial import (
    least_squares_discriminator,
    least_squares_generator,
)
from jaxinpaint.losses.perceptual import (
    Features,
    absolute,
    elements,
    perceptual,
    style,
)
from jaxinpaint.models.glomeruli import Discriminator, Generator

PERCEPTUAL = tuple(f"relu{block}_1" for block in range(1, 6))  # Eq. 10
STYLE = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")  # Eq. 11
DISCRIMINATORS = ("global", "local")
EACH = {"vgg19": 1.0}  # the weight of every layer


def build(config: ConfigDict) -> System:
    """Builds the stage.

    Args:
      config: `batch_size`, `image_size`, `model`, `gan`, `loss`, `features`,
        `optimizer` and `eval`.

    Raises:
      UnalignedSizeError: the training size does not fit the networks.
      ValueError: `eval` names an output that there is not.
    """
    options, weights, size = config.gan, config.loss, config.image_size
    channels = tuple(options.disc_channels)
    least = max(64, 2 ** len(channels))
    expect_multiple("config.image_size", (1, size, size, 3), 4, least)
    _check_outputs(config)
    dtype = jnp.dtype(config.model.dtype)
    generator = Generator(
        width=options.g_width,
        aot_blocks=options.aot_blocks,
        rates=tuple(options.rates),
        attention_chunk=options.attention_chunk,
        remat=options.remat,
        dtype=dtype,
    )
    judge = Discriminator(channels, dtype)
    extractor = feature_network(config)
    o = config.optimizer
    adam = optax.adam(o.learning_rate, b1=o.b1, b2=o.b2, eps=o.eps)
    shape = (config.batch_size, size, size)
    batch_spec = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
    }

    def init(key: Key) -> TrainState:
        keys = [jax.random.fold_in(key, stream) for stream in range(3)]  # section 8.4
        image = jnp.zeros((1, size, size, 3))
        mask = jnp.zeros((1, size, size, 1))
        variables = {"generator": generator.init(keys[0], image, mask, train=False)}
        for own, name in zip(keys[1:], DISCRIMINATORS, strict=True):
            variables[name] = judge.init(own, image, train=False)
        opt_state = {name: adam.init(v["params"]) for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    def load_frozen() -> Variables:
        if not extractor.networks:
            logging.warning("glomeruli inpaint: losses without vgg19")
        return extractor.load(size)

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del key
        image, mask = batch["image"], batch["mask"]
        variables, opt_state = dict(state.variables), dict(state.opt_state)
        g = variables["generator"]

        def paint(params: Tree) -> tuple[jax.Array, Tree]:
            return generator.apply(
                {**g, "params": params},
                image,
                mask,
                train=True,
                mutable=["batch_stats"],
            )

        raw, pull_back, statistics = jax.vjp(paint, g["params"], has_aux=True)
        seen = {
            "global": (image, raw),
            "local": (on_white(image, mask), on_white(raw, mask)),
        }
        logs: dict[str, jax.Array] = {}
        gradient = jnp.zeros_like(raw)
        # All three move at once, by what the discriminators were before (section 4).
        for name, (real, fake) in seen.items():
            d = variables[name]
            found = judged(judge, d, real, fake)
            logs[f"loss/{name}"], logs[f"loss/adversarial_{name}"] = found.losses
            inside = jnp.ones_like(mask) if name == "global" else mask
            gradient = gradient + weights.adversarial * found.of_fake * inside
            step, opt_state[name] = adam.update(
                found.of_params, opt_state[name], d["params"]
            )
            params = optax.apply_updates(d["params"], step)
            variables[name] = {**found.statistics, "params": params}

        def terms(raw: jax.Array) -> tuple[jax.Array, Scalars]:
            found = pixel_terms(image, raw, mask)
            if extractor.networks:
                truth, made = extractor.each(frozen, [image, raw])
                found |= feature_terms(jax.lax.stop_gradient(truth), made)
            total = jnp.asarray(sum(weights[name] * v for name, v in found.items()))
            return total, {f"loss/{name}": value for name, value in found.items()}

        (total, found), rest = jax.value_and_grad(terms, has_aux=True)(raw)
        adversarial = sum(logs[f"loss/adversarial_{name}"] for name in DISCRIMINATORS)
        logs |= {"loss/generator": total + weights.adversarial * adversarial, **found}
        (grads,) = pull_back(gradient + rest)
        step, opt_state["generator"] = adam.update(
            grads, opt_state["generator"], g["params"]
        )
        params = optax.apply_updates(g["params"], step)
        variables["generator"] = {**statistics, "params": params}
        return TrainState(state.step + 1, variables, opt_state), logs

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del frozen, key
        image, mask = batch["image"], batch["mask"]
        raw = generator.apply(variables["generator"], image, mask, train=False)
        return {"completed": jnp.where(mask > 0, raw, image), "raw": raw}

    return System(batch_spec, init, load_frozen, update, predict)


class Judged(NamedTuple):
    """What one discriminator says of a batch and of what was painted.

    Attributes:
      losses: its own, and the generator's side of it.
      of_params: gradient of its own loss.
      of_fake: gradient of the generator's side with respect to the made images.
      statistics: running ones, after the true images and then the made ones.
    """

    losses: tuple[jax.Array, jax.Array]
    of_params: Tree
    of_fake: jax.Array
    statistics: Mapping[str, Tree]


def judged(
    judge: Discriminator, d: Mapping[str, Tree], real: jax.Array, fake: jax.Array
) -> Judged:
    """Judges true images, then made ones, each by the statistics of its own batch.

    The made images are judged once: both losses read the same scores, so one forward
    pass serves two ways back, to the parameters and to the images.

    Args:
      judge: the network.
      d: its variables.
      real: [B, H, W, 3] in [-1, 1].
      fake: like real; no gradient flows on from here.
    """
    fake = jax.lax.stop_gradient(fake)

    def scores(
        params: Tree, image: jax.Array, statistics: Mapping[str, Tree]
    ) -> tuple[jax.Array, Mapping[str, Tree]]:
        return judge.apply(
            {**statistics, "params": params}, image, train=True, mutable=["batch_stats"]
        )

    of_real, back_real, after = jax.vjp(
        lambda params: scores(params, real, d), d["params"], has_aux=True
    )
    of_fake, back_fake, after = jax.vjp(
        lambda params, image: scores(params, image, {**d, **after}),
        d["params"],
        fake,
        has_aux=True,
    )
    own, pulls = jax.value_and_grad(least_squares_discriminator, argnums=(0, 1))(
        of_real, of_fake
    )
    other, pull = jax.value_and_grad(least_squares_generator)(of_fake)
    (on_real,), (on_fake, _) = back_real(pulls[0]), back_fake(pulls[1])
    of_params = jax.tree.map(jnp.add, on_real, on_fake)
    return Judged((own, other), of_params, back_fake(pull)[1], after)


def on_white(image: jax.Array, mask: jax.Array) -> jax.Array:
    """The glomerulus alone: white, 1, outside [B, H, W, 1] `mask` (Eq. 6 and 7)."""
    return jnp.where(mask > 0, image, 1.0)


def pixel_terms(
    image: jax.Array, raw: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Mean absolute differences over the whole frame: of all, and of the hole alone.

    Args:
      image: X_ori, [B, H, W, 3] in [-1, 1].
      raw: X_rec, like image; not composited.
      mask: [B, H, W, 1], 1 = hole.

    Returns:
      `l1_global` and `l1_local`; the second is divided by all pixels, too.

    Source: the paper's Eq. 8 and 9, as means (specification 3.1).
    """
    apart = absolute(image - raw)
    return {"l1_global": jnp.mean(apart), "l1_local": jnp.mean(mask * apart)}


def feature_terms(truth: Features, made: Features) -> dict[str, jax.Array]:
    """Distances of VGG19's features, and of their Gram matrices.

    Args:
      truth: features of X_ori by "vgg19/tap".
      made: of X_rec.

    Returns:
      `perceptual` and `style`, sums over layers of means.

    Source: the paper's Eq. 10 and 11, layers as in specification 3.1.
    """
    ones = lambda taps: by_tap({f"vgg19/{t}": truth[f"vgg19/{t}"] for t in taps}, EACH)
    return {
        "perceptual": perceptual(truth, made, ones(PERCEPTUAL), absolute),
        "style": style(truth, made, ones(STYLE), elements, absolute),
    }


def feature_network(config: ConfigDict) -> Extractor:
    """VGG19 up to `relu5_2`, or nothing where no term reads it."""
    source, loss = config.features.vgg19, config.loss
    if source == "none" or loss.perceptual == loss.style == 0:
        return Extractor({}, {})
    taps = tuple(dict.fromkeys(sorted((*PERCEPTUAL, *STYLE))))
    network = VGG(VGG19, taps, IMAGENET, jnp.dtype(config.model.dtype))
    return Extractor({"vgg19": network}, {"vgg19": source})


def _check_outputs(config: ConfigDict) -> None:
    unknown = {*config.eval.also, *config.eval.whole} - {"raw"}
    if unknown:
        raise ValueError(
            f"config.eval.also and config.eval.whole name {sorted(unknown)}; beside "
            "`completed` this stage makes 'raw'."
        )
