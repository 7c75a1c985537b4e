"""Stage "segment": finds normal and sclerosed glomeruli, each by a sigmoid of its own.

Source: the paper's Eq. 14; sections 2.6 to 2.8, 3.3 and 4 of the specification.
"""

from collections.abc import Callable, Mapping

import dm_pix
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxinpaint.core.checks import expect_choice, expect_multiple
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
from jaxinpaint.features.efficientnet import B3, EfficientNet, Scale
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.losses.segmentation import FORMS, binary_cross_entropy, dice_loss
from jaxinpaint.models.glomeruli_segment import EfficientUnet, Unet, UnetPlusPlus
from jaxinpaint.models.glomeruli_swin import SwinUnet

CLASSES = ("normal", "sclerosed")  # the channels of labels and predictions
INIT, DROPPED, TURNED = 4, 5, 6  # streams of section 8.4
CHANCE = 0.5  # of a turn, and of a flip (section 4)


def build(config: ConfigDict) -> System:
    """Builds the stage.

    Args:
      config: `batch_size`, `image_size`, `model`, `segment`, `loss` and `optimizer`.

    Raises:
      UnalignedSizeError: the training size does not fit the network.
      ValueError: a config value is not among the choices.
    """
    options, size = config.segment, config.image_size
    expect_choice("config.segment.model", options.model, NETWORKS)
    expect_choice("config.loss.form", config.loss.form, FORMS)
    stride = stride_of(options)
    expect_multiple("config.image_size", (1, size, size, 3), stride, stride)
    network = NETWORKS[options.model](options, jnp.dtype(config.model.dtype))
    adam = optimizer(config)
    shape = (config.batch_size, size, size)
    batch_spec = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((*shape, len(CLASSES)), jnp.float32),
    }

    def init(key: Key) -> TrainState:
        image = jnp.zeros((1, size, size, 3))
        variables = network.init(jax.random.fold_in(key, INIT), image, train=False)
        if options.encoder_weights != "none":
            variables = with_encoder(variables, options, size)
        opt_state = {"segmenter": adam.init(variables["params"])}
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, {"segmenter": variables}, opt_state)

    def update(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        del frozen
        dropped, turned = (jax.random.fold_in(key, k) for k in (DROPPED, TURNED))
        image, label = batch["image"], batch["label"]
        if options.trad_aug:
            image, label = augment(image, label, turned)
        s = state.variables["segmenter"]

        def loss(params: Tree) -> tuple[jax.Array, tuple[Tree, Scalars]]:
            logits, after = network.apply(
                {**s, "params": params},
                image,
                train=True,
                mutable=["batch_stats"],
                rngs={"drop_connect": dropped, "drop_path": dropped},
            )
            bce = binary_cross_entropy(logits, label)
            dice = dice_loss(
                logits, label, form=config.loss.form, smooth=config.loss.smooth
            )
            total = config.loss.bce * bce + config.loss.dice * dice
            logs = {"loss/segmenter": total, "loss/bce": bce, "loss/dice": dice}
            return total, (after, logs)

        grads, (after, logs) = jax.grad(loss, has_aux=True)(s["params"])
        step, opt = adam.update(grads, state.opt_state["segmenter"], s["params"])
        moved = {**s, **after, "params": optax.apply_updates(s["params"], step)}
        return TrainState(
            state.step + 1, {"segmenter": moved}, {"segmenter": opt}
        ), logs

    def predict(
        variables: Variables, frozen: Variables, batch: Batch, key: Key
    ) -> Batch:
        """`probabilities` [B, H, W, 2] in [0, 1], and the `logits` behind them."""
        del frozen, key
        logits = network.apply(variables["segmenter"], batch["image"], train=False)
        return {"probabilities": jax.nn.sigmoid(logits), "logits": logits}

    return System(batch_spec, init, lambda: {}, update, predict)


def _efficient(options: ConfigDict, dtype: jnp.dtype) -> nn.Module:
    return EfficientUnet(
        scale=Scale(options.width, options.depth),
        decoder=tuple(options.decoder),
        drop_connect=options.drop_connect,
        static_pad=options.static_pad or None,
        dtype=dtype,
    )


def _swin(options: ConfigDict, dtype: jnp.dtype) -> nn.Module:
    swin = options.swin
    return SwinUnet(
        width=swin.width,
        depths=tuple(swin.depths),
        decoder_depths=tuple(swin.decoder_depths),
        heads=tuple(swin.heads),
        window=swin.window,
        drop_path=swin.drop_path,
        dtype=dtype,
    )


NETWORKS: Mapping[str, Callable[[ConfigDict, jnp.dtype], nn.Module]] = {
    "effb3_unet": _efficient,
    "unet": lambda options, dtype: Unet(tuple(options.widths), dtype),
    "unet++": lambda options, dtype: UnetPlusPlus(tuple(options.widths), dtype),
    "swin_unet": _swin,
}


def stride_of(options: ConfigDict) -> int:
    """What the sides of an image must be multiples of, for `config.segment`."""
    if options.model == "effb3_unet":
        return 32
    if options.model == "swin_unet":
        return 4 * 2 ** (len(options.swin.depths) - 1) * options.swin.window
    return max(32, 2 ** (len(options.widths) - 1))


def with_encoder(
    variables: Mapping[str, Tree], options: ConfigDict, size: int
) -> dict[str, Tree]:
    """The variables with a pretrained encoder in them.

    Args:
      variables: of an `EfficientUnet`.
      options: `config.segment`; `encoder_weights` is "imported" or "random:SEED".
      size: side of the images.

    Raises:
      MissingWeightsError: nobody has imported them yet.
      ValueError: the model has another encoder, or weights of another network.
    """
    if options.model != "effb3_unet" or (options.width, options.depth) != B3:
        raise ValueError(
            f"config.segment.encoder_weights is {options.encoder_weights!r}, for the "
            "encoder of EfficientNet-B3; say 'none' for another network."
        )
    taps = tuple(f"skip{level}" for level in range(1, 6))
    encoder = EfficientNet(
        scale=B3,
        taps=taps,
        normalization=IMAGENET,
        drop_connect=options.drop_connect,
        static_pad=options.static_pad or None,
        dtype=jnp.dtype("float32"),
    )
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with jax.ensure_compile_time_eval():  # the loop traces `init`
        found = store.load("efficientnet_b3", options.encoder_weights, encoder, image)
    return {
        kind: {**tree, "encoder": found.variables[kind]}
        for kind, tree in variables.items()
    }


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam, its rate a cosine that falls from epoch to epoch, decay in the gradient.

        rate(e) = final + (first - final) (1 + cos(pi e / epochs)) / 2

    Epoch e of a step is `step // epoch_steps`.

    Deviation (section 4): an epoch is a number of steps that the config names, not one
    pass over the tiles, so that trainings with more tiles take no more steps.

    Source: specification 4; the decay is coupled, as PyTorch's `weight_decay`.
    """
    options = config.optimizer
    cosine = optax.cosine_decay_schedule(
        options.learning_rate,
        options.epochs,
        alpha=options.last_rate / options.learning_rate,
    )

    def rate(count: jax.Array) -> jax.Array:
        return cosine(count // options.epoch_steps)

    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps),
        optax.scale_by_learning_rate(rate),
    )


def augment(
    image: jax.Array, label: jax.Array, key: Key
) -> tuple[jax.Array, jax.Array]:
    """Turns and flips each sample at random, image and label alike.

    With probability 1/2 a turn by 0, 90, 180 or 270 degrees; then with probability
    1/2 a flip, left to right, upside down, or both.

    Args:
      image: [B, S, S, 3].
      label: [B, S, S, classes].
      key: of this batch.

    Source: the paper's traditional augmentation; specification 4.
    """
    both = jnp.concatenate([image, label.astype(image.dtype)], axis=-1)

    def one(x: jax.Array, key: Key) -> jax.Array:
        turned, k, flipped, mode = jax.random.split(key, 4)
        turns = [lambda x, k=k: dm_pix.rot90(x, k=k) for k in range(4)]
        k = jax.random.randint(k, (), 0, 4) * jax.random.bernoulli(turned, CHANCE)
        x = jax.lax.switch(k, turns, x)
        flips = [
            lambda x: x,
            dm_pix.flip_left_right,
            dm_pix.flip_up_down,
            lambda x: dm_pix.flip_up_down(dm_pix.flip_left_right(x)),
        ]
        mode = jax.random.randint(mode, (), 1, 4)
        return jax.lax.switch(mode * jax.random.bernoulli(flipped, CHANCE), flips, x)

    both = jax.vmap(one)(both, jax.random.split(key, image.shape[0]))
    return both[..., :3], both[..., 3:]
