"""Compiling dominates most tests, so the compiler is told not to try hard."""

import functools

import jax

quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
