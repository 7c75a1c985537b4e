"""What RNON takes and what it refuses: section 8 of its specification."""

import numpy as np
import pytest

from jaxinpaint.core.checks import InpaintInputError
from jaxinpaint.systems import rnon


def batch(dtype="uint8", size=40):
    rng = np.random.default_rng(0)
    shape = (2, size, size, 3)
    if dtype == "float32":
        image = rng.uniform(-1, 1, shape).astype(dtype)
    else:
        image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    mask = np.zeros((2, size, size, 1), np.uint8)
    mask[:, 8:20, 10:26] = 1
    return {"image": image, "mask": mask}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_good_input(dtype):
    given = batch(dtype)
    if dtype == "float32":
        given["image"][:, 10, 12] = np.nan  # in the hole
    rnon.validate_inputs("restore", given)
    whole = batch(dtype)
    whole["mask"][0] = 0  # without a hole there is nothing to do, and no error
    rnon.validate_inputs("restore", whole)


def floats(value):
    image = batch("float32")["image"]
    image[1, 0, 0] = value
    return image


@pytest.mark.parametrize(
    "change, match",
    [
        ({"image": None}, "image is missing"),
        ({"mask": None}, r"rnon needs a mask \(1 = hole\)"),
        ({"image": np.zeros((2, 40, 40, 1), np.uint8)}, r"image must be \[B, H, W, 3"),
        ({"mask": np.zeros((2, 40, 32, 1), np.uint8)}, r"mask must be \[2, 40, 40, 1"),
        ({"mask": np.full((2, 40, 40, 1), 255, np.uint8)}, "mask must hold 0 .* 255"),
        ({"mask": np.ones((2, 40, 40, 1), np.uint8)}, "mask has no valid pixel"),
        ({"image": floats(np.inf)}, "image is inf at"),
        ({"image": floats(1.01)}, r"lie in \[-1, 1\], got 1.00"),
        ({"image": np.zeros((2, 40, 40, 3))}, "float64"),
        ({"image": np.zeros((2, 40, 40, 3), np.int16)}, "int16"),
    ],
)
def test_bad_input(change, match):
    with pytest.raises(InpaintInputError, match=match):
        rnon.validate_inputs("restore", batch() | change)


@pytest.mark.parametrize("rows, warns", [(24, False), (25, True)])
def test_a_mask_of_more_hole_than_the_paper_s_is_warned_of(rows, warns, recwarn):
    given = batch()
    given["mask"][1] = 0
    given["mask"][1, :rows] = 1
    rnon.validate_inputs("restore", given)
    assert len(recwarn) == warns
    if warns:
        assert "sample 1 of mask has more than 60% holes" in str(recwarn[0].message)
        assert "is the mask inverted? 1 means hole" in str(recwarn[0].message)
