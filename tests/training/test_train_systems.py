"""train.py with every system: signals, other device counts, and two processes."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxinpaint import systems
from jaxinpaint.core.checkpoint import restore_variables
from tests.systems.test_contract import CONFIGS, load
from tests.training import toy

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 16
CHANGES = {
    "batch_size": 8,
    "steps": STEPS,
    "optimizer.eps": 1e-3,  # smaller, Adam turns rounding into whole steps
    "train.save_every": 4,
    "train.panel_every": 8,
}
OWN = {"ccpgan": {"n_critic": 1}}


class Runs:
    """Starts train.py below one folder, where compiled programs are shared."""

    def __init__(self, folder, path):
        self.folder, self.path = folder, path
        self.changes = CHANGES | OWN.get(path.stem, {})

    def begin(self, name, *more, **environment):
        changes = [f"--config.{key}={value}" for key, value in self.changes.items()]
        programs = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_NUM_CPU_DEVICES": "1",
        }
        with open(self.folder / f"{name}.txt", "a") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "train.py"),
                    f"--config={self.path}:smoke",
                    f"--workdir={self.folder / name}",
                    f"--config.data.cache_dir={self.folder / 'sections'}",
                    *changes,
                    *more,
                ],
                cwd=ROOT,
                env={**os.environ, **programs, **environment},
                stdout=output,
                stderr=output,
            )

    def end(self, process, name):
        """The exit code; what was printed if it is a traceback's."""
        code = process.wait(timeout=600)
        said = (self.folder / f"{name}.txt").read_text()
        assert "Traceback" not in said, said
        return code

    def reach(self, step, name, process):
        """Waits for the record of a step and a checkpoint, of a run that goes on."""
        workdir = self.folder / name

        def reached():
            return (workdir / "metrics.jsonl").exists() and [
                at for at, _, _ in toy.records(workdir) if at >= step
            ]

        # A save goes on beside the steps, which are short here.
        while not (reached() and toy.steps_saved(workdir)):
            assert process.poll() is None, (self.folder / f"{name}.txt").read_text()
            time.sleep(0.02)
        assert process.poll() is None


# The smallest shows it in the default run; what a system's own arithmetic could break
# there, its contract tests see.
ALL = [
    pytest.param(
        path, id=path.stem, marks=() if path.stem == "unet" else pytest.mark.slow
    )
    for path in CONFIGS
]


@pytest.fixture(scope="module", params=ALL)
def runs(request, tmp_path_factory):
    return Runs(tmp_path_factory.mktemp(request.param.stem), request.param)


@pytest.fixture(scope="module")
def straight(runs):
    assert runs.end(runs.begin("straight"), "straight") == 0
    return runs.folder / "straight"


def close(one, other):
    """Compares losses; those near zero are differences of others.

    All but a few agree to rounding. A pre-activation that rounding carries across the
    kink of a LeakyReLU moves a gradient penalty by more (5e-5 was seen).
    """
    one, other = toy.records(one), toy.records(other)
    assert [record[:2] for record in one] == [record[:2] for record in other]
    values = np.float64([[a[2], b[2]] for a, b in zip(one, other, strict=True)])
    apart = np.abs(values[:, 0] - values[:, 1]) / (1.0 + np.abs(values[:, 0]))
    assert np.quantile(apart, 0.9) <= 1e-5
    assert np.max(apart) <= 1e-4


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)]
)
def test_an_interrupted_run_goes_on_bit_for_bit(runs, straight, number, code):
    name = number.name
    process = runs.begin(name)
    runs.reach(6, name, process)
    process.send_signal(number)
    assert runs.end(process, name) == code
    done = toy.steps_saved(runs.folder / name)[-1]
    assert done < STEPS
    if code > 0:
        assert done >= 6
    assert runs.end(runs.begin(name), name) == 0
    assert f"Going on from step {done}." in (runs.folder / f"{name}.txt").read_text()
    assert toy.leaves(runs.folder / name, STEPS) == toy.leaves(straight, STEPS)
    for prefix in ("loss/", "eval/"):
        assert toy.records(runs.folder / name, prefix) == toy.records(straight, prefix)


def test_the_output_is_readable(runs, straight):
    if runs.path.stem != "ccpgan":
        pytest.skip("one system shows it for all")
    lines = (runs.folder / "straight.txt").read_text().splitlines()
    assert lines[0] == "critic_global: 10,801 parameters"
    compiled = [line for line in lines if line.startswith("Compiled the step in ")]
    assert len(compiled) == 1 and "MiB on each of 1 devices." in compiled[0]
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[0].startswith(f"step 1/{STEPS}  ae ") and len(steps) == STEPS
    assert len(lines) == 3 + 1 + STEPS


def test_eight_devices_equal_one(runs, straight):
    process = runs.begin("eight", JAX_NUM_CPU_DEVICES="8")
    assert runs.end(process, "eight") == 0
    close(runs.folder / "eight", straight)
    config = load(runs.path, "smoke")
    config.update_from_flattened_dict(runs.changes)
    system = systems.build(config)
    template = jax.eval_shape(system.init, jax.random.key(0)).variables
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    kernels = [
        [
            np.asarray(leaf)
            for leaf in jax.tree.leaves(
                restore_variables(workdir / "checkpoints", template, here).state
            )
            if leaf.ndim > 1  # a bias of zero gradient follows Adam's rounding
        ]
        for workdir in (straight, runs.folder / "eight")
    ]
    rms = lambda x: np.sqrt(np.mean(x**2))
    for one, eight in zip(*kernels, strict=True):
        assert rms(one - eight) <= 1e-4 * rms(one)


def test_two_processes_stop_and_go_on_together_and_equal_one(runs, straight):
    if runs.path.stem != "ccpgan":
        pytest.skip("one system shows it for all")

    def begin():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [
            runs.begin(
                *("two", f"--coordinator=127.0.0.1:{port}"),
                *("--processes=2", f"--process={index}"),
            )
            for index in range(2)
        ]

    pair = begin()
    runs.reach(6, "two", pair[0])
    pair[1].send_signal(signal.SIGTERM)
    assert [runs.end(process, "two") for process in pair] == [143, 143]
    done = toy.steps_saved(runs.folder / "two")[-1]
    assert 6 <= done < STEPS
    assert [runs.end(process, "two") for process in begin()] == [0, 0]
    said = (runs.folder / "two.txt").read_text()
    assert said.count(f"Going on from step {done}.") == 1  # process 0 alone speaks
    close(runs.folder / "two", straight)
