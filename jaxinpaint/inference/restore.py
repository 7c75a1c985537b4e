"""Restores batches of integer or float images with a trained system."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.core.checks import (
    DTypeError,
    RangeError,
    ShapeMismatchError,
    pad_to_multiple,
)
from jaxinpaint.core.levels import HALF, from_levels, scale_batch, to_levels
from jaxinpaint.core.system import Derived, System, Variables

Arrays = dict[str, np.ndarray]
# A row may be given as None: the same as left out.
Given = Mapping[str, Any]


def restorer(
    config: ConfigDict, system: System, variables: Variables, frozen: Variables
) -> Callable[[Given], np.ndarray]:
    """Makes the function that restores host batches: `predictor`'s `completed` alone.

    Args:
      config: as `predictor` takes it.
      system: built from the config.
      variables: trained.
      frozen: what the stage reads besides.

    Returns:
      A function of a batch that returns the completed images.
    """
    predict = predictor(config, system, variables, frozen, (), ())
    return lambda batch: predict(batch)["completed"]


def predictor(
    config: ConfigDict,
    system: System,
    variables: Variables,
    frozen: Variables,
    also: Sequence[str],
    fields: Sequence[str],
    whole: Sequence[str] = (),
) -> Callable[[Given], Arrays]:
    """Makes the function that restores host batches and hands over what led there.

    One forward pass a batch; it compiles once a shape.

    Args:
      config: of the run; `system`, `seed`, `eval.size_multiple`, `eval.least_size`
        and what `systems.derived` reads.
      system: built from the config.
      variables: trained.
      frozen: what the stage reads besides.
      also: further images among what `system.predict` returns, such as "reference".
      fields: what is no image, such as "flow" [B, H, W, 2]; those that the system
        does not predict are passed over.
      whole: images among what `system.predict` returns that are handed over as they
        are predicted too, valid pixels included, such as "raw".

    Returns:
      A function of a batch of arrays [B, H, W, C], uint8 or uint16 levels or float32
      in [-1, 1], and masks [B, H, W, 1] of 0 and 1 (1 = hole), of any size. What the
      system derives from `previous` and `following` may be missing: it is computed,
      once for each whole image, with `alpha` of the batch ([B] or one number, 0.5
      without it). Images in [-1, 1] are taken as 16-bit levels for that. What lies
      under the hole is set to the lowest level before anything is computed, so that a
      network which is given no mask cannot read it either. A system that needs no
      mask may be given none (blind): then every pixel may change. Those where
      `protect` [B, H, W, 1] is 1 never do.

      It returns `completed` and the images of `also` in the dtype of `image`; pixels
      outside the hole, where there is a mask, are those of `image`, bit for bit. Those of `whole` are in the
      same dtype and not composited, by the names that `whole_name` gives them. Fields
      are float32, cropped like the images and not composited. Where no mask has a hole
      and nothing is asked for whole, no network runs and there are no fields. It
      raises InpaintInputError where `validate_inputs` of the system does, or where
      nothing can be derived, and ValueError where an image is not finite.

    Raises:
      ValueError: `also` or `whole` names what is no image that the system predicts.
    """
    key = jax.random.key(config.seed)
    multiple, least = config.eval.size_multiple, config.eval.least_size
    derived = systems.derived(config)

    _expect_images(system, variables, frozen, {"also": also, "whole": whole})

    @jax.jit
    def forward(variables: Variables, frozen: Variables, batch: dict) -> dict:
        made = system.predict(variables, frozen, scale_batch(batch), key)
        asked = ("completed", *also, *whole, *fields)
        return {name: made[name] for name in asked if name in made}

    def predict(batch: Given) -> Arrays:
        systems.validate_inputs(config.system, "restore", batch)
        image, mask, protect = batch["image"], batch.get("mask"), batch.get("protect")
        images = ("completed", *also)
        _, height, width, _ = image.shape
        levels = str(image.dtype) in HALF
        if mask is None:
            free, hidden = np.ones((*image.shape[:3], 1), bool), batch
        elif not mask.any() and not whole:
            return {name: image.copy() for name in images}
        else:
            free, lowest = mask > 0, 0 if levels else -1.0
            hidden = {**batch, "image": np.where(free, lowest, image)}
        if protect is not None:
            free = free & (protect == 0)
        padded = {
            name: pad_to_multiple(array, multiple, least)
            for name, array in _with_derived(derived, hidden).items()
        }
        found = {}
        for name, out in forward(variables, frozen, padded).items():
            array = np.array(out[:, :height, :width])
            if name in images:
                _expect_finite(name, array, free)
            if name not in images and name not in whole:
                found[name] = array.astype(np.float32)
                continue
            if levels:
                array = to_levels(array, str(image.dtype))
            if name in whole:
                found[whole_name(name)] = array
            if name in images:
                found[name] = np.where(free, array, image)
        return found

    return predict


def _expect_finite(name: str, image: np.ndarray, free: np.ndarray) -> None:
    """Refuses numbers that no level stands for.

    Raises:
      ValueError: NaN or infinity where `free` is True.
    """
    broken = ~np.isfinite(image) & free
    if broken.any():
        raise ValueError(
            f"restore: the network's {name} is NaN or infinite in {int(broken.sum())} "
            "values; its training diverged, so take an earlier step."
        )


def whole_name(name: str) -> str:
    """What an output is called that is not composited, "raw whole" for "raw"."""
    return f"{name} whole"


def _expect_images(
    system: System,
    variables: Variables,
    frozen: Variables,
    asked: Mapping[str, Sequence[str]],
) -> None:
    """Checks without running it that a system predicts further images.

    Args:
      system: to be asked.
      variables: of it.
      frozen: of it.
      asked: names of images, by the key of `config.eval` that holds them.
    """
    if not any(asked.values()):
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = jax.eval_shape(system.predict, variables, frozen, system.batch_spec, key)
    shape = system.batch_spec["image"].shape
    images = {name for name, image in made.items() if image.shape == shape}
    for key, names in asked.items():
        for name in names:
            if name not in images:
                raise ValueError(
                    f"config.eval.{key} names {name!r}; the images that the system "
                    f"predicts are {sorted(images)}."
                )


def _with_derived(derived: Mapping[str, Derived], batch: Given) -> Arrays:
    """The arrays of a batch, and what the system derives where the batch lacks it."""
    arrays = {name: array for name, array in batch.items() if array is not None}
    alpha = np.asarray(arrays.pop("alpha", 0.5), np.float64)
    lacking = [name for name in derived if name not in arrays]
    if not lacking:
        return arrays
    for name in ("previous", "following"):
        if name not in arrays:
            raise ShapeMismatchError(
                f"restore: {name} is missing; {lacking} are computed from both "
                "adjacent sections, or may be given."
            )
    previous, following = arrays["previous"], arrays["following"]
    if previous.dtype != following.dtype:
        raise DTypeError(
            f"restore: previous is {previous.dtype} and following {following.dtype}; "
            f"{lacking} are computed from two sections of one dtype."
        )
    if alpha.shape not in ((), (len(previous),)):
        raise ShapeMismatchError(
            f"restore: alpha must be one number or [{len(previous)}], got "
            f"{list(alpha.shape)}."
        )
    if not ((alpha >= 0) & (alpha <= 1)).all():
        raise RangeError(
            "restore: alpha must lie in [0, 1], 0 at previous and 1 at following, got "
            f"{alpha.tolist()}."
        )
    places = np.broadcast_to(alpha, len(previous)).tolist()
    for name in lacking:
        rows: list[np.ndarray] = []
        for i, place in enumerate(places):
            # A batch is filled up with its last row: that is no further image.
            again = i > 0 and places[i - 1] == place
            again = again and np.array_equal(previous[i - 1], previous[i])
            if again and np.array_equal(following[i - 1], following[i]):
                rows.append(rows[-1])
            else:
                pair = previous[i], following[i]
                rows.append(_between(derived[name].function, *pair, place))
        arrays[name] = np.stack(rows)
    return arrays


def _between(
    function: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
    previous: np.ndarray,
    following: np.ndarray,
    alpha: float,
) -> np.ndarray:
    """Calls a function of integer sections [H, W, C], for floats on 16-bit levels."""
    if str(previous.dtype) in HALF:
        return np.asarray(function(previous, following, alpha))
    levels = to_levels(previous, "uint16"), to_levels(following, "uint16")
    return np.asarray(from_levels(jnp.asarray(function(*levels, alpha))))
