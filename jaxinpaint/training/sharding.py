"""Where arrays live: state on every device, batches split over the `data` axis."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxinpaint.core.system import Tree


def make_mesh() -> Mesh:
    """All devices of all processes, in one axis named `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_whole(tree: Tree, mesh: Mesh) -> Tree:
    """Sends arrays that every process holds whole to every device."""
    where = replicated(mesh)

    def put(leaf: jax.Array | np.ndarray) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, where, host.__getitem__)

    return jax.tree.map(put, tree)


def put_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Sends this process's rows of a batch; returns the global arrays."""
    with jax.transfer_guard_host_to_device("allow"):  # here it is meant
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }
