import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.ops.cost_volume import cost_volume


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def loops(first, second, m):
    b, h, w, c = first.shape
    out = np.zeros((b, h, w, (2 * m + 1) ** 2))
    for y in range(h):
        for x in range(w):
            for dy in range(-m, m + 1):
                for dx in range(-m, m + 1):
                    if 0 <= y + dy < h and 0 <= x + dx < w:
                        d = (2 * m + 1) * (dy + m) + dx + m
                        product = first[:, y, x] * second[:, y + dy, x + dx]
                        out[:, y, x, d] = product.sum(axis=-1) / c
    return out


def pair(shape, dtype=np.float64):
    rng = np.random.default_rng(sum(shape))
    return [rng.normal(size=shape).astype(dtype) for _ in range(2)]


@pytest.mark.parametrize(
    "shape, m",
    [((2, 5, 7, 3), 4), ((1, 3, 37, 2), 4), ((1, 9, 16, 1), 1), ((1, 4, 20, 2), 9)],
)
def test_equals_loops(shape, m):
    with jax.enable_x64(True):
        first, second = pair(shape)
        got = cost_volume(jnp.asarray(first), jnp.asarray(second), max_displacement=m)
        np.testing.assert_allclose(got, loops(first, second, m), atol=1e-13)


def test_golden_values():  # section 5.7 of the definition
    y, x = np.mgrid[:16, :16]
    a, b = (7 * y + 3 * x) % 11 / 5 - 1, (5 * y + 2 * x) % 13 / 6 - 1
    with jax.enable_x64(True):
        first, second = jnp.asarray([[a, b], [b, a]]).transpose(0, 2, 3, 1)[:, None]
        got = cost_volume(first, second, max_displacement=4)[0]
        want = {
            (8, 8, 0): 0.0666666667,
            (8, 8, 40): 0.1333333333,
            (8, 8, 44): -0.1666666667,
            (8, 8, 80): -0.1666666667,
            (0, 0, 0): 0.0,
            (0, 0, 80): 0.1333333333,
        }
        for place, value in want.items():
            assert got[place] == pytest.approx(value, abs=1e-10)
        assert got.mean() == pytest.approx(-1.28600823e-5, rel=1e-8)


def test_the_middle_channel_is_the_mean_square():
    first, _ = pair((1, 6, 6, 5), np.float32)
    got = cost_volume(jnp.asarray(first), jnp.asarray(first), max_displacement=4)
    np.testing.assert_allclose(got[..., 40], (first**2).mean(axis=-1), rtol=1e-6)


def test_a_shifted_map_peaks_at_its_shift():
    first, _ = pair((1, 20, 24, 64), np.float32)
    dx, dy = 3, -2
    second = np.roll(first, (dy, dx), axis=(1, 2))
    got = cost_volume(jnp.asarray(first), jnp.asarray(second), max_displacement=4)
    inner = np.asarray(got)[0, 5:-5, 5:-5]
    assert (inner.argmax(axis=-1) == 9 * (dy + 4) + dx + 4).all()


def test_gradients_against_finite_differences():
    with jax.enable_x64(True):
        first, second = (jnp.asarray(x) for x in pair((2, 5, 19, 3)))
        weight = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 19, 81)))

        def loss(first, second):
            return jnp.sum(cost_volume(first, second, max_displacement=4) ** 2 * weight)

        grads = jax.grad(loss, (0, 1))(first, second)
        for i, grad in enumerate(grads):
            step = jnp.asarray(np.random.default_rng(i + 1).normal(size=first.shape))
            ends = []
            for sign in (1e-5, -1e-5):
                moved = [first, second]
                moved[i] = moved[i] + sign * step
                ends.append(loss(*moved))
            want = (ends[0] - ends[1]) / 2e-5
            assert jnp.sum(grad * step) == pytest.approx(float(want), rel=1e-7)


@pytest.mark.parametrize(
    "shape", [(2, 128, 128, 16), (2, 64, 64, 32), (1, 32, 32, 64), (1, 128, 192, 16)]
)
def test_memory_holds_little_besides_arguments_and_result(shape):
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    cotangent = jax.ShapeDtypeStruct((*shape[:3], 81), jnp.float32)

    def forward(first, second):
        return cost_volume(first, second, max_displacement=4)

    def backward(first, second, g):
        return jax.vjp(forward, first, second)[1](g)

    for function, specs in (
        (forward, [spec] * 2),
        (backward, [spec] * 2 + [cotangent]),
    ):
        memory = jax.jit(function).lower(*specs).compile().memory_analysis()
        known = memory.argument_size_in_bytes + memory.output_size_in_bytes
        assert memory.temp_size_in_bytes <= 0.3 * known


def test_bfloat16_sums_in_float32():
    first, second = pair((1, 6, 20, 200), np.float32)
    want = cost_volume(jnp.asarray(first), jnp.asarray(second), max_displacement=4)
    half = [jnp.asarray(x).astype(jnp.bfloat16) for x in (first, second)]
    got = cost_volume(*half, max_displacement=4)
    assert got.dtype == jnp.bfloat16
    error = np.abs(got.astype(jnp.float32) - want).max()
    assert error < 2e-2 * np.abs(want).max()


def test_bad_input():
    with pytest.raises(ValueError, match="second must be"):
        cost_volume(
            jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 3)), max_displacement=4
        )
    with pytest.raises(ValueError, match="at least 1"):
        cost_volume(
            jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 2)), max_displacement=0
        )
