"""A host batch against what a system declares, and its random symmetries."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import DTypeError, ShapeMismatchError
from jaxinpaint.core.levels import HALF
from jaxinpaint.core.system import Batch, Key


def check_spec(
    where: str,
    batch: Mapping[str, np.ndarray],
    spec: Mapping[str, jax.ShapeDtypeStruct],
    processes: int,
) -> None:
    """Checks a host batch against what a system declares, before the first step.

    Raises:
      ShapeMismatchError: a tensor is missing, or its shape differs.
      DTypeError: it is neither the declared dtype nor uint8 or uint16.
    """
    if set(batch) != set(spec):
        raise ShapeMismatchError(
            f"{where}: the system asks for {sorted(spec)}, the data give "
            f"{sorted(batch)}."
        )
    for name, want in spec.items():
        rows, *rest = want.shape
        shape = (rows // processes, *rest)
        if batch[name].shape != shape:
            raise ShapeMismatchError(
                f"{where}: {name} must be {list(shape)}, got {list(batch[name].shape)}."
            )
        if str(batch[name].dtype) not in (*HALF, str(want.dtype)):
            raise DTypeError(
                f"{where}: {name} must be {want.dtype}, uint8 or uint16, got "
                f"{batch[name].dtype}."
            )


def flip(batch: Batch, key: Key) -> Batch:
    """Mirrors and transposes each sample at random, all its tensors alike.

    The eight symmetries of a square; H and W must be equal.
    """
    rows = next(iter(batch.values())).shape[0]
    up, left, turned = jax.random.bernoulli(key, 0.5, (3, rows, 1, 1, 1))

    def one(x: jax.Array) -> jax.Array:
        x = jnp.where(up, x[:, ::-1], x)
        x = jnp.where(left, x[:, :, ::-1], x)
        return jnp.where(turned, x.swapaxes(1, 2), x)

    return {name: one(array) for name, array in batch.items()}
