"""CCPGAN: trains the networks of `models/ccpgan.py` as a masked WGAN-GP.

Source: CCPGAN section III-C, Eq. 3 to 6, Algorithm 1. Learning rates, loss weights,
critic updates and the local box are DeepFill v1's, where the paper is silent (R26 to
R36).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxinpaint.core.checks import (
    InpaintInputError,
    ShapeMismatchError,
    UnalignedSizeError,
    check_image,
    check_mask,
    expect_dtype,
    expect_shape,
    pad_to_multiple,
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
from jaxinpaint.losses.adversarial import masked_gradient_penalty
from jaxinpaint.losses.reconstruction import masked_l1, spatial_discount
from jaxinpaint.models.ccpgan import LEAST_SIZE, STRIDE, Critic, Generator
from jaxinpaint.ops.attention import AttentionOptions
from jaxinpaint.ops.crop import crop
from jaxinpaint.ops.keys import check_keys

CRITIC_STRIDE = 32  # four halvings of the image and of its half-size local box
CHOICES = {
    "loss.l1_mode": ("hole", "deepfill_box"),
    "model.dtype": ("float32", "bfloat16", "float64"),  # the last for references
}


def build(config: ConfigDict) -> System:
    """Builds the system that a config describes.

    Raises:
      UnalignedSizeError: the training size does not fit the critics.
      ValueError: a config value is not among the choices.
    """
    size, channels = config.image_size, config.channels
    if size % CRITIC_STRIDE or size < LEAST_SIZE:
        raise UnalignedSizeError(
            f"config.image_size is {size}; the critics need a multiple of "
            f"{CRITIC_STRIDE}, at least {LEAST_SIZE}."
        )
    for key, choices in CHOICES.items():
        section, name = key.split(".")
        if config[section][name] not in choices:
            raise ValueError(
                f"config.{key} is {config[section][name]!r}; the choices are "
                f"{list(choices)}."
            )
    if config.n_critic < 1:
        raise ValueError(
            f"config.n_critic is {config.n_critic}; at least 1 critic update a step."
        )
    dtype = jnp.dtype(config.model.dtype)
    attention = AttentionOptions(**config.attention)
    generator = Generator(config.model.width, channels, attention, dtype)
    critic = Critic(config.model.critic_width, dtype)
    adam_g = adam(config.optimizer, config.steps, 1)
    adam_d = adam(config.optimizer, config.steps, config.n_critic)
    batches = config.n_critic + 1  # each of a step's updates has a fresh one (R30)

    def spec(channels: int) -> jax.ShapeDtypeStruct:
        rows = batches * config.batch_size
        return jax.ShapeDtypeStruct((rows, size, size, channels), jnp.float32)

    batch_spec = {"image": spec(channels), "neighbor": spec(channels), "mask": spec(1)}

    def init(key: Key) -> TrainState:
        keys = jax.random.split(key, 3)
        image = jnp.zeros((1, size, size, channels), jnp.float32)
        box = image[:, : size // 2, : size // 2]
        g = generator.init(keys[0], image, image, image[..., :1])
        d = {
            "critic_global": critic.init(keys[1], image),
            "critic_local": critic.init(keys[2], box),
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables={"generator": g, **d},
            opt_state={
                "generator": adam_g.init(g["params"]),
                "critics": adam_d.init(critic_params(d)),
            },
        )

    def load_frozen() -> Variables:
        return {}

    def generate(params: Tree, batch: Batch) -> Batch:
        return generator.apply(
            {"params": params},
            batch["image"],
            batch["neighbor"],
            batch["mask"],
            batch.get("neighbor_mask"),
        )

    def score(params: Tree, image: jax.Array) -> jax.Array:
        return critic.apply({"params": params}, image)

    def critic_step(
        params_g: Tree, params: Tree, opt: Tree, batch: Batch, key: Key
    ) -> tuple[Tree, Tree, Scalars]:
        key_global, key_local = jax.random.split(key)
        rows = (batch["image"].shape[0],)
        t = (jax.random.uniform(key_global, rows), jax.random.uniform(key_local, rows))
        corner = local_corner(batch["mask"], size // 2)
        fake = generate(params_g, batch)["completed"]

        def loss(params: Tree) -> tuple[jax.Array, Scalars]:
            logs = critic_losses(score, params, batch, fake, corner, t)
            total = (
                logs["loss/wasserstein"]
                + config.loss.gp_lambda * logs["loss/penalty_global"]
                + config.loss.gp_lambda * logs["loss/penalty_local"]
            )
            return total, {"loss/critic": total, **logs}

        grads, logs = jax.grad(loss, has_aux=True)(params)
        step, opt = adam_d.update(grads, opt, params)
        return optax.apply_updates(params, step), opt, logs

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del frozen
        for name, want in batch_spec.items():
            shape = " ".join(str(n) for n in want.shape)
            expect_shape("ccpgan.update", name, batch[name], shape)
        parts = {name: split_rows(array, batches) for name, array in batch.items()}
        g = state.variables["generator"]["params"]
        d, opt_d = critic_params(state.variables), state.opt_state["critics"]

        # Critics first; the generator stands still while they move. Unrolled, since
        # XLA's CPU backend has only slow convolutions inside a loop.
        critic_logs = []
        for i in range(config.n_critic):
            part = {name: array[i] for name, array in parts.items()}
            d, opt_d, logs = critic_step(g, d, opt_d, part, jax.random.fold_in(key, i))
            critic_logs.append(logs)
        mean_logs = {
            name: jnp.mean(jnp.stack([logs[name] for logs in critic_logs]))
            for name in critic_logs[0]
        }

        last = {name: array[-1] for name, array in parts.items()}
        corner = local_corner(last["mask"], size // 2)

        def generator_loss(params: Tree) -> tuple[jax.Array, Scalars]:
            out = generate(params, last)
            logs = reconstruction_losses(config.loss, out, last, corner)
            fake = out["completed"]
            gan = -config.loss.global_gan_alpha * score(d["critic_global"], fake).mean()
            gan -= score(d["critic_local"], crop(fake, corner, size // 2)).mean()
            total = (
                config.loss.l1_weight * logs["loss/l1"]
                + config.loss.ae_weight * logs["loss/ae"]
                + config.loss.gan_weight * gan
            )
            return total, {"loss/generator": total, "loss/gan": gan, **logs}

        grads, logs = jax.grad(generator_loss, has_aux=True)(g)
        step, opt_g = adam_g.update(grads, state.opt_state["generator"], g)
        new = TrainState(
            step=state.step + 1,
            variables={
                "generator": {"params": optax.apply_updates(g, step)},
                **{name: {"params": params} for name, params in d.items()},
            },
            opt_state={"generator": opt_g, "critics": opt_d},
        )
        return new, {**logs, **mean_logs}

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del frozen, key
        out = generate(variables["generator"]["params"], batch)
        return {name: out[name] for name in ("completed", "coarse", "refined")}

    return System(batch_spec, init, load_frozen, update, predict)


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is restored.

    Args:
      where: the caller, for the message.
      batch: `image`, `neighbor`, `mask` and, where the neighbour is damaged,
        `neighbor_mask`; images are integer levels or float32 in [-1, 1]. What lies
        in the hole of `image` is not looked at. Height and width are free: the
        keys are counted in the masks padded to the generator's stride.

    Raises:
      InpaintInputError: a shape, dtype or value that cannot be restored from.
    """
    for name in ("image", "neighbor", "mask"):
        if batch.get(name) is None:
            raise ShapeMismatchError(
                f"{where}: {name} is missing; CCPGAN restores a section from its "
                "image, its mask and one adjacent section."
            )
    image, mask = batch["image"], batch["mask"]
    b, h, w, c = expect_shape(where, "image", image, "B H W C")
    expect_shape(where, "neighbor", batch["neighbor"], f"{b} {h} {w} {c}")
    expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
    for name in ("image", "neighbor"):
        expect_dtype(where, name, batch[name], *HALF, "float32")
    check_mask(where, mask, allow_large_holes=False)
    if np.issubdtype(image.dtype, np.floating):
        check_image(where, "image", image, counts=mask == 0)
    if np.issubdtype(batch["neighbor"].dtype, np.floating):
        check_image(where, "neighbor", batch["neighbor"])
    neighbor_mask = batch.get("neighbor_mask")
    if neighbor_mask is not None:
        expect_shape(where, "neighbor_mask", neighbor_mask, f"{b} {h} {w} 1")
        check_mask(where, neighbor_mask, allow_large_holes=True)
    check_keys(
        pad_to_multiple(mask, STRIDE, LEAST_SIZE),
        None
        if neighbor_mask is None
        else pad_to_multiple(neighbor_mask, STRIDE, LEAST_SIZE),
    )
    if neighbor_mask is not None:
        both = ((mask > 0) & (neighbor_mask > 0)).any(axis=(1, 2, 3))
        if both.any():
            raise InpaintInputError(
                f"{where}: sample {int(both.argmax())} of neighbor is damaged inside "
                "the hole, so it cannot guide the repair; give the other neighbour."
            )


def adam(options: ConfigDict, steps: int, updates: int) -> optax.GradientTransformation:
    """Adam with the config's schedule over steps of so many updates (R28, R29)."""
    rate = schedule(
        options.schedule,
        options.learning_rate,
        steps * updates,
        options.warmup_steps * updates,
        options.final,
    )
    return optax.adam(rate, b1=options.b1, b2=options.b2, eps=options.eps)


def critic_params(variables: Variables) -> Mapping[str, Tree]:
    """The two critics' parameters, which one optimizer moves."""
    names = ("critic_global", "critic_local")
    return {name: variables[name]["params"] for name in names}


def split_rows(array: jax.Array, parts: int) -> jax.Array:
    """[parts * B, ...] -> [parts, B, ...], part i being `array[i::parts]`.

    Strided, so that every device keeps the rows it has.
    """
    rows = array.shape[0] // parts
    return jnp.moveaxis(array.reshape(rows, parts, *array.shape[1:]), 1, 0)


def reconstruction_losses(
    weights: ConfigDict, out: Batch, batch: Batch, corner: jax.Array
) -> Scalars:
    """L1 over the hole and the auto-encoder loss over all pixels.

    Args:
      weights: config.loss, of which coarse_alpha, l1_mode and spatial_discount.
      out: the generator's images.
      batch: `image` is the truth, `mask` the hole.
      corner: [B, 2] of the local boxes, for l1_mode "deepfill_box".

    Source: CCPGAN Eq. 4 and section III-C; R23 to R26.
    """
    image, mask = batch["image"], batch["mask"]
    everywhere = jnp.ones_like(mask)

    def hole(prediction: jax.Array) -> jax.Array:
        if weights.l1_mode == "hole":
            return masked_l1(image, prediction, mask)
        box = image.shape[1] // 2
        error = crop(jnp.abs(image - prediction), corner, box)
        return jnp.mean(error * spatial_discount(box, weights.spatial_discount)[None])

    def both(distance: jax.Array, refined: jax.Array) -> jax.Array:
        return weights.coarse_alpha * distance + refined

    coarse, refined = out["coarse"], out["refined"]
    return {
        "loss/l1": both(hole(coarse), hole(refined)),
        "loss/ae": both(
            masked_l1(image, coarse, everywhere), masked_l1(image, refined, everywhere)
        ),
    }


def critic_losses(
    score: Callable[[Tree, jax.Array], jax.Array],
    params: Mapping[str, Tree],
    batch: Batch,
    fake: jax.Array,
    corner: jax.Array,
    t: tuple[jax.Array, jax.Array],
) -> Scalars:
    """Wasserstein gap and both gradient penalties.

    Args:
      score: (one critic's params, images) -> scores.
      params: of `critic_global` and `critic_local`.
      batch: `image` and `mask`.
      fake: the completed images, constants here.
      corner: [B, 2] top-left of the local boxes.
      t: mixing weights [B] of the global and of the local penalty.

    Source: CCPGAN Eq. 5 and 6 (R27).
    """
    image, mask = batch["image"], batch["mask"]
    box = image.shape[1] // 2
    places = {
        "global": (image, fake, mask, t[0]),
        "local": (*(crop(x, corner, box) for x in (image, fake, mask)), t[1]),
    }
    gap = jnp.zeros(())
    penalties = {}
    for place, (real, made, hole, mix) in places.items():
        own = params[f"critic_{place}"]
        scores = score(own, jnp.concatenate([made, real]))
        of_made, of_real = jnp.split(scores, 2)
        gap += jnp.mean(of_made - of_real)
        penalties[f"loss/penalty_{place}"] = masked_gradient_penalty(
            score, own, real, made, hole, mix
        )
    return {"loss/wasserstein": gap, **penalties}


def local_corner(mask: jax.Array, box: int) -> jax.Array:
    """Where the local critic looks: the box that holds most of the hole.

    Among boxes with equally many hole pixels the one nearest to the centre of the
    hole's bounding box wins. That is the sampler's own box for its centred holes
    (R36), the clamped box around the centre of a square hole of any even side, and
    never a box that misses the hole of any other shape.

    Args:
      mask: [B, H, W, 1], 1 = hole.
      box: side of the box, at most H and W.

    Returns:
      [B, 2] int32, top and left.

    Raises:
      ShapeMismatchError: wrong rank.
    """
    b, h, w, _ = expect_shape("local_corner", "mask", mask, "B H W 1")
    hole = mask[..., 0] > 0
    total = jnp.pad(hole.astype(jnp.int32), ((0, 0), (1, 0), (1, 0)))
    total = total.cumsum(axis=1).cumsum(axis=2)
    inside = (
        total[:, box:, box:]
        - total[:, :-box, box:]
        - total[:, box:, :-box]
        + total[:, :-box, :-box]
    )

    def distance(axis: int, count: int) -> jax.Array:
        line = hole.any(axis=axis)
        first = jnp.argmax(line, axis=1)
        last = count - 1 - jnp.argmax(line[:, ::-1], axis=1)
        centred = (first + last + 1) // 2 - box // 2
        return (jnp.arange(count - box + 1)[None] - centred[:, None]) ** 2

    apart = distance(2, h)[:, :, None] + distance(1, w)[:, None, :]
    fullest = inside.max(axis=(1, 2), keepdims=True)
    apart = jnp.where(inside == fullest, apart, h * h + w * w)
    best = apart.reshape(b, -1).argmin(axis=1)
    return jnp.stack([best // (w - box + 1), best % (w - box + 1)], axis=1)
