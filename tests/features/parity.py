"""What tests of the feature networks share: ours and our PyTorch ports side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.load import read_torch

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def shapes(module, *sides):
    """Of the taps and of the variables, for one image of these sides."""
    spec = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), spec)


def images(shape, kind="float32", seed=0):
    """Noise in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(kind)


def imagenet(image):
    """What torchvision's networks are given for an image in [-1, 1]."""
    return (((image + 1) / 2 - MEAN) / STD).astype(image.dtype)


def through_file(port, path):
    """A port's tensors out of a file in PyTorch's old format, as the public ones."""
    torch = pytest.importorskip("torch")
    torch.save(port.state_dict(), path, _use_new_zipfile_serialization=False)
    return read_torch(path)


def theirs(trunk, forward, levels):
    """Runs a port on levels [B, H, W, 3], in their dtype.

    Args:
      trunk: the modules that `forward` uses; they are of that dtype from then on.
      forward: [B, 3, H, W] -> name to tensor.
      levels: normalised.

    Returns:
      Name to array, channels last.
    """
    torch = pytest.importorskip("torch")
    nchw = torch.from_numpy(np.ascontiguousarray(levels.transpose(0, 3, 1, 2)))
    trunk.to(nchw.dtype)
    with torch.no_grad():
        found = forward(nchw)
    return {name: np.moveaxis(x.numpy(), 1, -1) for name, x in found.items()}


def ours(module, variables, image):
    """Runs one of our networks, all in the dtype of the image."""
    with jax.enable_x64(image.dtype == np.float64):
        variables = jax.tree.map(lambda x: jnp.asarray(x, image.dtype), variables)
        found = quick(module.apply)(variables, image)
    return {name: np.asarray(x) for name, x in found.items()}


def expect_same(found, wants, bound):
    """Compares tensors by name, relative to the largest value of each."""
    assert found.keys() == wants.keys()
    for name, want in wants.items():
        assert found[name].dtype == want.dtype, name
        # Neither dead nor blown up, or the comparison would say little.
        assert 0.1 < np.abs(want).max() < 300, name
        expect_close(found[name], want, bound, name)


def expect_close(got, want, bound, name):
    """Compares two arrays relative to the largest value."""
    assert got.shape == want.shape, name
    assert np.abs(got - want).max() <= bound * np.abs(want).max(), name


def drawn(module, side):
    """Random variables of a network with batch norms, and an image."""
    _, template = shapes(module, side, side)
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.uniform(-0.5, 1.0, x.shape), x.dtype)
    variables = jax.tree.map(fill, dict(template))
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return variables, images((1, side, side, 3), seed=1)


def expect_close_in_bfloat16(run):
    """Compares run(dtype), one tensor, with itself in float32."""
    want = np.asarray(run(jnp.float32))
    with jax.numpy_dtype_promotion("standard"):  # Flax's norm mixes dtypes
        half = run(jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - want).max()
    assert 0 < error < 2e-2 * np.abs(want).max()


def order_of_taps(module, side):
    """The names of what a network returns, before a transformation sorts them."""
    names = []

    def read(image):
        names.extend(module.init_with_output(jax.random.key(0), image)[0])

    jax.eval_shape(read, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    return names
