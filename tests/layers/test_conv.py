import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.layers.conv import UpsampleConv


def test_enlarges_then_convolves():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 3)), jnp.float32)
    module = UpsampleConv(6, nn.initializers.he_normal(), jnp.dtype("float32"))
    variables = module.init(jax.random.key(0), x)
    assert not np.any(variables["params"]["bias"])
    variables["params"]["bias"] = jnp.arange(6.0)
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    want = nn.Conv(6, (3, 3)).apply(variables, large)
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-5, atol=1e-5)
