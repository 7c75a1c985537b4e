"""Stage A of RNON: the repair network paints the hole from what is valid.

Source: RNON Eq. 1 to 10; sections 3.1 and 3.2 of the specification.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax.linen import max_pool
from ml_collections import ConfigDict

from jaxinpaint.core.checks import expect_choice
from jaxinpaint.core.system import Batch, Scalars, Variables
from jaxinpaint.features.extractor import by_tap
from jaxinpaint.losses.adversarial import softplus_discriminator, softplus_generator
from jaxinpaint.losses.perceptual import (
    Features,
    absolute,
    elements,
    perceptual,
    style,
)
from jaxinpaint.models.rnon import RepairGenerator

TAPS = {  # Assumption: DenseNet-121, and the last tensor of each group of Keras' names
    "vgg16": ("pool1", "pool2", "pool3"),
    "densenet121": ("conv1_relu", "pool2_pool", "pool3_pool"),
}
ADVERSARIAL = ("nonsaturating", "score_gap", "literal")
TV_REGIONS = ("hole", "dilated", "all")
LEAST_BATCH = 2
Judge = Callable[[jax.Array], jax.Array]
Read = Callable[[Sequence[jax.Array]], Sequence[Features]]


class Repair:
    """What is the stage's own: its generator, what it reads, and the losses.

    Attributes:
      generator: G_inp.
      taps: tensors that the losses read of each pretrained network.
      made: outputs of `predict` that could fill the hole beside `completed`.
      adversarial_weight: of the loss that the discriminator sends back; 0 for none.
    """

    def __init__(self, config: ConfigDict, generator: RepairGenerator) -> None:
        """Reads the config.

        Args:
          config: `batch_size` and `loss`.
          generator: G_inp.

        Raises:
          ValueError: a value is not among the choices.
        """
        loss = config.loss
        expect_choice("config.loss.repair_adv", loss.repair_adv, ADVERSARIAL)
        expect_choice("config.loss.tv_region", loss.tv_region, TV_REGIONS)
        self.adversarial_weight = loss.adversarial[loss.repair_adv]
        if config.batch_size < LEAST_BATCH:
            raise ValueError(
                f"config.batch_size is {config.batch_size}; stage A needs a global "
                f"batch of at least {LEAST_BATCH}, because the innermost layer may "
                "have one cell, whose batch norm over one value is a constant."
            )
        self.generator, self.taps = generator, TAPS
        self.made: tuple[str, ...] = ()
        self.loss = loss

    def blank(self, size: int) -> tuple[jax.Array, ...]:
        """Arguments of the generator that parameters can be made from."""
        image = jnp.zeros((1, size, size, 3))
        return image, jnp.ones_like(image[..., :1])

    def load_frozen(self) -> Variables:
        """No network, beside those that give features."""
        return {}

    def inputs(
        self, frozen: Variables, image: jax.Array, mask: jax.Array
    ) -> tuple[tuple[jax.Array, ...], Batch]:
        """What the generator is given: the damaged image and what is valid of it.

        Args:
          frozen: not read.
          image: [B, H, W, 3] in [0, 1]; not read in the hole.
          mask: [B, H, W, 1], 1 = hole.

        Returns:
          The arguments of the generator, and no image beside its own.
        """
        del frozen
        return (jnp.where(mask > 0, 0.0, image), 1.0 - mask), {}

    def terms(
        self,
        image: jax.Array,
        raw: jax.Array,
        mask: jax.Array,
        read: Read | None,
    ) -> tuple[jax.Array, Scalars]:
        """Eq. 1 without its adversarial term.

        Args:
          image: I_real, [B, H, W, 3] in [0, 1].
          raw: I_inp, like image.
          mask: [B, H, W, 1], 1 = hole.
          read: images like image -> their features, by "network/tap"; None where no
            network serves, and the terms that need one are left out.

        Returns:
          The weighted sum, and the terms without their weights.
        """
        weights = self.loss
        valid, hole = reconstruction(image, raw, mask)
        completed = jnp.where(mask > 0, raw, image)
        terms = {
            "valid": valid,
            "hole": hole,
            "variation": total_variation(completed, mask, weights.tv_region),
        }
        if read is not None:
            (truth,) = read([image])
            made = read([raw, completed])
            of_nets = by_tap(truth, weights.perceptual_nets)
            terms["perceptual"] = jnp.asarray(
                sum(perceptual(truth, one, of_nets, absolute) for one in made)
            )
            of_nets = by_tap(truth, weights.style_nets)
            terms["style"] = jnp.asarray(
                sum(style(truth, one, of_nets, elements, absolute) for one in made)
            )
        total = sum(weights[name] * term for name, term in terms.items())
        return jnp.asarray(total), {f"loss/{k}": term for k, term in terms.items()}

    def adversarial(self, judge: Judge, image: jax.Array, raw: jax.Array) -> jax.Array:
        """The generator's adversarial loss; `judge` gives logits [B, 1] of images."""
        fake = judge(raw)
        if self.loss.repair_adv == "nonsaturating":
            return softplus_generator(fake)
        return score_gap(jax.lax.stop_gradient(judge(image)), fake)

    def discriminator(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        """The discriminator's loss, of logits [B, 1]."""
        if self.loss.repair_adv == "literal":
            return -score_gap(real, fake)
        return softplus_discriminator(real, fake)


def reconstruction(
    image: jax.Array, raw: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean absolute difference in the valid region and in the hole.

        mean |valid * (raw - image)|,   mean |mask * (raw - image)|

    Both means are over all elements of the batch, however large the region is.

    Args:
      image: [B, H, W, 3] in [0, 1].
      raw: like image.
      mask: [B, H, W, 1], 1 = hole.

    Returns:
      Two scalars; their gradient is 0 where the images are equal.

    Source: RNON Eq. 2 and 3.
    """
    # Deviation (Eq. 2 and 3): from the truth, not from the damaged image, which is
    # blank in the hole; and means, to which the printed weights belong.
    apart = absolute(raw - image)
    return jnp.mean((1.0 - mask) * apart), jnp.mean(mask * apart)


def total_variation(image: jax.Array, mask: jax.Array, region: str) -> jax.Array:
    """Absolute differences of neighbouring pixels, both in the hole.

        (sum |I[i, j+1] - I[i, j]| m[i, j] m[i, j+1]
         + sum |I[i+1, j] - I[i, j]| m[i, j] m[i+1, j]) / (B H W C)

    Args:
      image: [B, H, W, C].
      mask: [B, H, W, 1], 1 = hole.
      region: "hole", as printed, where no pair crosses the border of the hole;
        "dilated", the hole and the pixels around it (3 x 3); "all" pixels.

    Returns:
      Scalar; its gradient is 0 where neighbours are equal.

    Source: RNON Eq. 10.
    """
    # Deviation (Eq. 10): divided by the number of elements, as PConv has it; the bare
    # sum would exceed all other terms a thousand times.
    inside = {
        "hole": mask,
        "dilated": max_pool(mask, (3, 3), padding="SAME"),
        "all": jnp.ones_like(mask),
    }[region]
    across = absolute(image[:, :, 1:] - image[:, :, :-1])
    down = absolute(image[:, 1:] - image[:, :-1])
    pairs = jnp.sum(across * inside[:, :, 1:] * inside[:, :, :-1])
    pairs = pairs + jnp.sum(down * inside[:, 1:] * inside[:, :-1])
    return pairs / image.size


def score_gap(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Mean distance between the scores of a made image and of its truth.

    Args:
      real: logits [B, 1] of the true images.
      fake: logits of the images made in their place.

    Returns:
      Scalar in [0, 1].

    Source: RNON Eq. 9.
    """
    return jnp.mean(absolute(jax.nn.sigmoid(fake) - jax.nn.sigmoid(real)))
