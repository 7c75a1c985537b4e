"""What may not be restored from, row by row of the specification's section 8."""

import contextlib

import numpy as np
import pytest

from jaxinpaint import systems
from jaxinpaint.core import checks


def batch():
    """Floats of a size that no stride divides; a hole that touches the border."""
    rng = np.random.default_rng(0)
    image, neighbor = rng.uniform(-1, 1, (2, 2, 66, 71, 3)).astype(np.float32)
    mask = np.zeros((2, 66, 71, 1), np.uint8)
    mask[0, 10:30, 20:40] = mask[1, :, :20] = 1
    return {"image": image, "neighbor": neighbor, "mask": mask}


def put(name, index, value):
    def change(arrays):
        arrays[name] = arrays[name].astype(np.float32)
        arrays[name][index] = value

    return change


def replace(**arrays):
    return lambda old: old.update(arrays)


def cast(name, dtype):
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def lattice(mask, neighbor_mask):
    """A hole, and damage, in every patch of 24 pixels, but nowhere in both."""

    def change(arrays):
        arrays["mask"][:, ::8, ::8] = mask
        damage = np.zeros_like(arrays["mask"])
        damage[:, 4::8, 4::8] = neighbor_mask
        arrays["mask"][:, 4::8, 4::8] = 0
        arrays["neighbor_mask"] = damage

    return change


def small(arrays):
    arrays["neighbor"] = arrays["neighbor"][:, :64]


ROWS = {
    "no neighbour": (replace(neighbor=None), "ShapeMismatch", "neighbor is missing"),
    "another size": (small, "ShapeMismatch", r"neighbor must be \[2, 66, 71, 3\]"),
    "a flat mask": (
        replace(mask=np.zeros((2, 66, 71), np.uint8)),
        "ShapeMismatch",
        r"mask must be \[2, 66, 71, 1\]",
    ),
    "wide integers": (
        cast("image", np.int32),
        "DType",
        "image must be uint8 or uint16",
    ),
    "doubles": (cast("neighbor", np.float64), "DType", "neighbor must be .* float64"),
    "a NaN that counts": (
        put("image", (1, 3, 60, 2), np.nan),
        "NonFiniteInput",
        r"image is nan at \(1, 3, 60, 2\)",
    ),
    "a NaN beside": (
        put("neighbor", (0, 15, 25, 0), np.inf),
        "NonFiniteInput",
        r"neighbor is inf at \(0, 15, 25, 0\)",
    ),
    "no range": (put("image", (0, 0, 0, 0), 127.0), "Range", r"image must lie in"),
    "no range beside": (put("neighbor", 0, -1.01), "Range", r"neighbor must lie in"),
    "a NaN in the mask": (put("mask", (1, 40, 40), np.nan), "MaskValue", "got nan at"),
    "a mask of 255": (put("mask", (0, 0, 0), 255), "MaskValue", r"\(0, 0, 0, 0\)"),
    "a soft edge": (put("mask", (0, 9, 20), 0.5), "MaskValue", "threshold soft edges"),
    "an inverted mask": (
        put("mask", (1, slice(2, None)), 1),
        "MaskValue",
        "sample 1 of mask is 97.8% hole",
    ),
    "all hole": (put("mask", 1, 1), "MaskCoverage", "sample 1 of mask is all hole"),
    "damage in the hole": (
        lambda arrays: arrays.update(neighbor_mask=np.roll(arrays["mask"], 19, 1)),
        "InpaintInput",
        "sample 0 of neighbor is damaged inside the hole",
    ),
    "no key": (lattice(1, 1), "NoValidKey", "sample 0 has no undamaged patch"),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_cannot_be_restored_is_refused(row):
    change, error, message = ROWS[row]
    arrays = batch()
    change(arrays)
    with pytest.raises(getattr(checks, f"{error}Error"), match=message):
        systems.validate_inputs("ccpgan", "here", arrays)


@pytest.mark.parametrize("name", ["image", "neighbor", "mask"])
def test_a_tensor_that_is_not_there_is_named(name):
    arrays = batch()
    del arrays[name]
    with pytest.raises(checks.ShapeMismatchError, match=f"{name} is missing"):
        systems.validate_inputs("ccpgan", "here", arrays)


def unread(arrays):
    hole = np.broadcast_to(arrays["mask"] > 0, arrays["image"].shape)
    arrays["image"][hole] = np.nan


def levels(arrays):
    for name in ("image", "neighbor"):
        arrays[name] = np.full(arrays[name].shape, 200, np.uint8)


def damage_elsewhere(arrays):
    arrays["neighbor_mask"] = np.roll(arrays["mask"], 30, axis=2)


WELCOME = {  # what is done to a batch, and what is warned of
    "as it is": (lambda arrays: None, None),
    "anything in the hole": (unread, None),
    "8-bit levels": (levels, None),
    "damage elsewhere": (damage_elsewhere, None),
    "no hole": (lambda arrays: arrays["mask"].fill(0), None),
    "keys beside alone": (lattice(1, 0), "restored from the neighbour alone"),
    "a large hole": (
        lambda arrays: arrays["mask"][1, :, :56].fill(1),
        "outside the evaluated range",
    ),
}


@pytest.mark.parametrize("row", WELCOME)
def test_what_can_be_restored_is_let_in(row):
    change, warning = WELCOME[row]
    arrays = batch()
    change(arrays)
    warned = pytest.warns(UserWarning, match=warning)
    with warned if warning else contextlib.nullcontext():
        systems.validate_inputs("ccpgan", "here", arrays)
