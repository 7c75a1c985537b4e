"""Stage 2 of FlowInpaint: the hole restored, guided by the sections around it.

One forward pass of the generator a step: the discriminators move first, on what it
gives, and it then follows the gradient that the moved ones send back.

Source: FlowInpaint Eq. 7 to 12 and 18 to 22; R31 to R34, R38, R39.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from absl import logging
from ml_collections import ConfigDict

from jaxinpaint.core.checkpoint import restore_variables
from jaxinpaint.core.checks import expect_shape
from jaxinpaint.core.system import (
    Batch,
    Key,
    Scalars,
    System,
    TrainState,
    Tree,
    Variables,
)
from jaxinpaint.losses.adversarial import hinge_discriminator, hinge_generator
from jaxinpaint.losses.reconstruction import masked_l1
from jaxinpaint.models.flowinpaint import Discriminator, Generator
from jaxinpaint.models.flowinpaint_refine import STRIDE, Refine
from jaxinpaint.ops.attention import AttentionOptions
from jaxinpaint.ops.crop import crop

GUIDES = ("previous", "reference", "following", "intermediate")
SHARED = ("channels", "hidden", "dense", "max_displacement", "flow_unit")


def build(
    config: ConfigDict,
    net: Refine,
    adam: optax.GradientTransformation,
    batch_spec: Mapping[str, jax.ShapeDtypeStruct],
) -> System:
    """Builds the stage.

    Args:
      config: `image_size`, `inpaint`, `attention`, `model`, `refine_from`.
      net: of stage 1; its variables are the frozen "refine".
      adam: the optimizer, of the generator and of the discriminators.
      batch_spec: of the batch.

    Raises:
      ValueError: a config value is not among the choices.
    """
    options, size = config.inpaint, config.image_size
    guides, weight = tuple(options.guides), options.adversarial_weight
    if not guides or len(set(guides)) < len(guides) or set(guides) - set(GUIDES):
        raise ValueError(
            f"config.inpaint.guides is {guides}; name some of {list(GUIDES)}, each "
            "once."
        )
    if weight < 0:
        raise ValueError(
            f"config.inpaint.adversarial_weight is {weight}; give a positive number, or "
            "0 for no discriminators."
        )
    dtype = jnp.dtype(config.model.dtype)
    generator = Generator(
        channels=tuple(options.channels),
        fal_levels=tuple(options.fal_levels),
        fal_rates=tuple(options.fal_rates),
        attention_levels=tuple(options.attention_levels),
        attention=AttentionOptions(**config.attention),
        stem_norm=options.stem_norm,
        remat=options.remat,
        dtype=dtype,
    )
    discriminator = Discriminator(options.discriminator_width, dtype)
    judges: dict[str, int] = {}  # the discriminators and the side of what they see
    if weight > 0:
        judges["discriminator_global"] = size
        if options.local_discriminator:
            judges["discriminator_local"] = size // 2

    def init(key: Key) -> TrainState:
        keys = jax.random.split(key, 3)
        image = jnp.zeros((1, size, size, 1))
        given = jnp.zeros((1, size, size, len(guides)))
        g = generator.init(keys[0], image, image, given, train=False)
        d = {
            name: discriminator.init(k, image[:, :side, :side], train=False)
            for (name, side), k in zip(judges.items(), keys[1:], strict=False)
        }
        opt_state = {"generator": adam.init(g["params"])}
        if judges:
            opt_state["discriminators"] = adam.init(params_of(d))
        return TrainState(jnp.zeros((), jnp.int32), {"generator": g, **d}, opt_state)

    def load_frozen() -> Variables:
        if "reference" not in guides:
            return {}
        return {"refine": load_refine(config, net)}

    def prepare(frozen: Variables, batch: Batch) -> tuple[jax.Array, Batch]:
        """The damaged section, white in the hole (Eq. 22), and all that may guide."""
        masked = jnp.where(batch["mask"] > 0, 1.0, batch["image"])
        found = {name: batch[name] for name in GUIDES if name in batch}
        if "reference" in guides:
            made = net.apply(
                frozen["refine"], masked, batch["mask"], batch["intermediate"]
            )
            found |= {name: made[name] for name in ("reference", "flow")}
        return masked, jax.lax.stop_gradient(found)

    def stack(found: Batch) -> jax.Array:
        return jnp.concatenate([found[name] for name in guides], axis=-1)

    def judge(
        d: Variables, image: jax.Array, corner: jax.Array, train: bool
    ) -> tuple[jax.Array, Variables]:
        """Logits [B, N] of all discriminators, and their statistics."""
        logits, changed = [], {}
        for name, side in judges.items():
            view = image if side == size else crop(image, corner, side)
            out, changed[name] = discriminator.apply(
                d[name], view, train=train, mutable=["batch_stats"]
            )
            logits.append(out.reshape(image.shape[0], -1))
        return jnp.concatenate(logits, axis=1), changed

    def discriminate(
        state: TrainState, fake: jax.Array, real: jax.Array, corner: jax.Array
    ) -> tuple[Variables, Tree, Scalars]:
        """One update of the discriminators."""
        d = {name: state.variables[name] for name in judges}
        b, h, w, c = real.shape
        # Each sample beside its truth, so that no row changes device.
        both = jnp.stack([fake, real], axis=1).reshape(2 * b, h, w, c)
        corners = jnp.repeat(corner, 2, axis=0)

        def loss(params: Mapping[str, Tree]) -> tuple[jax.Array, Variables]:
            moved = {name: {**d[name], "params": params[name]} for name in judges}
            logits, changed = judge(moved, both, corners, train=True)
            of_fake, of_real = logits.reshape(b, 2, -1).swapaxes(0, 1)
            return weight * hinge_discriminator(of_real, of_fake), changed  # R39

        params = params_of(d)
        (value, changed), grads = jax.value_and_grad(loss, has_aux=True)(params)
        step, opt = adam.update(grads, state.opt_state["discriminators"], params)
        params = optax.apply_updates(params, step)
        new = {name: {**changed[name], "params": params[name]} for name in judges}
        return new, opt, {"loss/discriminator": value}

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del key
        image, mask = batch["image"], batch["mask"]
        masked, found = prepare(frozen, batch)
        g = state.variables["generator"]

        def generate(params: Tree) -> tuple[jax.Array, Tree]:
            return generator.apply(
                {**g, "params": params},
                masked,
                mask,
                stack(found),
                train=True,
                mutable=["batch_stats"],
            )

        raw, pull_back, statistics = jax.vjp(generate, g["params"], has_aux=True)
        d: Variables = {}
        opt_state: dict[str, Tree] = {}
        logs_d: Scalars = {}
        if judges:
            corner = local_corner(mask)
            fake = jnp.where(mask > 0, raw, image)
            d, opt_state["discriminators"], logs_d = discriminate(
                state, fake, image, corner
            )

        def loss(raw: jax.Array) -> tuple[jax.Array, Scalars]:
            # Deviation (R38): of the raw image; a composite has no error outside.
            logs = {
                "loss/hole": masked_l1(image, raw, mask),
                "loss/valid": masked_l1(image, raw, 1.0 - mask),
            }
            total = options.hole_weight * logs["loss/hole"] + logs["loss/valid"]
            if judges:
                completed = jnp.where(mask > 0, raw, image)
                logits, _ = judge(d, completed, corner, train=False)
                logs["loss/adversarial"] = hinge_generator(logits)
                total = total + weight * logs["loss/adversarial"]
            return total, {"loss/generator": total, **logs}

        gradient, logs = jax.grad(loss, has_aux=True)(raw)
        (grads,) = pull_back(gradient)
        step, opt = adam.update(grads, state.opt_state["generator"], g["params"])
        params = optax.apply_updates(g["params"], step)
        variables = {"generator": {**statistics, "params": params}, **d}
        opt_state["generator"] = opt
        return TrainState(state.step + 1, variables, opt_state), {**logs, **logs_d}

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        del key
        masked, found = prepare(frozen, batch)
        raw = generator.apply(
            variables["generator"], masked, batch["mask"], stack(found), train=False
        )
        shown = ("reference", "intermediate", "flow")
        return {
            "completed": jnp.where(batch["mask"] > 0, raw, batch["image"]),
            "raw": raw,
            **{name: found[name] for name in shown if name in found},
        }

    return System(batch_spec, init, load_frozen, update, predict)


def reads_intermediate(config: ConfigDict) -> bool:
    """Whether a guide is the interpolated section, or made from it."""
    return bool({"reference", "intermediate"} & set(config.inpaint.guides))


def params_of(networks: Variables) -> Mapping[str, Tree]:
    """The parameters of some networks, which one optimizer moves."""
    return {name: variables["params"] for name, variables in networks.items()}


def load_refine(config: ConfigDict, net: Refine) -> Mapping[str, Tree]:
    """Reads the network of stage 1.

    Args:
      config: `refine_from` is the workdir of stage 1, or "random:SEED", a fresh network
        for dry runs, which is logged as a warning.
      net: of stage 1.

    Returns:
      Its Linen variables.

    Raises:
      FileNotFoundError: no trained stage 1; names the command that trains it.
      ValueError: it is another stage, network or interpolation than the config's.
    """
    source = config.refine_from
    image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 1), jnp.float32)
    if seed := re.fullmatch(r"random:(\d{1,9})", source):
        logging.warning(
            "flowinpaint inpaint: a fresh stage 1 (%s), whose reference is the "
            "interpolated section; only for tests and dry runs",
            source,
        )
        blank = jnp.zeros(image.shape, image.dtype)
        key = jax.random.key(int(seed[1]), impl="rbg")  # compiles soonest
        return jax.jit(net.init)(key, blank, blank, blank)
    begun = Path(source) / "config.json"
    if not source or not begun.exists():
        raise FileNotFoundError(_missing(source))
    _expect_same(json.loads(begun.read_text()), config)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image, image, image)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        restored = restore_variables(
            Path(source) / "checkpoints", {"generator": shapes}, device
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(_missing(source)) from error
    return restored.state["generator"]


def _missing(source: str) -> str:
    return (
        f"config.refine_from is {source!r}, which holds no trained stage 1: run "
        "`python train.py --config=configs/flowinpaint_refine.py:PRESET "
        "--workdir=DIR`, then say --config.refine_from=DIR."
    )


def _expect_same(saved: Mapping, config: ConfigDict) -> None:
    """Refuses a run that was no stage 1 of this network and interpolation."""
    asked = json.loads(config.to_json_best_effort())
    pairs = {
        "system": (saved.get("system"), asked["system"]),
        "stage": (saved.get("stage"), "refine"),
        "intermediate": (saved.get("intermediate"), asked["intermediate"]),
        **{
            f"refine.{key}": (saved.get("refine", {}).get(key), asked["refine"][key])
            for key in SHARED
        },
    }
    wrong = [
        f"{k} ({old!r}, not {new!r})" for k, (old, new) in pairs.items() if old != new
    ]
    if wrong:
        raise ValueError(
            f"config.refine_from is {config.refine_from!r}, another run than this "
            f"config's stage 1: {', '.join(wrong)}."
        )


def local_corner(mask: jax.Array) -> jax.Array:
    """Where the local discriminator looks: a box of half a side around the hole.

        top = clip(floor(mean row of the hole + 0.5) - S / 4, 0, S / 2)

    and left likewise; in the middle where there is no hole. In whole numbers, so that
    no device rounds another way.

    Args:
      mask: [B, S, S, 1], 1 = hole; S at most 1024.

    Returns:
      [B, 2] int32, top and left.

    Source: FlowInpaint R33.
    """
    _, size, _, _ = expect_shape("local_corner", "mask", mask, "B S S 1")
    hole = (mask[..., 0] > 0).astype(jnp.int32)
    index = jnp.arange(size, dtype=jnp.int32)[None]
    count = hole.sum(axis=(1, 2))

    def nearest(axis: int) -> jax.Array:
        total = (hole.sum(axis=axis) * index).sum(axis=1)
        mean = (2 * total + count) // jnp.maximum(2 * count, 1)
        return jnp.where(count > 0, mean, size // 2)

    corner = jnp.stack([nearest(2), nearest(1)], axis=1) - size // 4
    return jnp.clip(corner, 0, size // 2)
