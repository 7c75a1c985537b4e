"""RNON's networks as its tests make them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.models.rnon import (
    Discriminator,
    OptimizationGenerator,
    RepairGenerator,
)

FLOAT = jnp.dtype("float32")
WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)
KERNELS = (7, 5, 5, 3, 3, 3, 3, 3)
JUDGES = (64, 64, 128, 128, 256, 256, 512, 512)
RATES = (1, 2, 4, 8)
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def repair(widths=WIDTHS, kernels=KERNELS, upsample="nearest", dtype=FLOAT):
    return RepairGenerator(widths, kernels[: len(widths)], upsample, dtype)


def judge(widths=JUDGES, hidden=1024, fc_input="flatten", dtype=FLOAT):
    return Discriminator(widths, hidden, fc_input, dtype)


def optimize(width=32, blocks=16, **changed):
    fields = {"rates": RATES, "fusion_kernel": 3, "norm": "none"}
    fields |= {"image_residual": False, "remat": True, "dtype": FLOAT}
    return OptimizationGenerator(width, blocks, **(fields | changed))


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


IMAGE, MASK = spec(1, 256, 256, 3), spec(1, 256, 256, 1)


def abstract(net, *arrays):
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), *arrays)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): leaf for path, leaf in leaves}


def random_variables(shapes, seed):
    """Signals stay alive through ReLU; biases, scales and statistics count."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name or "var" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 200
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
