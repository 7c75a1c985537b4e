import atexit
import os
import shutil
import tempfile

CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    # One folder for the workers of a session and the commands that its tests start, so
    # that what one has compiled no other compiles again.
    os.environ[CACHE] = tempfile.mkdtemp(prefix="jaxinpaint-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import logging  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="module")
def quick_programs():
    """The compiler does not try hard: for modules whose programs run but briefly."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(autouse=True)
def same_verbosity():
    """A command ends its process, and may quiet the libraries; a test goes on."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
