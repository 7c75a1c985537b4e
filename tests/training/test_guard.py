"""Updates that are not finite: never applied, counted, and in the end an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.system import TrainState
from jaxinpaint.training.guard import BadUpdates, NonFiniteError, guarded
from tests.training import toy

NOT_FINITE = [np.nan, np.inf, -np.inf]
PLACES = ["parameter", "statistics", "moment", "loss"]


def state():
    return TrainState(
        jnp.int32(4),
        {"g": {"params": jnp.float32([1, 2]), "batch_stats": jnp.float32([3])}},
        {"g": {"mu": jnp.float32([5, 6]), "count": jnp.int32(4)}},
    )


def update(old, place, value):
    """Adds 1 to everything, then puts `value` at one place."""
    at = {name: jnp.float32(value if name == place else 0.0) for name in PLACES}
    new = jax.tree.map(lambda x: x + 1, old)
    g, opt = new.variables["g"], new.opt_state["g"]
    new = TrainState(
        new.step,
        {
            "g": {
                "params": g["params"].at[1].add(at["parameter"]),
                "batch_stats": g["batch_stats"] + at["statistics"],
            }
        },
        {"g": {"mu": opt["mu"].at[0].add(at["moment"]), "count": opt["count"]}},
    )
    return new, {"loss/g": 2.0 + at["loss"]}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", PLACES)
def test_one_number_that_is_not_finite_undoes_the_update(place, value):
    safe = jax.jit(guarded(lambda old, *_: update(old, place, value)))
    new, scalars = safe(state(), {}, {}, None)
    assert (new.step, scalars["bad_update"]) == (5, 1.0)
    jax.tree.map(np.testing.assert_array_equal, new.variables, state().variables)
    jax.tree.map(np.testing.assert_array_equal, new.opt_state, state().opt_state)


def test_a_finite_update_is_applied_as_it_is():
    safe = jax.jit(guarded(lambda old, *_: update(old, "loss", 0.0)))
    new, scalars = safe(state(), {}, {}, None)
    assert (scalars["bad_update"], scalars["loss/g"]) == (0.0, 2.0)
    expected = jax.tree.map(lambda x: x + 1, state())
    jax.tree.map(np.testing.assert_array_equal, new, expected)


def changed(workdir, one, other):
    """Paths of the leaves that differ between two checkpoints."""
    one, other = toy.leaves(workdir, one), toy.leaves(workdir, other)
    return {path for path in one if one[path] != other[path]}


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_bad_step_is_skipped_and_the_next_one_proceeds(tmp_path, value):
    of = toy.system(bad=(2,), value=value)
    saves = {"train__save_every": 1, "train__keep_latest": 9}
    assert toy.run(tmp_path, of=of, steps=5, **saves) == (5, 0)
    everything = set(toy.leaves(tmp_path, 1))
    assert changed(tmp_path, 2, 3) == {"step"}
    for one in (1, 3, 4):
        assert changed(tmp_path, one, one + 1) == everything
    skipped = toy.records(tmp_path, "skipped_updates")
    assert [number for _, _, number in skipped] == [0, 0, 1, 1, 1]
    assert toy.records(tmp_path)[2] == (3, "loss/generator", None)


def test_a_bad_step_is_logged_off_the_interval(tmp_path):
    toy.run(tmp_path, of=toy.system(bad=(2,)), train__log_every=100)
    assert [step for step, _, _ in toy.records(tmp_path)] == [3, 6]


def test_ten_in_a_row_end_the_run_also_across_a_restart(tmp_path):
    of = toy.system(bad=tuple(range(4, 30)))
    stopped = toy.run(tmp_path, of=of, steps=8)
    assert stopped == (8, 0)
    with pytest.raises(NonFiniteError, match="10 of the last 14 .* at step 14; none"):
        toy.run(tmp_path, of=of, steps=30)
    assert toy.steps_saved(tmp_path)[-2:] == [9, 12]
    assert changed(tmp_path, 9, 12) == {"step"}
    skipped = toy.records(tmp_path, "skipped_updates")
    assert skipped[-1] == (13, "skipped_updates", 9)


def test_nine_in_a_row_are_borne():
    bad = BadUpdates(0, ())
    for step in range(1, 10):
        bad.record(True, step)
    bad.record(False, 10)
    for step in range(11, 20):
        bad.record(True, step)
    assert bad.total == 18
    with pytest.raises(NonFiniteError, match="19 of the last 20 "):
        bad.record(True, 20)


def test_fifty_of_a_thousand_are_too_many():
    """Every twentieth step: the fiftieth is step 1000."""
    bad = BadUpdates(0, ())
    for step in range(1, 1000):
        bad.record(step % 20 == 0, step)
    again = BadUpdates(bad.total, bad.recent)  # a restart in between
    with pytest.raises(NonFiniteError, match="50 of the last 1000 .* at step 1000"):
        again.record(True, 1000)


def test_fewer_than_fifty_of_a_thousand_are_borne_for_ever():
    """Every twenty-first step: at most 48 in any 1000."""
    bad = BadUpdates(0, ())
    for step in range(1, 5001):
        bad.record(step % 21 == 0, step)
    assert bad.total == 5000 // 21
    assert len(bad.recent) <= 48
