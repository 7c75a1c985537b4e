import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.unet import get_config
from jaxinpaint.core.checks import InpaintInputError
from jaxinpaint.systems import unet


def batch(seed=0, size=64):
    rng = np.random.default_rng(seed)
    out = {
        name: jnp.asarray(rng.uniform(-1, 1, (2, size, size, 1)), jnp.float32)
        for name in unet.SECTIONS
    }
    return out | {"mask": jnp.zeros((2, size, size, 1)).at[:, 8:20, 10:26].set(1.0)}


def test_the_loss_is_l1_alone_weighted_by_region():
    config = get_config("smoke")
    config.loss.hole_weight, config.loss.valid_weight = 3.0, 0.5
    system = unet.build(config)
    state = jax.jit(system.init)(jax.random.key(0))
    given = batch()
    raw = system.predict(state.variables, {}, given, jax.random.key(1))["raw"]
    assert np.abs(raw).max() < 1.0  # so that the clip of `predict` changed nothing
    error, hole = np.abs(raw - given["image"]), np.asarray(given["mask"] > 0)
    want = 3.0 * error[hole].mean() + 0.5 * error[~hole].mean()
    _, logs = jax.jit(system.update)(state, {}, given, jax.random.key(1))
    assert logs["loss/generator"] == pytest.approx(float(want), rel=1e-5)


def test_it_learns_the_mean_of_its_neighbours():
    config = get_config("smoke")
    config.optimizer.schedule, config.optimizer.learning_rate = "constant", 3e-3
    system = unet.build(config)
    state = jax.jit(system.init)(jax.random.key(0))
    update, losses = jax.jit(system.update), []
    for step in range(150):
        given = batch(step, size=32)
        given["image"] = (given["previous"] + given["following"]) / 2
        state, logs = update(state, {}, given, jax.random.key(step))
        losses.append(float(logs["loss/hole"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_a_section_that_is_missing_whole_is_told():
    given = {name: np.asarray(array) for name, array in batch().items()}
    mask = given["mask"].copy()
    mask[1] = 1
    with pytest.warns(UserWarning, match="sample 1 of mask is all hole"):
        unet.validate_inputs("restore", given | {"mask": mask})


@pytest.mark.parametrize(
    "change, match",
    [
        ({"following": None}, "following is missing"),
        ({"previous": np.zeros((2, 64, 32, 1), np.uint8)}, "previous must be"),
        ({"mask": np.full((2, 64, 64, 1), 2, np.uint8)}, "mask"),
        ({"previous": np.full((2, 64, 64, 1), np.nan, np.float32)}, "previous"),
    ],
)
def test_bad_input(change, match):
    given = {name: np.asarray(array) for name, array in batch().items()}
    with pytest.raises(InpaintInputError, match=match):
        unet.validate_inputs("restore", given | change)
