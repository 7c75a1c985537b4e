import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="package", autouse=True)
def programs(tmp_path_factory):
    """Runs of these tests share compiled programs."""
    options = {
        **OPTIONS,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
