"""Programs of one process serve the next; run in processes of their own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CHILD = """
import pathlib, sys
import jax, jax.numpy as jnp
from jaxinpaint.core import compilation

compilation.LEAST_SECONDS = 0.0
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compilation.keep_programs(pathlib.Path(sys.argv[1]))
print(jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.eye(4))[0, 0])
print(hits.count("/jax/compilation_cache/cache_hits") > 0)
print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)
"""


def child(folder, **extra):
    own = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(folder)],
        env={**own, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **extra},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_second_process_compiles_nothing_again(tmp_path):
    folder = tmp_path / "programs"
    first, second = child(folder), child(folder)
    assert first == ["0.7615942", "False", str(folder), str(2 * 2**30)]
    assert second == ["0.7615942", "True", str(folder), str(2 * 2**30)]


def test_a_persons_own_folder_stands(tmp_path):
    own = tmp_path / "own"
    _, _, folder, limit = child(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(own))
    assert folder == str(own) and limit == "-1"
    assert not (tmp_path / "ours").exists()


def test_all_of_it_can_be_turned_off(tmp_path):
    child(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not list(tmp_path.iterdir())
