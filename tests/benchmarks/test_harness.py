import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import harness


class Clock:
    """Tells the time that calls have taken."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_statistics_by_hand():
    got = harness.summarize([4.0, 1.0, 3.0, 2.0])
    assert got.n == 4 and got.mean == 2.5 and got.p50 == 2.5
    assert (got.min, got.max) == (1.0, 4.0)
    assert got.sd == pytest.approx((5 / 3) ** 0.5)  # squares 2.25 0.25 0.25 2.25, n - 1
    assert got.cv == pytest.approx((5 / 3) ** 0.5 / 2.5)
    hundred = harness.summarize(range(1, 102))  # the k-th percentile is k + 1
    assert (hundred.p50, hundred.p90, hundred.p99) == (51.0, 91.0, 100.0)
    assert harness.summarize([7.0])[:4] == (1, 7.0, 0.0, 7.0)


@pytest.mark.parametrize("times", [[], [1.0, np.nan], [0.0], [-1.0]])
def test_times_that_cannot_be(times):
    with pytest.raises(ValueError, match="positive"):
        harness.summarize(times)


def test_ten_percent_is_where_a_mean_stops_being_quoted():
    steady = harness.summarize([9.2, 10.8])  # sd 1.131 of 10
    assert "not stable" in harness.unstable("x", steady)
    assert harness.unstable("x", harness.summarize([9.4, 10.6])) == ""  # sd 0.849
    assert "9.2 and 10.8 ms" in harness.unstable("x", steady)


def test_latencies_rotate_inputs_and_are_in_milliseconds():
    clock, seen = Clock(), []

    def call(one):
        seen.append(one)
        clock.sleep(one)

    times = harness.latencies(call, [0.5, 2.0], 5, np.inf, clock=clock)
    assert seen == [0.5, 2.0, 0.5, 2.0, 0.5]
    assert times == pytest.approx([500, 2000, 500, 2000, 500])


@pytest.mark.parametrize(
    "calls, seconds, made", [(100, 30.0, 10), (4, 30.0, 4), (100, 0.0, 5), (2, 0.0, 2)]
)
def test_the_budget_cuts_calls_but_not_below_the_least(calls, seconds, made):
    clock, ticks = Clock(), []
    times = harness.latencies(
        clock.sleep, [3.0], calls, seconds, lambda: ticks.append(1), clock=clock
    )
    assert len(times) == len(ticks) == made


def test_a_queue_awaits_every_result():
    clock, seen = Clock(), []

    class Result:
        def block_until_ready(self):
            clock.sleep(1.0)
            return self

    def call(one):
        seen.append(one)
        clock.sleep(0.25)
        return Result()

    assert harness.queued(call, ["a", "b"], 4, clock) == 5.0
    assert seen == ["a", "b", "a", "b"]


def test_the_memory_of_a_program():
    program = jax.jit(lambda x, y: x + y, donate_argnums=0)
    x = jax.ShapeDtypeStruct((256, 4), jnp.float32)
    sizes = harness.memory(program.lower(x, x).compile())
    assert (sizes["argument"], sizes["output"], sizes["alias"]) == (8192, 4096, 4096)
    assert sizes["peak"] == 8192 + sizes["temp"]

    class Silent:
        def memory_analysis(self):
            return None

        def cost_analysis(self):
            return None

    assert harness.memory(Silent()) == {}
    assert harness.xla_flops(Silent()) is None


@contextlib.contextmanager
def setting(**values):
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_the_cold_compile_does_not_read_the_cache(tmp_path):
    x = jnp.ones((16, 16))
    with setting(jax_compilation_cache_dir=None):
        cold = harness.compile_program(lambda x: jnp.sin(x @ x), x)
    assert cold.compile_s > 0 and cold.cached_s is None
    with setting(
        jax_compilation_cache_dir=str(tmp_path),
        jax_persistent_cache_min_compile_time_secs=0.0,
        jax_persistent_cache_min_entry_size_bytes=-1,
    ):
        program = harness.compile_program(lambda x: jnp.cos(x @ x), x)
        files = list(tmp_path.iterdir())
        assert files and program.cached_s is not None
        np.testing.assert_allclose(program.call(x), jnp.cos(16.0 * x), rtol=1e-6)
        hits = []
        listen = lambda event, **_: (
            hits.append(event) if event == harness.HITS else None
        )
        jax.monitoring.register_event_listener(listen)
        try:
            harness.compile_program(lambda x: jnp.cos(x @ x), x)
        finally:
            jax.monitoring.unregister_event_listener(listen)
        assert len(hits) == 1  # the second compile's; the cold one does not look
    assert jax.config.jax_enable_compilation_cache


def test_precision_is_that_of_the_program():
    x = jnp.ones((4, 4))
    with jax.default_matmul_precision("highest"):
        text = jax.jit(jnp.dot).lower(x, x).as_text()
    seen = []

    def spy(a, b):
        seen.append(jax.config.jax_default_matmul_precision)
        return a @ b

    harness.compile_program(spy, x, x, precision="highest")
    harness.compile_program(spy, x, x)
    # Each once or, where JAX keeps programs, again from there.
    assert list(dict.fromkeys(seen)) == ["highest", "default"] and "HIGHEST" in text


def test_ceilings_are_rates(monkeypatch):
    monkeypatch.setattr(harness, "PRODUCT_SECONDS", 0.0)
    monkeypatch.setattr(harness, "COPY_BYTES", 2**20)
    clock = iter(range(1000))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    copy = harness.copy_ceiling()
    assert copy == {
        "bytes_per_s": 2 * 2**20 / 0.5,
        "size": 2**20,
    }  # two passes a second
    monkeypatch.setattr(harness, "queued", lambda *_: 2.0)  # two products in 2 s
    product = harness.product_ceiling("float32", "highest")
    assert product == {"flops_per_s": 2 * 512**3 / 1.0, "size": 512}


def test_the_best_of_two_moments():
    first = {"copy": {"bytes_per_s": 3.0, "size": 1}, "a": {"flops_per_s": 5.0}}
    second = {"copy": {"bytes_per_s": 4.0, "size": 1}, "a": {"flops_per_s": 2.0}}
    assert harness.best_of(first, second) == {"copy": 4.0, "a": 5.0}


def test_progress_off_a_terminal_is_a_line_a_quarter():
    out = io.StringIO()
    with harness.progress(Console(file=out), "calls", 10) as tick:
        for _ in range(10):
            tick()
    assert out.getvalue().splitlines() == [f"calls: {n}/10" for n in (3, 5, 8, 10)]
