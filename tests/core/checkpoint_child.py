"""Children for test_checkpoint_faults.py.

serve DIRECTORY: for each line on stdin forks a writer that resumes and saves until
  it is killed. Forking before jax makes its threads spares the import each time.
pair DIRECTORY ADDRESS INDEX: one of two processes that save and restore together.
"""

import itertools
import os
import sys
import warnings

import jax
import numpy as np

from jaxinpaint.core.checkpoint import Checkpoints, restore_variables

TEMPLATE = {f"w{i}": jax.ShapeDtypeStruct((200_000,), np.float32) for i in range(5)}
OPTIONS = dict(save_every=1, keep_latest=2, keep_best=1, best=("psnr", "max"))


def value(step):
    """The state whose every number follows from the step."""
    ramp = np.arange(200_000, dtype=np.float32)
    return {f"w{i}": ramp * (i + 1) + np.float32(step) for i in range(5)}


def write(directory):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(directory, **OPTIONS) as checkpoints:
        first = 1
        if checkpoints.steps():
            first = checkpoints.restore(TEMPLATE, sharding).step + 1
        print("open", flush=True)
        for step in itertools.count(first):
            state = jax.device_put(value(step), sharding)
            checkpoints.save(step, state, {"step": step}, {"psnr": step % 7})
            print(step, flush=True)


def serve(directory):
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                write(directory)  # a closed pipe ends it if the test fails
            finally:
                os._exit(1)
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


def pair(directory, address, index):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, int(index))
    axes = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("data",), axis_types=axes)
    everywhere = jax.NamedSharding(mesh, jax.P())
    state = {
        step: jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, everywhere, x.__getitem__),
            {"variables": value(step)},
        )
        for step in (1, 2)
    }
    template = {"variables": TEMPLATE}
    with Checkpoints(directory, **OPTIONS) as checkpoints:
        local = {"variables": {"w0": jax.numpy.ones(2)}}
        try:
            checkpoints.save(1, local, {}, {})
        except ValueError as error:
            assert "variables/w0 is not replicated over all" in str(error)
        else:
            raise AssertionError("a leaf of this process alone was saved")
        for step in state:
            assert checkpoints.save(step, state[step], {"seed": 7}, {})
        checkpoints.wait()
        if jax.process_index() == 0:
            spoil(os.path.join(directory, "2", "manifest", "metadata"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = checkpoints.restore(template, everywhere)
        assert (got.step, got.meta) == (1, {"seed": 7})
        assert any("2.corrupt" in str(w.message) for w in caught)
        assert checkpoints.steps() == [1]
        got = restore_variables(directory, TEMPLATE, everywhere)
        for name, expected in value(1).items():
            np.testing.assert_array_equal(got.state[name].addressable_data(1), expected)
        assert checkpoints.save(2, state[2], {"seed": 7}, {})
    jax.distributed.shutdown()
    print("done", flush=True)


def spoil(path):
    with open(path, "r+b") as file:
        file.seek(40)
        byte = file.read(1)[0]
        file.seek(40)
        file.write(bytes([byte ^ 1]))


if __name__ == "__main__":
    {"serve": serve, "pair": pair}[sys.argv[1]](*sys.argv[2:])
