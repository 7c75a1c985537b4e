import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxinpaint.ops.warp import warp


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def grid(down, across, modulus, half):
    y, x = np.mgrid[:16, :16]
    return (((down * y + across * x) % modulus) / half - 1)[None, :, :, None]


def constant(flow, shape):
    return jnp.broadcast_to(jnp.asarray(flow), (*shape[:3], 2))


def test_positive_dx_reads_to_the_right():
    image = jnp.float32([0, 1, 2, 3]).reshape(1, 1, 4, 1).repeat(2, axis=1)
    got = warp(image, constant([1.0, 0.0], image.shape), border="edge")
    np.testing.assert_array_equal(got[0, 0, :, 0], [1, 2, 3, 3])
    got = warp(image, constant([1.0, 0.0], image.shape), border="zero")
    np.testing.assert_array_equal(got[0, 0, :, 0], [1, 2, 3, 0])


def test_positive_dy_reads_below():
    image = jnp.float32([0, 1, 2, 3]).reshape(1, 4, 1, 1).repeat(2, axis=2)
    got = warp(image, constant([0.0, 0.5], image.shape), border="edge")
    np.testing.assert_array_equal(got[0, :, 1, 0], [0.5, 1.5, 2.5, 3])


@pytest.mark.parametrize(
    "border, total, places",
    [
        ("edge", -2.025, {(8, 8): 0.35, (0, 0): -0.7, (15, 15): -0.8}),
        ("zero", 0.725, {(8, 8): 0.35, (0, 0): 0.0, (15, 15): 0.0}),
    ],
)
def test_golden_values(border, total, places):  # section 5.7 of the definition
    with jax.enable_x64(True):
        image = jnp.asarray(grid(7, 3, 11, 5))
        got = warp(image, constant([0.5, -1.25], image.shape), border=border)
        assert got.sum() == pytest.approx(total, abs=1e-12)
        for (y, x), value in places.items():
            assert got[0, y, x, 0] == pytest.approx(value, abs=1e-12)


def test_no_flow_changes_nothing():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 3)), jnp.float32)
    for border in ("edge", "zero"):
        got = warp(image, jnp.zeros((2, 7, 5, 2)), border=border)
        np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("border", ["edge", "zero"])
def test_a_short_flow_reaches_every_column(border):
    # 601 is not a number of bfloat16; 0.5 and 1 are.
    image = jnp.arange(602.0).reshape(1, 1, 602, 1).repeat(2, axis=1)
    still = jnp.zeros((1, 2, 602, 2), jnp.bfloat16)
    np.testing.assert_array_equal(warp(image, still, border=border), image)
    half = warp(image, still.at[..., 0].set(-0.5), border=border)
    np.testing.assert_array_equal(half[0, 1, 1:, 0], image[0, 1, 1:, 0] - 0.5)
    slope = jax.grad(lambda flow: jnp.sum(warp(image, flow, border=border)))(
        still.at[..., 0].set(-0.5)
    )
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slope[0, 0, 1:, 0].astype(jnp.float32), 1)


def test_equals_scipy_inside_and_out():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        image = rng.normal(size=(2, 9, 12, 2))
        flow = rng.normal(size=(2, 9, 12, 2)) * 4
        y, x = np.mgrid[:9, :12]
        for border in ("edge", "zero"):
            got = warp(jnp.asarray(image), jnp.asarray(flow), border=border)
            for b in range(2):
                at = np.stack([y + flow[b, ..., 1], x + flow[b, ..., 0]])
                outside = (at < 0) | (at > np.array([8, 11])[:, None, None])
                for c in range(2):
                    want = map_coordinates(
                        image[b, ..., c], at, order=1, mode="nearest"
                    )
                    if border == "zero":
                        want[outside.any(axis=0)] = 0
                    np.testing.assert_allclose(got[b, ..., c], want, atol=1e-12)


@pytest.mark.parametrize("border", ["edge", "zero"])
def test_gradients_against_finite_differences(border):
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        image = jnp.asarray(rng.normal(size=(2, 6, 7, 3)))
        flow = rng.normal(size=(2, 6, 7, 2)) * 3
        whole = np.rint(flow)  # a kink: keep away from it
        flow = jnp.asarray(np.where(abs(flow - whole) < 0.05, whole + 0.2, flow))
        weight = jnp.asarray(rng.normal(size=image.shape))

        def loss(image, flow):
            return jnp.sum(warp(image, flow, border=border) ** 2 * weight)

        grads = jax.grad(loss, (0, 1))(image, flow)
        assert all(float(jnp.abs(g).max()) > 0.1 for g in grads)
        for seed in range(4):
            rng = np.random.default_rng(seed)
            step = [jnp.asarray(rng.normal(size=x.shape)) for x in (image, flow)]
            for one, grad in zip(((1, 0), (0, 1)), grads, strict=True):
                a = [
                    x + 1e-6 * k * d
                    for x, k, d in zip((image, flow), one, step, strict=True)
                ]
                b = [
                    x - 1e-6 * k * d
                    for x, k, d in zip((image, flow), one, step, strict=True)
                ]
                want = (loss(*a) - loss(*b)) / 2e-6
                got = jnp.sum(grad * step[one.index(1)])
                assert got == pytest.approx(float(want), rel=1e-6)


def test_images_of_a_batch_do_not_meet():
    image = jnp.asarray(np.random.default_rng(3).normal(size=(3, 6, 6, 1)), jnp.float32)
    flow = constant([30.0, -30.0], image.shape)

    def second(image):
        return warp(image, flow, border="edge")[1].sum()

    grad = np.asarray(jax.grad(second)(image))
    assert grad[1, 0, 5, 0] == 36
    assert np.count_nonzero(grad) == 1


def test_a_flow_that_is_no_number_stays_in_its_pixel():
    image = jnp.ones((1, 4, 4, 1))
    flow = jnp.zeros((1, 4, 4, 2)).at[0, 1, 2, 0].set(jnp.nan)
    bad = np.isnan(warp(image, flow, border="edge")[0, ..., 0])
    assert bad[1, 2] and bad.sum() == 1


@pytest.mark.parametrize(
    "image, flow, border, match",
    [
        ((1, 4, 4, 1), (1, 4, 4, 3), "edge", "flow must be"),
        ((1, 4, 4, 1), (1, 4, 5, 2), "edge", "flow must be"),
        ((1, 1, 4, 1), (1, 1, 4, 2), "edge", "needs 2 x 2"),
        ((1, 4, 4, 1), (1, 4, 4, 2), "black", "'black'"),
    ],
)
def test_bad_input(image, flow, border, match):
    with pytest.raises(ValueError, match=match):
        warp(jnp.zeros(image), jnp.zeros(flow), border=border)
