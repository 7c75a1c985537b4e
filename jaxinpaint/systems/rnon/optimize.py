"""Stage B of RNON: the optimization network corrects what the repair network made.

Source: RNON Eq. 11 to 14; section 3.3 of the specification.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from jaxinpaint.core.checkpoint import restore_variables
from jaxinpaint.core.checks import expect_choice
from jaxinpaint.core.system import Batch, Scalars, Tree, Variables
from jaxinpaint.features.extractor import by_tap
from jaxinpaint.losses.adversarial import softplus_discriminator, softplus_generator
from jaxinpaint.losses.perceptual import Features, absolute, perceptual
from jaxinpaint.models.rnon import OptimizationGenerator, RepairGenerator

TAPS = {"vgg19": ("relu3_4",), "densenet121": ("pool2_conv",)}
ADVERSARIAL = ("nonsaturating", "literal")
REGIONS = ("valid", "all")
INPUTS = ("raw", "composite")
LEAST_SCORE = 1e-6
Judge = Callable[[jax.Array], jax.Array]
Read = Callable[[Sequence[jax.Array]], Sequence[Features]]


class Optimize:
    """What is the stage's own: its generator, what it reads, and the losses.

    Attributes:
      generator: G_opt.
      taps: tensors that the losses read of each pretrained network.
      made: outputs of `predict` that could fill the hole beside `completed`.
      adversarial_weight: of the loss that the discriminator sends back; 0 for none.
    """

    def __init__(self, config: ConfigDict, repair: RepairGenerator) -> None:
        """Reads the config.

        Args:
          config: `optimize`, `loss`, `model` and `repair_from`.
          repair: G_inp, whose variables are the frozen "repair".

        Raises:
          ValueError: a value is not among the choices.
        """
        options, loss = config.optimize, config.loss
        expect_choice("config.loss.opt_adv", loss.opt_adv, ADVERSARIAL)
        expect_choice("config.loss.content_region", loss.content_region, REGIONS)
        expect_choice("config.optimize.opt_input", options.opt_input, INPUTS)
        self.generator = OptimizationGenerator(
            width=options.width,
            blocks=options.blocks,
            rates=tuple(options.rates),
            fusion_kernel=options.fusion_kernel,
            norm=options.norm,
            image_residual=options.image_residual,
            remat=options.remat_blocks,
            dtype=jnp.dtype(config.model.dtype),
        )
        self.taps, self.made = TAPS, ("repaired",)
        self.config, self.loss, self.repair = config, loss, repair
        self.opt_input = options.opt_input
        self.adversarial_weight = loss.adversarial[loss.opt_adv]

    def blank(self, size: int) -> tuple[jax.Array, ...]:
        """Arguments of the generator that parameters can be made from."""
        return (jnp.zeros((1, size, size, 3)),)

    def load_frozen(self) -> Variables:
        """The trained repair network."""
        return {"repair": load_repair(self.config, self.repair)}

    def inputs(
        self, frozen: Variables, image: jax.Array, mask: jax.Array
    ) -> tuple[tuple[jax.Array, ...], Batch]:
        """What the generator is given: the repaired image.

        Args:
          frozen: variables of the repair network.
          image: [B, H, W, 3] in [0, 1]; not read in the hole.
          mask: [B, H, W, 1], 1 = hole.

        Returns:
          The arguments of the generator, and `repaired`, I_inp in [0, 1].
        """
        damaged = jnp.where(mask > 0, 0.0, image)
        repaired = jax.lax.stop_gradient(
            self.repair.apply(frozen["repair"], damaged, 1.0 - mask, train=False)
        )
        # Assumption: the raw image, as printed ("I_inp is used as the input image").
        given = repaired
        if self.opt_input == "composite":
            given = jnp.where(mask > 0, repaired, image)
        return (given,), {"repaired": repaired}

    def terms(
        self,
        image: jax.Array,
        raw: jax.Array,
        mask: jax.Array,
        read: Read | None,
    ) -> tuple[jax.Array, Scalars]:
        """Eq. 11 without its adversarial term.

        Args:
          image: I_real, [B, H, W, 3] in [0, 1].
          raw: I_opt, like image.
          mask: [B, H, W, 1], 1 = hole.
          read: images like image -> their features, by "network/tap"; None where no
            network serves, and the term that needs one is left out.

        Returns:
          The weighted sum, and the terms without their weights.
        """
        weights = self.loss
        terms = {"content": content(image, raw, mask, weights.content_region)}
        if read is not None:
            # Assumption: both images, as in Eq. 4, which Eq. 13 is "similar to".
            made = [raw]
            if weights.per_composite:
                made.append(jnp.where(mask > 0, raw, image))
            (truth,) = read([image])
            of_nets = by_tap(truth, weights.perceptual_nets)
            terms["perceptual"] = jnp.asarray(
                sum(perceptual(truth, one, of_nets, absolute) for one in read(made))
            )
        total = sum(weights[name] * term for name, term in terms.items())
        return jnp.asarray(total), {f"loss/{k}": term for k, term in terms.items()}

    def adversarial(self, judge: Judge, image: jax.Array, raw: jax.Array) -> jax.Array:
        """The generator's adversarial loss; `judge` gives logits [B, 1] of images."""
        fake = judge(raw)
        if self.loss.opt_adv == "nonsaturating":
            return softplus_generator(fake)
        target = jax.lax.stop_gradient(_clipped(jax.nn.sigmoid(judge(image))))
        return score_cross_entropy(jax.nn.sigmoid(fake), target)

    def discriminator(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        """The discriminator's loss, of logits [B, 1]."""
        if self.loss.opt_adv == "nonsaturating":
            return softplus_discriminator(real, fake)
        scores = (_clipped(jax.nn.sigmoid(logits)) for logits in (fake, real))
        return -score_cross_entropy(*scores)


def content(
    image: jax.Array, raw: jax.Array, mask: jax.Array, region: str
) -> jax.Array:
    """Mean absolute difference, over all elements of the batch.

    Args:
      image: [B, H, W, 3] in [0, 1].
      raw: like image.
      mask: [B, H, W, 1], 1 = hole.
      region: "valid", as printed, where differences in the hole count as 0; or "all".

    Returns:
      Scalar; its gradient is 0 where the images are equal.

    Source: RNON Eq. 12.
    """
    apart = absolute(raw - image)
    return jnp.mean((1.0 - mask) * apart if region == "valid" else apart)


def score_cross_entropy(fake: jax.Array, real: jax.Array) -> jax.Array:
    """Cross-entropy of the scores of true images against those of the made ones.

        -mean(p log q + (1 - p) log(1 - q)),   p = fake, q = real

    Args:
      fake: scores [B, 1] in [0, 1] of the made images.
      real: scores in (0, 1) of the true images in their place.

    Returns:
      Scalar, at least 0.

    Source: RNON Eq. 14.
    """
    return -jnp.mean(fake * jnp.log(real) + (1.0 - fake) * jnp.log1p(-real))


def load_repair(config: ConfigDict, net: RepairGenerator) -> Mapping[str, Tree]:
    """Reads the network of stage A.

    Args:
      config: `repair_from` is the workdir of stage A, or "random:SEED", a fresh network
        for dry runs, which is logged as a warning.
      net: of stage A.

    Returns:
      Its Linen variables.

    Raises:
      FileNotFoundError: no trained stage A; names the command that trains it.
      ValueError: it is another stage or network than the config's.
    """
    source, size = config.repair_from, config.image_size

    def init(key: jax.Array) -> Mapping[str, Tree]:
        image = jnp.zeros((1, size, size, 3))
        return net.init(key, image, jnp.ones_like(image[..., :1]), train=False)

    if seed := re.fullmatch(r"random:(\d{1,9})", source):
        logging.warning(
            "rnon optimize: a fresh stage A (%s), which repairs nothing; only for "
            "tests and dry runs",
            source,
        )
        key = jax.random.key(int(seed[1]), impl="rbg")  # compiles soonest
        return jax.jit(init)(key)
    begun = Path(source) / "config.json"
    if not source or not begun.exists():
        raise FileNotFoundError(_missing(source))
    _expect_same(json.loads(begun.read_text()), config)
    shapes = jax.eval_shape(init, jax.random.key(0))
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
        f"stage B needs a trained repair module: config.repair_from is {source!r}; run "
        "`python train.py --config=configs/rnon_repair.py:PRESET --workdir=DIR`, then "
        "say --config.repair_from=DIR."
    )


def _expect_same(saved: Mapping, config: ConfigDict) -> None:
    """Refuses a run that was no stage A of this network."""
    asked = json.loads(config.to_json_best_effort())
    pairs = {
        "system": (saved.get("system"), asked["system"]),
        "stage": (saved.get("stage"), "repair"),
        **{
            f"repair.{key}": (saved.get("repair", {}).get(key), value)
            for key, value in asked["repair"].items()
        },
    }
    wrong = [
        f"{k} ({old!r}, not {new!r})" for k, (old, new) in pairs.items() if old != new
    ]
    if wrong:
        raise ValueError(
            f"config.repair_from is {config.repair_from!r}; the checkpoint does not "
            f"match this config's stage A: {', '.join(wrong)}."
        )


def _clipped(scores: jax.Array) -> jax.Array:
    return jnp.clip(scores, LEAST_SCORE, 1.0 - LEAST_SCORE)
