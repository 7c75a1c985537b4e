import jax
import numpy as np
import pytest

from jaxinpaint.core.schedules import schedule


def rates(kind, at, steps=100, warmup=0, final=0.1):
    made = jax.jit(jax.vmap(schedule(kind, 2e-3, steps, warmup, final)))
    return made(np.asarray(at))


@pytest.mark.parametrize(
    ("kind", "at", "expected"),
    [
        ("constant", [0, 50, 500], [2e-3, 2e-3, 2e-3]),
        ("linear", [0, 25, 50, 100, 500], [2e-3, 1.55e-3, 1.1e-3, 2e-4, 2e-4]),
        # 0.1 + 0.9 (1 + cos(pi t / 100)) / 2: 1, 0.55 + 0.225 sqrt 2, 0.55, 0.1
        ("cosine", [0, 25, 50, 100, 500], [2e-3, 1.7363961e-3, 1.1e-3, 2e-4, 2e-4]),
    ],
)
def test_the_fall_is_as_by_hand(kind, at, expected):
    np.testing.assert_allclose(rates(kind, at), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_a_warm_up_rises_from_zero_and_is_part_of_the_steps(kind):
    got = rates(kind, [0, 1, 10, 20, 60, 100], warmup=20)
    np.testing.assert_allclose(got[:4], [0, 1e-4, 1e-3, 2e-3], rtol=1e-6)
    middle, end = (2e-3, 2e-3) if kind == "constant" else (1.1e-3, 2e-4)
    np.testing.assert_allclose(got[4:], [middle, end], rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_a_warm_up_as_long_as_the_run_is_finite(kind):
    got = rates(kind, range(12), steps=10, warmup=10)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:11], np.arange(11) * 2e-4, rtol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="is 'step'; .*'constant', 'cosine'"):
        schedule("step", 1e-3, 10, 0, 0.0)


def test_pieces_fall_at_their_boundaries():
    falling = schedule("piecewise", 2e-3, 100, 0, 0.0, boundaries=(10, 30), factor=0.1)
    got = jax.vmap(falling)(np.asarray([0, 9, 10, 29, 30, 500]))
    np.testing.assert_allclose(got, [2e-3, 2e-3, 2e-4, 2e-4, 2e-5, 2e-5], rtol=1e-5)


def test_a_warm_up_does_not_move_the_boundaries():
    rising = schedule("piecewise", 2e-3, 100, 4, 0.0, boundaries=(10,), factor=0.5)
    got = jax.vmap(rising)(np.asarray([0, 2, 4, 9, 10]))
    np.testing.assert_allclose(got, [0, 1e-3, 2e-3, 2e-3, 1e-3], rtol=1e-5)
