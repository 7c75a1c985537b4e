"""A system of one convolution, for tests of the loop; also a child process.

python -m tests.training.toy WORKDIR STEPS SIGNAL AT [ADDRESS INDEX]: trains, and sends
  itself a signal when the batch of step AT is asked for; as one of two processes if
  told where they meet and which it is.
"""

import json
import os
import pathlib
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxinpaint.core.system import System, TrainState
from jaxinpaint.training.loop import train

ROWS, SIZE = 4, 8
SPEC = {
    name: jax.ShapeDtypeStruct((ROWS, SIZE, SIZE, 1), jnp.float32)
    for name in ("image", "mask")
}


def config(**changes):
    made = ConfigDict(
        {
            "system": "toy",
            "seed": 0,
            "steps": 6,
            "init_from": "",
            "data": {"flips": True, "threads": 0, "cache_dir": ""},
            "train": {
                "log_every": 1,
                "panel_every": 3,
                "save_every": 3,
                "keep_latest": 2,
                "keep_best": 1,
            },
            "eval": {"seed": 1, "whole": ()},
        }
    )
    made.lock()
    made.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return made


def system(bad=(), value=float("nan"), traces=None):
    """Fills holes with a convolution; its loss is `value` at the steps in `bad`.

    `traces` gets a word each time that a function is traced.
    """
    traces = [] if traces is None else traces
    net = nn.Conv(1, (3, 3))
    adam = optax.adam(1e-2)

    def init(key):
        params = net.init(key, jnp.zeros((1, SIZE, SIZE, 1)))
        return TrainState(
            jnp.zeros((), jnp.int32),
            {"generator": params},
            {"generator": adam.init(params["params"])},
        )

    def complete(params, batch):
        raw = net.apply({"params": params}, batch["image"] * (1 - batch["mask"]))
        return raw * batch["mask"] + batch["image"] * (1 - batch["mask"])

    def update(state, frozen, batch, key):
        traces.append("update")
        params = state.variables["generator"]["params"]
        noise = jax.random.normal(key, batch["image"].shape)
        listed = jnp.asarray(bad or (-1,), jnp.int32)
        factor = jnp.where((listed == state.step).any(), value, 1.0)

        def loss(params):
            error = complete(params, batch) - batch["image"] - 0.1 * noise
            return factor * jnp.mean(error**2)

        now, grads = jax.value_and_grad(loss)(params)
        step, opt = adam.update(grads, state.opt_state["generator"], params)
        new = {"params": optax.apply_updates(params, step)}
        state = TrainState(state.step + 1, {"generator": new}, {"generator": opt})
        return state, {"loss/generator": now, "noise": noise.mean()}

    def predict(variables, frozen, batch, key):
        traces.append("predict")
        return {"completed": complete(variables["generator"]["params"], batch)}

    return System(SPEC, init, dict, update, predict)


def batch(step, seed=0):
    rng = np.random.default_rng([seed, step])
    mask = np.zeros((ROWS, SIZE, SIZE, 1), np.uint8)
    mask[:, 2:5, 3:6] = 1
    return {"image": rng.integers(0, 256, mask.shape).astype(np.uint8), "mask": mask}


def stream(first, before=lambda step: None):
    """Batches from step `first` on; `before(step)` runs when one is asked for."""
    step = first
    while True:
        before(step)
        rows = ROWS // jax.process_count()
        mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
        yield {name: array[mine] for name, array in batch(step).items()}
        step += 1


def run(workdir, before=lambda step: None, of=None, **changes):
    """Trains; returns the outcome."""
    return train(
        of or system(),
        lambda first: stream(first, before),
        batch(10**6),
        config(**changes),
        pathlib.Path(workdir),
    )


def records(workdir, prefix="loss/"):
    """(step, name, value) of the numbers whose name starts so, in order."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        (record["step"], name, value)
        for record in map(json.loads, lines)
        for name, value in record.items()
        if name.startswith(prefix)
    ]


def leaves(workdir, step):
    """Path -> dtype, shape and SHA-256 of every leaf of a checkpoint."""
    path = pathlib.Path(workdir) / "checkpoints" / str(step) / "manifest" / "metadata"
    return json.loads(path.read_text())["content"]["leaves"]


def steps_saved(workdir):
    names = (p.name for p in (pathlib.Path(workdir) / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdecimal())


def signal_at(when, number):
    def before(step):
        if step == when:
            os.kill(os.getpid(), number)

    return before


def main(workdir, steps, number, at, address=None, index=0):
    jax.config.update("jax_num_cpu_devices", 1 if address else 2)
    if address:
        jax.distributed.initialize(address, 2, int(index))
    ask = signal_at(int(at), int(number))

    def before(step):
        ask(step)
        time.sleep(0.05 if address else 0.0)

    sys.exit(run(workdir, before, steps=int(steps)).exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
