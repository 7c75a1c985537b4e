import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.losses.segmentation import binary_cross_entropy, dice_loss
from tests.features import hashed

SHAPE = (2, 8, 8, 2)
LOGITS = 3 * hashed.image(SHAPE)
TARGET = (hashed.uniform(SHAPE, 999) > 0.7).astype(np.float32)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def dice(logits, target, form="sample", smooth=1e-5):
    return dice_loss(logits, target, form=form, smooth=smooth)


def test_the_check_values():
    """Glomeruli specification, 10.3."""
    assert TARGET.sum() == 59
    bce, loss = binary_cross_entropy(LOGITS, TARGET), dice(LOGITS, TARGET)
    assert bce == pytest.approx(0.925951, abs=1e-6)
    assert loss == pytest.approx(0.659199, abs=1e-6)
    assert 0.5 * bce + loss == pytest.approx(1.122174, abs=2e-6)


def test_nothing_wanted_and_nothing_found_costs_nothing():
    empty, sure = np.zeros(SHAPE, np.float32), np.full(SHAPE, -1e4, np.float32)
    assert binary_cross_entropy(sure, empty) == 0.0
    assert dice(sure, empty) == 0.0
    # And what is wrong with certainty costs what it says: nothing overflows.
    assert binary_cross_entropy(sure, empty + 1) == pytest.approx(1e4)
    assert np.isfinite(jax.grad(binary_cross_entropy)(sure, empty + 1)).all()


@pytest.mark.parametrize(("form", "power"), [("sample", 1), ("vnet", 2)])
def test_dice_sums_classes_together_and_samples_apart(form, power):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    each = []
    for one, truth in zip(p, TARGET, strict=True):
        both = size = 0.0
        for q, t in zip(one.ravel(), truth.ravel(), strict=True):
            both, size = both + q * t, size + q**power + t**power
        each.append((2 * both + 0.25) / (size + 0.25))
    got = dice(LOGITS, TARGET, form, 0.25)
    assert got == pytest.approx(1 - np.mean(each), rel=1e-6)


def test_half_precision_is_summed_in_float32():
    half = LOGITS.astype(jnp.bfloat16)
    for loss in (binary_cross_entropy, dice):
        got = loss(jnp.asarray(half), TARGET)
        assert got.dtype == jnp.float32
        assert got == loss(half.astype(np.float32), TARGET)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"target must be \[2, 8, 8, 2\]"):
        binary_cross_entropy(LOGITS, TARGET[..., :1])
    with pytest.raises(ValueError, match=r"form is 'soft'.*'sample', 'vnet'"):
        dice(LOGITS, TARGET, form="soft")
