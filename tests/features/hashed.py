"""Deterministic filling of tensors (glomeruli specification 10.1)."""

import jax
import numpy as np


def uniform(shape, offset=0):
    """An integer hash of the flat index, in 0..1, float64."""
    x = np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(offset + 1)
    x ^= x >> 16
    x *= np.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= np.uint32(0x846CA68B)
    x ^= x >> 16
    return ((x + 0.5) / 2.0**32).reshape(shape)


def image(shape, offset=0):
    return (2 * uniform(shape, offset) - 1).astype(np.float32)


def params(template):
    """Kernels (2u - 1) sqrt(6 / fan_in), biases 0.01 (2u - 1)."""

    def fill(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        scale = 0.01 if path[-1].key == "bias" else np.sqrt(6.0 / fan_in)
        return (scale * (2 * uniform(leaf.shape) - 1)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, template)


def variables(template):
    """All collections: norms that change nothing, and the rules of `params`.

    The gain of a self-attention is 0.5, a table of relative positions 0.02 (2u - 1).
    """
    constant = {"scale": 1.0, "mean": 0.0, "var": 1.0, "gamma": 0.5}

    def fill(path, leaf):
        name = path[-1].key
        if name in constant:
            return np.full(leaf.shape, constant[name], np.float32)
        if name == "relative_position_bias":
            return (0.02 * (2 * uniform(leaf.shape) - 1)).astype(np.float32)
        return params({name: leaf})[name]

    return jax.tree_util.tree_map_with_path(fill, template)


def expect_summary(got, mean, std, least, largest, tolerance):
    """Compares with a row of the table of section 10.2."""
    summary = [got.mean(), got.std(), got.min(), got.max()]
    np.testing.assert_allclose(
        summary, [mean, std, least, largest], rtol=0, atol=tolerance
    )
