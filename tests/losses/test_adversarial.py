import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.losses.adversarial import (
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    masked_gradient_penalty,
    slopes,
    softplus_discriminator,
    softplus_generator,
)
from tests.losses.grids import A, B


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def linear(params, image):
    return jnp.sum(params["w"][None] * image, axis=(1, 2, 3))


def curved(params, image):
    hidden = jnp.tanh(image.reshape(image.shape[0], -1) @ params["a"])
    return (hidden @ params["b"])[:, 0]


def sample(seed, batch=3, side=4, channels=2):
    rng = np.random.default_rng(seed)
    shape = (batch, side, side, channels)
    real, fake = rng.normal(size=(2, *shape)).astype(np.float32)
    mask = (rng.random((*shape[:3], 1)) < 0.5).astype(np.float32)
    return real, fake, mask, rng.random(batch).astype(np.float32)


def test_linear_critic_by_hand():
    # The slope of a linear critic is its weights: inside the hole 3 and 4, norm 5.
    w = np.zeros((2, 2, 1), np.float32)
    w[0, 0], w[0, 1], w[1, 1] = 3, 4, 100
    mask = np.float32([[[[1], [1]], [[0], [0]]]])
    x = np.ones((1, 2, 2, 1), np.float32)
    got = masked_gradient_penalty(linear, {"w": w}, x, -x, mask, np.float32([0.3]))
    assert got == pytest.approx((5 - 1) ** 2)


def test_gradient_is_reverse_over_reverse():
    real, fake, mask, t = sample(0)
    rng = np.random.default_rng(1)
    params = {
        "a": rng.normal(size=(32, 8)).astype(np.float32),
        "b": rng.normal(size=(8, 1)).astype(np.float32),
    }

    def direct(params):
        mix = t.reshape(-1, 1, 1, 1)
        x = mix * real + (1 - mix) * fake
        norm, _ = slopes(lambda image: curved(params, image), x, mask)
        return jnp.mean((norm - 1) ** 2)

    def ours(params):
        return masked_gradient_penalty(curved, params, real, fake, mask, t)

    want, want_grad = jax.value_and_grad(direct)(params)
    got, got_grad = jax.value_and_grad(ours)(params)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for name in params:
        np.testing.assert_allclose(
            got_grad[name], want_grad[name], rtol=1e-4, atol=1e-5
        )


def test_no_hole_is_finite():
    real, fake, mask, t = sample(2)
    params = {"w": np.ones((4, 4, 2), np.float32)}

    def loss(params):
        return masked_gradient_penalty(linear, params, real, fake, 0 * mask, t)

    value, grad = jax.value_and_grad(loss)(params)
    assert value == pytest.approx(1.0, abs=1e-5)  # slope 1e-6, the floor's root
    assert np.all(np.asarray(grad["w"]) == 0)


def test_hinge_golden_numbers():
    """Specification of FlowInpaint, 5.7: D(real) = a, D(fake) = b."""
    with jax.enable_x64(True):
        both = hinge_discriminator(jnp.asarray(A), jnp.asarray(B))
        assert both == pytest.approx(1.9966145833, abs=1e-10)
        assert hinge_generator(jnp.asarray(B)) == pytest.approx(0.0026041667, abs=1e-10)


def test_a_hinge_beyond_the_margin_is_at_rest():
    # By hand: 1 - 3 < 0 and 1 - 4 < 0 count nothing; 1 - 0.5 and 1 - 0.25 do.
    real, fake = np.float32([3.0, 0.5]), np.float32([-4.0, -0.25])
    assert hinge_discriminator(real, fake) == pytest.approx(0.5 / 2 + 0.75 / 2)
    pulls = jax.grad(hinge_discriminator, argnums=(0, 1))(real, fake)
    np.testing.assert_array_equal(pulls[0], [0.0, -0.5])
    np.testing.assert_array_equal(pulls[1], [0.0, 0.5])


def test_cross_entropy_by_hand():
    # sigmoid(log 3) = 3/4: a true image called 1/4 true costs log 4, one called 3/4
    # true log(4/3); the mean over logits of any shape, then over the two kinds.
    logit = np.log(np.float32(3))
    real, fake = np.float32([[-logit], [logit]]), np.float32([[logit, logit]])
    want = ((np.log(4) + np.log(4 / 3)) / 2 + np.log(4)) / 2
    assert softplus_discriminator(real, fake) == pytest.approx(want, rel=1e-6)
    assert softplus_generator(fake) == pytest.approx(np.log(4 / 3), rel=1e-6)
    zero = np.zeros((3, 1), np.float32)
    assert softplus_discriminator(zero, zero) == pytest.approx(np.log(2), rel=1e-6)
    # Certainty costs what it says, and nothing overflows.
    sure = np.full((1, 1), 200, np.float32)
    assert softplus_generator(-sure) == pytest.approx(200)
    assert jax.grad(softplus_generator)(-sure)[0, 0] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("real", "fake", "own", "other"),
    [(1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.5, 0.25)],
)
def test_least_squares_by_hand(real, fake, own, other):
    """Glomeruli specification, 10.3; two scores for one: means of any shape."""
    real, fake = np.full((2, 2), real, np.float32), np.full((2, 1), fake, np.float32)
    assert least_squares_discriminator(real, fake) == own
    assert least_squares_generator(fake) == other
