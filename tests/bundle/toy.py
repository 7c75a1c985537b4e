"""A system small enough to be worked by hand, and bundles of it."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.unet import get_config
from jaxinpaint.bundle import manifest
from jaxinpaint.bundle.load import load
from jaxinpaint.core.checks import ShapeMismatchError
from jaxinpaint.core.system import System, TrainState
from jaxinpaint.inference.export import export_system
from jaxinpaint.systems import unet

GAIN, SHIFT = 0.5, 0.25


def images(*names, channels=1):
    spec = {n: jax.ShapeDtypeStruct((2, 32, 32, channels), jnp.float32) for n in names}
    return spec | {"mask": jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)}


def variables():
    return {
        "generator": {"params": {"gain": jnp.full((1,), GAIN)}, "kept": (jnp.ones(2),)},
        "critic": {"params": {"weight": jnp.ones((3,))}},
    }


def frozen():
    return {
        "earlier": {"params": {"shift": jnp.full((1,), SHIFT)}},
        "vgg": {"params": {"kernel": jnp.ones((4, 4))}},
    }


def paint(variables, frozen, batch, key):
    """Half of the section before and a quarter; the image outside the hole."""
    gain = variables["generator"]["params"]["gain"]
    shift = frozen["earlier"]["params"]["shift"]
    raw = batch["previous"] * gain.reshape(1, 1, 1, 1) + shift.reshape(1, 1, 1, 1)
    completed = jnp.where(batch["mask"] > 0, raw, batch["image"])
    return {"completed": completed, "raw": raw}


def square_alone(variables, frozen, batch, key):
    """Lowers for any batch, but asks how many rows there are."""
    assert int(np.arange(batch["image"].shape[1]).sum()) > 0
    return paint(variables, frozen, batch, key)


def one_alone(variables, frozen, batch, key):
    """Lowers for no symbol at all."""
    assert int(np.arange(batch["image"].shape[0]).size) > 0
    return square_alone(variables, frozen, batch, key)


def system(predict=paint, spec=None):
    state = TrainState(jnp.zeros((), jnp.int32), variables(), {})
    spec = images("image", "previous") if spec is None else spec
    update = lambda state, frozen, batch, key: (state, {})
    return System(spec, lambda key: state, frozen, update, predict)


def toy_config():
    found = get_config("smoke")
    found.image_size, found.eval.size_multiple, found.eval.least_size = 32, 16, 32
    return found


def accept(monkeypatch, *, mask, whole):
    """Makes the system's own checks lenient or strict about masks."""

    def validate(where, batch):
        if mask and "mask" not in batch:
            raise ShapeMismatchError("a mask is needed")
        if not whole and "mask" in batch and batch["mask"].all():
            raise ShapeMismatchError("all hole")

    monkeypatch.setattr(unet, "validate_inputs", validate)


def exported(predict=paint, sizes=None, spec=None, platforms=("cpu",), config=None):
    made = system(predict, spec)
    settings = config or toy_config()
    return export_system(settings, made, variables(), frozen(), platforms, sizes)


def bundle(folder, predict=paint, sizes=None, spec=None):
    made = exported(predict, sizes, spec)
    folder.mkdir()
    manifest.write(folder, {"system": "toy", **made.facts}, made.contents)
    return load(folder)
