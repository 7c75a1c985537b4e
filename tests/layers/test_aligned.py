import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.layers.aligned import AlignedConv, AlignedEnlarge, AlignedNorm

F32 = jnp.dtype("float32")
GLOROT = nn.initializers.glorot_uniform()
INPUTS, OUTPUTS = (2, 3), (1, 4)
KEY = jax.random.key(0)


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def wide(x, parts):
    """Zeros after the parts of the last axis, up to a multiple of 4."""
    out = np.zeros((*x.shape[:-1], 4 * len(parts)), np.float32)
    for i, part in enumerate(np.split(x, np.cumsum(parts)[:-1], axis=-1)):
        out[..., 4 * i : 4 * i + part.shape[-1]] = part
    return out


def fits(module, plain, x, ours, theirs):
    """Checks that ours has the variables of Flax's layer, and draws some."""
    shapes = jax.eval_shape(functools.partial(plain.init, **theirs), KEY, x)
    made = [
        jax.eval_shape(functools.partial(m.init, **ours), KEY, features)
        for m, features in ((module, x), (module.clone(multiple=4), wide(x, INPUTS)))
    ]
    assert made == [shapes, shapes]
    return jax.tree.map(lambda leaf: 1 + np.abs(draw(*leaf.shape)), shapes)


@pytest.mark.parametrize("size", [1, 3])
def test_convolution_is_flax_s(size):
    x = draw(2, 5, 4, 5)
    module = AlignedConv(INPUTS, OUTPUTS, size, GLOROT, 1, F32)
    plain = nn.Conv(5, (size, size), use_bias=False)
    variables = fits(module, plain, x, {}, {})
    want = plain.apply(variables, x)
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-5, atol=1e-6)
    got = module.clone(multiple=4).apply(variables, wide(x, INPUTS))
    np.testing.assert_allclose(got, wide(want, OUTPUTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_norm_is_flax_s(scale):
    x = 0.5 + draw(2, 5, 4, 5)
    module = AlignedNorm(INPUTS, scale, 0.99, 1e-3, 1, F32)
    plain = nn.BatchNorm(momentum=0.99, epsilon=1e-3, use_scale=scale)
    theirs = {"use_running_average": False}
    variables = fits(module, plain, x, {"train": True}, theirs)
    for train in (False, True):
        run = functools.partial(plain.apply, mutable=["batch_stats"])
        want, state = run(variables, x, use_running_average=not train)
        for multiple in (1, 4):
            run = module.clone(multiple=multiple).apply
            features = x if multiple == 1 else wide(x, INPUTS)
            y, new = run(variables, features, train=train, mutable=["batch_stats"])
            expected = want if multiple == 1 else wide(want, INPUTS)
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
            for name, leaf in state["batch_stats"].items():
                np.testing.assert_allclose(new["batch_stats"][name], leaf, rtol=1e-5)


def test_statistics_begin_at_zero_and_one():
    module = AlignedNorm(INPUTS, True, 0.99, 1e-3, 4, F32)
    made = module.init(KEY, wide(draw(2, 5, 4, 5), INPUTS), train=True)
    for values, first in (
        ("params", ["bias", "scale"]),
        ("batch_stats", ["mean", "var"]),
    ):
        for name, value in zip(first, (0, 1), strict=True):
            np.testing.assert_array_equal(made[values][name], np.full(5, value))


def test_transposed_convolution_by_hand():
    """out[2 i + a, 2 j + b] = in[i, j] K[1 - a, 1 - b] + bias."""
    kernel = np.float32([[1, 2], [3, 4]]).reshape(2, 2, 1, 1)
    variables = {"params": {"kernel": kernel, "bias": np.float32([0.5])}}
    module = AlignedEnlarge((1,), 1, GLOROT, 1, F32)
    x = np.float32([1, 10]).reshape(1, 1, 2, 1)
    want = [[4.5, 3.5, 40.5, 30.5], [2.5, 1.5, 20.5, 10.5]]
    np.testing.assert_array_equal(module.apply(variables, x)[0, :, :, 0], want)


def test_transposed_convolution_is_flax_s():
    x = draw(2, 3, 4, 5)
    module = AlignedEnlarge(INPUTS, 3, GLOROT, 1, F32)
    plain = nn.ConvTranspose(3, (2, 2), strides=(2, 2), padding="VALID")
    variables = fits(module, plain, x, {}, {})
    want = plain.apply(variables, x)
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-5, atol=1e-6)
    got = module.clone(multiple=4).apply(variables, wide(x, INPUTS))
    np.testing.assert_allclose(got, wide(want, (3,)), rtol=1e-5, atol=1e-6)
