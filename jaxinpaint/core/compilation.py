"""Compiled programs outlive the process that compiled them."""

from pathlib import Path

import jax

LIMIT = 2 * 2**30  # bytes; what was not used for longest goes first
LEAST_SECONDS = 0.5  # of compiling; what is quicker is compiled again


def keep_programs(folder: Path) -> None:
    """Keeps what this process compiles, and takes what earlier ones left.

    Where JAX was already told of a folder, JAX_COMPILATION_CACHE_DIR for one, that
    choice stands; JAX_ENABLE_COMPILATION_CACHE=false turns all of it off. A program is
    found again by its code, its options, the devices and the versions.

    Args:
      folder: of all runs of this person; made when it is needed.
    """
    if jax.config.read("jax_compilation_cache_dir") is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LIMIT)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
