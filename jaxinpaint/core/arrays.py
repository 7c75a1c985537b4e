"""Named arrays on disk, in orbax's format.

With `core/checkpoint.py`, which keeps the steps of a run, the only place that knows
orbax. Orbax stores no checksum, so who writes keeps a table of them beside the arrays
(`core/manifest.py`) and compares it with what was read.
"""

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxinpaint.core.manifest import Leaves


def write(directory: str | os.PathLike, arrays: Leaves) -> None:
    """Writes arrays into a directory that must not exist yet.

    Args:
      directory: appears whole or not at all.
      arrays: name to array.
    """
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            pathlib.Path(directory).absolute(),
            args=ocp.args.PyTreeSave(dict(arrays)),
        )


def read(
    directory: str | os.PathLike, asked: Mapping[str, Any], partial: bool
) -> dict[str, np.ndarray]:
    """Reads arrays to the host, unverified.

    Args:
      directory: what `write` made, or an item that orbax saved in a step.
      asked: names, each with anything that has a shape and a dtype.
      partial: whether the directory may hold more than that.

    Returns:
      Name to array.

    Raises:
      Exception: of many kinds, where files are damaged or names absent; see
        `manifest.damage_of`.
    """
    to_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in asked}
    reader = ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, _Reader()), (jax.Array, ocp.type_handlers.ArrayHandler())
        )
    )
    with contextlib.closing(reader) as handler:
        return handler.restore(
            pathlib.Path(directory).absolute(),
            args=ocp.args.PyTreeRestore(
                item=dict(asked), restore_args=to_numpy, partial_restore=partial
            ),
        )


class _Reader(ocp.type_handlers.NumpyHandler):
    """Reads every leaf to its end before it tells that one failed.

    Orbax closes its event loop at the first failure, and the reads still in flight
    then complain from other threads.
    """

    async def deserialize(self, infos: Sequence, args: Sequence | None = None) -> list:
        each = args or [None] * len(infos)
        reads = [
            super(_Reader, self).deserialize([info], [arg] if arg else None)
            for info, arg in zip(infos, each, strict=True)
        ]
        results: list[Any] = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [array for (array,) in results]
