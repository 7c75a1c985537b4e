"""Whether what is about to be timed computes the right images."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import inputs
from jaxinpaint import systems
from jaxinpaint.core.system import System, Variables

CHECK_SIZES = (64, 128, 256)  # float64 is slow: the first that the network takes
BOUNDS = {
    "float32": 1e-5,  # against float64
    "float32_default": 1e-3,  # TF32 and its like
    "bfloat16": 2e-2,
}


class WrongAnswerError(ValueError):
    """A program computes something else than its reference."""


def with_dtype(config: ConfigDict, dtype: str) -> ConfigDict:
    """The config with every key called `dtype` set.

    Raises:
      ValueError: it has no such key.
    """
    changed = config.copy_and_resolve_references()

    def visit(node: ConfigDict) -> int:
        found = 0
        for name, value in node.items():
            if isinstance(value, ConfigDict):
                found += visit(value)
            elif name == "dtype":
                node[name] = dtype
                found += 1
        return found

    if visit(changed) == 0:
        raise ValueError(
            f"--dtype={dtype}: no key of the config is called dtype; leave the flag "
            "out to time the system as it is."
        )
    return changed


def bound_of(dtype: str, precision: str) -> float:
    """The largest relative error of a program on this device."""
    exact = precision == "highest" or jax.default_backend() == "cpu"
    return BOUNDS["float32_default" if dtype == "float32" and not exact else dtype]


def relative_error(got: Any, expected: Any, counts: np.ndarray) -> float:
    """||got - expected|| / ||expected|| over the values that count."""
    a, b = (np.asarray(x, np.float64) for x in (got, expected))
    where = np.broadcast_to(counts, b.shape)
    return float(np.linalg.norm((a - b)[where]) / np.linalg.norm(b[where]))


def completed_of(where: str, output: Mapping[str, Any]) -> Any:
    """The image that every `predict` returns.

    Raises:
      WrongAnswerError: this one does not.
    """
    if "completed" not in output:
        raise WrongAnswerError(f"{where}: predict returns no `completed` image.")
    return output["completed"]


def check_output(
    where: str, output: Mapping[str, Any], levels: Mapping[str, np.ndarray], image: Any
) -> np.ndarray:
    """Checks what needs no reference; returns the pixels that were filled.

    Args:
      where: the program, for the message.
      output: of `predict`.
      levels: of the input.
      image: the input image as the program saw it.

    Raises:
      WrongAnswerError: no `completed`, a value that is not finite, a constant fill,
        or a valid pixel that changed by a bit.
    """
    completed = np.asarray(completed_of(where, output))
    for name, array in output.items():
        if not np.isfinite(np.asarray(array, np.float64)).all():
            raise WrongAnswerError(f"{where}: {name} has values that are not finite.")
    hole = np.ones_like(completed, bool)
    if "mask" in levels:
        hole = np.broadcast_to(levels["mask"] > 0, completed.shape)
        if completed[~hole].tobytes() != np.asarray(image)[~hole].tobytes():
            raise WrongAnswerError(f"{where}: a pixel outside the hole has changed.")
    if np.asarray(completed[hole], np.float64).std() == 0.0:
        raise WrongAnswerError(f"{where}: the fill is constant.")
    return hole


def float64_reference(
    config: ConfigDict, system: System, variables: Variables, frozen: Variables
) -> dict[str, Any]:
    """Compares a small image with the same network in float64 on the CPU.

    Args:
      config: of the run.
      system: built from it.
      variables: of the run.
      frozen: likewise.

    Returns:
      `size`, `error` over the filled pixels; or `unavailable`, why there is none.
    """
    try:
        exact = systems.build(with_dtype(config, "float64"))
        cpu = jax.devices("cpu")[0]
    except (ValueError, RuntimeError) as error:
        return {"unavailable": str(error)}
    key, reason = jax.random.key(0), ""
    for size in CHECK_SIZES:
        spec = inputs.shapes(system.batch_spec, size, 1)
        levels = inputs.draw(spec, seed=0)
        batch = inputs.to_batch({n: jnp.asarray(a) for n, a in levels.items()}, spec)
        try:
            got = jax.jit(system.predict)(variables, frozen, batch, key)
        except ValueError as error:
            reason = str(error)
            continue
        # Typed keys do not pass through numpy; everything else leaves its device.
        host = jax.tree.map(np.asarray, (variables, frozen, dict(batch)))
        with jax.default_device(cpu), jax.enable_x64(True):
            expected = jax.jit(exact.predict)(*host, jax.random.key(0))
        hole = check_output("float64", expected, levels, host[2].get("image"))
        error = relative_error(got["completed"], expected["completed"], hole)
        return {"size": size, "error": error}
    return {"unavailable": reason}
