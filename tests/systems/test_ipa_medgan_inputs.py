"""What ipA-MedGAN takes and what it refuses: section 8 of its specification."""

import jax
import numpy as np
import pytest

from configs.ipa_medgan import get_config
from jaxinpaint.core.checks import (
    InpaintInputError,
    MaskCoverageError,
    ShapeMismatchError,
    check_training_batch,
)
from jaxinpaint.systems import ipa_medgan


def batch(dtype="uint8"):
    rng = np.random.default_rng(0)
    shape = (2, 96, 96, 1)
    if dtype == "float32":
        image = rng.uniform(-1, 1, shape).astype(dtype)
    else:
        image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    mask = np.zeros(shape, np.uint8)
    mask[:, 8:20, 10:26] = 1
    return {"image": image, "mask": mask}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_good_input(dtype):
    given = batch(dtype)
    bare = {"image": given["image"].copy()}
    if dtype == "float32":
        given["image"][:, 10, 12] = np.nan  # in the hole
    ipa_medgan.validate_inputs("restore", given)
    ipa_medgan.validate_inputs("restore", given | {"protect": 1 - given["mask"]})
    for mask in (None, np.zeros_like(given["mask"])):
        ipa_medgan.validate_inputs("restore", bare | {"mask": mask})
    ipa_medgan.validate_inputs("restore", bare)


def spoilt(value):
    image = batch("float32")["image"]
    image[1, 50, 60] = value
    return image


ZEROS = np.zeros((2, 96, 96, 1), np.uint8)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"image": None}, "image is missing; .* from itself alone"),
        ({"image": ZEROS[0]}, r"image must be \[B, H, W, 1\], got \[96, 96, 1\]"),
        ({"image": np.repeat(ZEROS, 3, -1)}, r"image must be .*got \[2, 96, 96, 3\]"),
        ({"image": ZEROS.astype(np.float64)}, "float64"),
        ({"image": ZEROS.astype(np.int16)}, "int16"),
        ({"image": spoilt(np.nan)}, r"image is \[?nan\]? at \(1, 50, 60, 0\)"),
        ({"image": spoilt(1.5)}, r"image must lie in \[-1, 1\], got \[?1.5"),
        ({"mask": ZEROS[:, :48]}, r"mask must be \[2, 96, 96, 1\]"),
        ({"mask": ZEROS + 255}, "mask must hold 0 .* 255"),
        ({"protect": ZEROS[:1]}, r"protect must be \[2, 96, 96, 1\]"),
        ({"protect": ZEROS + 7}, "must hold 0 .* 7"),
        ({"mask": ZEROS + 1}, "sample 0 of mask is all hole"),
    ],
)
def test_bad_input(change, match):
    with pytest.raises(InpaintInputError, match=match):
        ipa_medgan.validate_inputs("restore", batch() | change)


def test_without_a_mask_every_pixel_counts():
    image = spoilt(np.inf)
    mask = ZEROS.copy()
    mask[1, 50, 60] = 1
    ipa_medgan.validate_inputs("restore", {"image": image, "mask": mask})
    with pytest.raises(InpaintInputError, match="image is"):
        ipa_medgan.validate_inputs("restore", {"image": image})


@pytest.mark.parametrize("fill, match", [(0, "no hole"), (1, "all hole")])
def test_training_needs_a_hole_and_a_valid_pixel(fill, match):
    given = batch()
    given["mask"][1] = fill
    with pytest.raises(MaskCoverageError, match=f"sample 1 of mask .*{match}"):
        check_training_batch("train", given)


def traced(shape):
    config = get_config("smoke")
    config.model.widths = (4, 4, 4, 4, 4)
    system = ipa_medgan.build(config)
    variables = jax.eval_shape(system.init, jax.random.key(0)).variables
    image = jax.ShapeDtypeStruct(shape, np.float32)
    given = {"image": image, "mask": image}
    return jax.eval_shape(system.predict, variables, {}, given, jax.random.key(0))


def test_any_size_of_multiples_of_16_is_restored():
    out = traced((3, 48, 80, 1))
    assert out["raw"].shape == out["completed"].shape == (3, 48, 80, 1)
    with pytest.raises(InpaintInputError, match="multiples of 16 .* 48 x 72"):
        traced((3, 48, 72, 1))


def test_an_update_refuses_another_size():
    system = ipa_medgan.build(get_config("smoke"))
    state = jax.eval_shape(system.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 112, 112, 1), np.float32)
    given = {"image": image, "mask": image}
    with pytest.raises(ShapeMismatchError, match=r"image must be \[2, 96, 96, 1\]"):
        jax.eval_shape(system.update, state, {}, given, jax.random.key(0))
