import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.layers.patchgan import patch_gan


class Stack(nn.Module):
    count: int

    @nn.compact
    def __call__(self, x):
        widths = (2,) * self.count
        return patch_gan(x, widths, jnp.dtype("float32"), train=False)[0]


def rows_seen(count, size, logit):
    """First and last row that a logit of the first column has a gradient from."""
    net = Stack(count)
    image = jnp.ones((1, *size, 1))
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    # No term cancels another: all is positive.
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), variables)
    run = jax.jit(jax.grad(lambda x: net.apply(variables, x)[0, logit, 0, 0]))
    rows = np.flatnonzero(np.asarray(run(image)).any((0, 2, 3)))
    assert len(rows) == rows[-1] - rows[0] + 1
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize(
    "count, size, logit, want",
    [
        (4, (112, 32), 4, (9, 78)),  # 70: 8 * 4 - 23 and on
        (6, (352, 96), 4, (33, 318)),  # 286: 32 * 4 - 95 and on
        # On 256 x 256 a logit in the middle sees all rows but one, two logits all.
        (6, (256, 96), 2, (0, 254)),
        (6, (256, 96), 3, (1, 255)),
    ],
)
def test_receptive_field(count, size, logit, want):
    assert rows_seen(count, size, logit) == want
