"""Stage "masks": a DCGAN learns what outlines of sclerosed glomeruli look like.

Source: Radford et al., DCGAN (ICLR 2016), which the paper uses as it is; sections
2.5, 3.2 and 4 of the specification.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
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
from jaxinpaint.losses.adversarial import softplus_discriminator, softplus_generator
from jaxinpaint.models.glomeruli_masks import MaskDiscriminator, MaskGenerator

INIT, LATENTS = 3, 7  # streams of section 8.4
SIDE = 64  # of every image here: what the five layers make of one position


def build(config: ConfigDict) -> System:
    """Builds the stage.

    Args:
      config: `batch_size`, `image_size`, `model`, `gan` and `optimizer`.

    Raises:
      ValueError: the size is not 64.
    """
    options, size = config.gan, config.image_size
    if size != SIDE:
        raise ValueError(
            f"config.image_size is {size}; outlines are made at {SIDE} x {SIDE} pixels."
        )
    dtype = jnp.dtype(config.model.dtype)
    generator = MaskGenerator(width=options.width, latent=options.latent, dtype=dtype)
    judge = MaskDiscriminator(width=options.width, dtype=dtype)
    o = config.optimizer
    adam = optax.adam(o.learning_rate, b1=o.b1, b2=o.b2, eps=o.eps)
    shape = (config.batch_size, SIDE, SIDE, 3)
    batch_spec = {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def init(key: Key) -> TrainState:
        keys = jax.random.split(jax.random.fold_in(key, INIT))
        latent, image = jnp.zeros((1, options.latent)), jnp.zeros((1, SIDE, SIDE, 3))
        variables = {
            "generator": generator.init(keys[0], latent, train=False),
            "discriminator": judge.init(keys[1], image, train=False),
        }
        opt_state = {name: adam.init(v["params"]) for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    def draw(key: Key, rows: int) -> jax.Array:
        return jax.random.normal(key, (rows, options.latent))

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del frozen
        real = batch["image"]
        g, d = (state.variables[name] for name in ("generator", "discriminator"))
        latent = draw(jax.random.fold_in(key, LATENTS), real.shape[0])

        def paint(params: Tree) -> tuple[jax.Array, Mapping[str, Tree]]:
            return generator.apply(
                {**g, "params": params}, latent, train=True, mutable=["batch_stats"]
            )

        fake, pull_back, statistics = jax.vjp(paint, g["params"], has_aux=True)

        def look(
            params: Tree, image: jax.Array, after: Mapping[str, Tree]
        ) -> tuple[jax.Array, Mapping[str, Tree]]:
            return judge.apply(
                {**after, "params": params}, image, train=True, mutable=["batch_stats"]
            )

        def own(params: Tree) -> tuple[jax.Array, Mapping[str, Tree]]:
            of_real, after = look(params, real, d)
            of_fake, after = look(params, jax.lax.stop_gradient(fake), {**d, **after})
            # The sum of both, where the shared loss has their mean.
            return 2.0 * softplus_discriminator(of_real, of_fake), after

        (loss_d, after), grads = jax.value_and_grad(own, has_aux=True)(d["params"])
        step, opt_d = adam.update(grads, state.opt_state["discriminator"], d["params"])
        d = {**after, "params": optax.apply_updates(d["params"], step)}

        def other(image: jax.Array) -> jax.Array:
            return softplus_generator(look(d["params"], image, d)[0])

        loss_g, gradient = jax.value_and_grad(other)(fake)
        (grads,) = pull_back(gradient)
        step, opt_g = adam.update(grads, state.opt_state["generator"], g["params"])
        g = {**statistics, "params": optax.apply_updates(g["params"], step)}
        new = TrainState(
            state.step + 1,
            {"generator": g, "discriminator": d},
            {"generator": opt_g, "discriminator": opt_d},
        )
        return new, {"loss/generator": loss_g, "loss/discriminator": loss_d}

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        """As many outlines as the batch has rows; of the images nothing is read."""
        del frozen
        latent = draw(key, batch["image"].shape[0])
        return {"sampled": generator.apply(variables["generator"], latent, train=False)}

    return System(batch_spec, init, lambda: {}, update, predict)
