"""Whether what is about to be timed computes the right images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import inputs
from jaxinpaint import systems
from jaxinpaint.core.system import Batch, System, Variables

CHECK_SIZES = (64, 128, 256)  # float64 is slow: the first that the network takes
BOUNDS = {
    "float32": 1e-5,  # against float64
    "float32_default": 1e-3,  # TF32 and its like
    "bfloat16": 4e-2,  # some forty layers round in a row: 2**-8 * sqrt(40) is 2.5e-2
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

    Returns:
      bool, shaped like `completed`; true everywhere for a system without a mask.

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


class Subject(NamedTuple):
    """What is checked: the system, its config with `dtype` set, and the precision."""

    config: ConfigDict
    dtype: str
    precision: str
    system: System


def check(
    subject: Subject,
    weights: tuple[Variables, Variables],
    sets: Sequence[inputs.Inputs],
    device_call: Callable[[inputs.Inputs], Batch],
    host_call: Callable[[inputs.Inputs], np.ndarray],
) -> dict[str, Any]:
    """Compares the two programs that will be timed with references.

    Args:
      subject: the system.
      weights: variables and frozen variables.
      sets: at least two input sets.
      device_call: boundary (a), as it will be timed.
      host_call: boundary (b).

    Returns:
      Errors and their bound, as JSON values.

    Raises:
      WrongAnswerError: one is larger, or an output is no fill of its input.
    """
    config, dtype, precision, system = subject
    bound = bound_of(dtype, precision)
    exact = float64_reference(subject, weights)
    one, other = sets[:2]
    out = device_call(one)
    hole = check_output("predict", out, one.levels, one.batch.get("image"))
    again = np.asarray(device_call(other)["completed"])
    if np.array_equal(np.asarray(out["completed"])[hole], again[hole]):
        raise WrongAnswerError("predict: two inputs have the same fill.")

    plain = systems.build(with_dtype(config, "float32"))
    with jax.default_matmul_precision("highest"):
        # A function of its own, since jit would know the timed one's trace.
        expected = jax.jit(lambda *args: plain.predict(*args))(
            *weights, one.batch, one.key
        )
    error = relative_error(out["completed"], expected["completed"], hole)
    for against, value in (("highest", error), ("float64", exact.get("error", 0.0))):
        if not value <= bound:
            raise WrongAnswerError(
                f"predict: the relative error against {against} is {value:.1e}, above "
                f"{bound:.0e} for {dtype} at {precision} precision; not timed."
            )

    levels = host_call(one)
    where = "predict in bytes"
    check_output(where, {"completed": levels}, one.levels, one.levels.get("image"))
    expected_levels = np.asarray(inputs.to_bytes(out["completed"]), int)
    apart = int(np.abs(levels.astype(int) - expected_levels).max())
    if apart > 1:
        raise WrongAnswerError(f"{where}: {apart} levels from the float program.")
    return {
        "float64": exact,
        "highest_error": error,
        "bound": bound,
        "valid_pixels": "mask" in one.levels,
        "bytes_apart": apart,
    }


def float64_reference(
    subject: Subject, weights: tuple[Variables, Variables]
) -> dict[str, Any]:
    """Compares a small image with the same network in float64 on the CPU.

    Returns:
      `size`, `error` over the filled pixels; or `unavailable`, why there is none.

    Raises:
      WrongAnswerError: the small image is no fill of its input.
    """
    config, _, precision, system = subject
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
            with jax.default_matmul_precision(precision):
                got = jax.jit(lambda *args: system.predict(*args))(*weights, batch, key)
        except ValueError as error:
            reason = str(error)
            continue
        where = f"predict at {size} pixels"
        hole = check_output(where, got, levels, batch.get("image"))
        host = jax.tree.map(np.asarray, (*weights, dict(batch)))  # off its device
        with jax.default_device(cpu), jax.enable_x64(True):
            expected = jax.jit(exact.predict)(*host, jax.random.key(0))
        error = relative_error(got["completed"], expected["completed"], hole)
        return {"size": size, "error": error}
    return {"unavailable": reason}
