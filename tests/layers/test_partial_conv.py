import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.layers.partial_conv import PartialConv, PartialUpsampleConv
from jaxinpaint.ops.partial_conv import partial_conv, partial_upsample_conv

KEY = jax.random.key(0, impl="rbg")  # the default takes seconds to compile
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def sources(*shapes):
    rng = np.random.default_rng(0)
    features = [rng.normal(size=s).astype(np.float32) for s in shapes]
    valids = [np.float32(rng.random((*s[:3], 1)) < 0.6) for s in shapes]
    return features, valids


@pytest.mark.parametrize("use_bias", [False, True])
def test_is_the_operator_with_its_parameters(use_bias):
    features, valids = sources((2, 8, 8, 3), (2, 8, 8, 2))
    layer = PartialConv(6, 5, 2, use_bias, jnp.dtype("float32"))
    params = quick(layer.init)(KEY, features, valids)["params"]
    shapes = {"kernel": (5, 5, 5, 6)} | ({"bias": (6,)} if use_bias else {})
    assert {k: v.shape for k, v in params.items()} == shapes
    if use_bias:
        assert not np.any(params["bias"])
        params["bias"] = jnp.arange(6.0)
    y, valid = quick(layer.apply)({"params": params}, features, valids)
    bias = params.get("bias")
    want = quick(functools.partial(partial_conv, stride=2))(
        features, valids, params["kernel"], bias
    )
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(valid, want[1])


def test_upsampling_is_the_operator_with_its_parameters():
    features, valids = sources((2, 4, 4, 3), (2, 8, 8, 2))
    layer = PartialUpsampleConv(6, True, jnp.dtype("float32"))
    params = quick(layer.init)(KEY, features, valids)["params"]
    params["bias"] = jnp.arange(6.0)
    y, valid = quick(layer.apply)({"params": params}, features, valids)
    want = quick(partial_upsample_conv)(
        features, valids, params["kernel"], params["bias"]
    )
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(valid, want[1])
    assert y.shape == (2, 8, 8, 6)


def test_kernels_begin_as_he_normal():
    features, valids = sources((1, 8, 8, 32))
    layer = PartialConv(64, 3, 1, True, jnp.dtype("float32"))
    kernel = quick(layer.init)(KEY, features, valids)["params"]["kernel"]
    drawn = np.ravel(kernel) * np.sqrt(9 * 32 / 2)
    # Normal: variance 1, fourth moment 3, where one cut at 2 sigma has less.
    np.testing.assert_allclose(np.mean(drawn**2), 1, rtol=0.03)
    np.testing.assert_allclose(np.mean(drawn**4), 3, rtol=0.05)


def test_bfloat16_computes_in_half_and_keeps_the_rest():
    features, valids = sources((2, 8, 8, 3))
    layer = PartialConv(6, 3, 1, True, jnp.dtype("bfloat16"))
    variables = quick(layer.init)(KEY, features, valids)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y, valid = quick(layer.apply)(variables, features, valids)
    assert (y.dtype, valid.dtype) == (jnp.bfloat16, jnp.float32)
    params = variables["params"]
    whole = quick(functools.partial(partial_conv, stride=1))
    want, _ = whole(features, valids, params["kernel"], params["bias"])
    assert np.abs(np.float32(y) - want).max() <= 2e-2 * np.abs(want).max()
