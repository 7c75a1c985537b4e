import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.checks import UnalignedSizeError
from jaxinpaint.models.unet import UNet

F32 = jnp.dtype("float32")


def arrays(size, neighbors=2):
    rng = np.random.default_rng(0)
    make = lambda c: jnp.asarray(rng.normal(size=(1, size, size, c)), jnp.float32)
    return make(1), (make(1) > 0.5).astype(jnp.float32), make(neighbors)


def test_parameters_by_hand():
    net = UNet((4, 8), 1, F32)
    params = jax.eval_shape(net.init, jax.random.key(0), *arrays(16))["params"]
    got = {name: layer["kernel"].shape for name, layer in params.items()}
    assert got == {
        "down0_conv0": (3, 3, 4, 4),
        "down0_conv1": (3, 3, 4, 4),
        "down1_conv0": (3, 3, 4, 8),
        "down1_conv1": (3, 3, 8, 8),
        "rise0": (3, 3, 8, 4),
        "up0_conv0": (3, 3, 8, 4),
        "up0_conv1": (3, 3, 4, 4),
        "out": (3, 3, 4, 1),
    }


def test_a_pixel_sees_as_far_as_its_convolutions_reach():
    net = UNet((2, 2), 1, F32)
    image, mask, neighbors = arrays(32)
    params = net.init(jax.random.key(0), image, mask, neighbors)
    params = jax.tree.map(jnp.abs, params)  # no term can cancel another

    def middle(neighbors):
        return net.apply(params, image, mask, neighbors)[0, 16, 16, 0]

    seen = np.abs(jax.grad(middle)(jnp.abs(neighbors))).sum(axis=(0, 3)) > 0
    rows = np.flatnonzero(seen.any(axis=1))
    # Row 16: out and the upper pair read 13..19, the enlarging convolution 12..20,
    # which are 6..10 at half size; the lower pair there reads 4..12, which is 8..25
    # before pooling; the first pair reads two rows more on each side.
    assert (rows[0], rows[-1]) == (6, 27)


def test_the_hole_is_not_read():
    net = UNet((2, 2), 1, F32)
    image, mask, neighbors = arrays(16)
    params = net.init(jax.random.key(0), image, mask, neighbors)
    other = jnp.where(mask > 0, jnp.nan, image)
    got = net.apply(params, other, mask, neighbors)
    np.testing.assert_array_equal(got, net.apply(params, image, mask, neighbors))


def test_a_size_that_does_not_halve_is_refused():
    with pytest.raises(UnalignedSizeError, match="multiple"):
        UNet((2, 2, 2), 1, F32).init(jax.random.key(0), *arrays(18))
