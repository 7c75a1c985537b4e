"""Clocks, statistics and ceilings that every benchmark shares.

Dispatch is asynchronous: a call that returns has not run. What is timed here ends
with the results on the device, or on the host where a benchmark says so.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from jaxinpaint.training.workdir import environment

STABLE = 0.10  # the largest coefficient of variation that is quoted without a warning
HITS = "/jax/compilation_cache/cache_hits"
PRODUCT_SECONDS = 0.03  # a timed product takes at least this, or is LARGEST_PRODUCT
LARGEST_PRODUCT = 8192
COPY_BYTES = 256 * 2**20  # beyond any cache
ROUNDS = 5

Tick = Callable[[], None]


class Summary(NamedTuple):
    """Statistics of times in milliseconds.

    Attributes:
      n: how many.
      mean: their mean.
      sd: standard deviation of a sample (n - 1); 0 of one time.
      p50: median; p90 and p99 alike, linear between times.
      p90: see p50.
      p99: see p50.
      min: the shortest.
      max: the longest.
      cv: sd / mean.
    """

    n: int
    mean: float
    sd: float
    p50: float
    p90: float
    p99: float
    min: float
    max: float
    cv: float


def summarize(times: Sequence[float]) -> Summary:
    """Statistics of times.

    Raises:
      ValueError: there are none, or one is not a positive number.
    """
    values = np.asarray(times, np.float64)
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"summarize: times must be positive numbers, got {times}.")
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if values.size > 1 else 0.0
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    low, high = float(values.min()), float(values.max())
    return Summary(values.size, mean, sd, p50, p90, p99, low, high, sd / mean)


def unstable(what: str, summary: Summary) -> str:
    """The warning that goes with times that scatter too much, or ""."""
    if summary.cv <= STABLE:
        return ""
    return (
        f"{what}: not stable. The coefficient of variation is "
        f"{100 * summary.cv:.0f} %, above {100 * STABLE:.0f} %; times lie between "
        f"{summary.min:.4g} and {summary.max:.4g} ms. Do not quote the mean; repeat "
        "on a quiet machine."
    )


def latencies(
    call: Callable[[Any], Any],
    inputs: Sequence[Any],
    calls: int,
    seconds: float,
    tick: Tick = lambda: None,
    least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Times single calls on the host's clock, the inputs in turn.

    Args:
      call: takes one of `inputs`; must not return before its result is there.
      inputs: input sets.
      calls: how many are wanted.
      seconds: after so many no further call begins.
      tick: called after each.
      least: calls made even so, at most `calls`.
      clock: in seconds.

    Returns:
      Milliseconds of each call.
    """
    times: list[float] = []
    began = clock()
    while len(times) < calls:
        if len(times) >= least and clock() - began >= seconds:
            break
        one = inputs[len(times) % len(inputs)]
        start = clock()
        call(one)
        times.append(1e3 * (clock() - start))
        tick()
    return times


def queued(
    call: Callable[[Any], Any],
    inputs: Sequence[Any],
    count: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of `count` calls sent one behind the other and awaited together."""
    start = clock()
    jax.block_until_ready([call(inputs[i % len(inputs)]) for i in range(count)])
    return clock() - start


class Program(NamedTuple):
    """A compiled function and what it took.

    Attributes:
      call: the executable.
      trace_s: tracing and lowering, in seconds.
      compile_s: compiling, without the persistent cache.
      cached_s: fetching it from the persistent cache; None where no cache folder is
        set, or where jax did not keep it.
    """

    call: Any
    trace_s: float
    compile_s: float
    cached_s: float | None


def compile_program(
    function: Callable[..., Any], *args: Any, precision: str = "default"
) -> Program:
    """Compiles for the shapes of args, first with the persistent cache off.

    Args:
      function: traced anew for each compilation.
      args: arrays or shapes.
      precision: of float32 products that name none; "default" or "highest".
    """

    def build() -> tuple[Any, float, float]:
        start = time.perf_counter()
        with jax.default_matmul_precision(precision):
            lowered = jax.jit(lambda *args: function(*args)).lower(*args)
        middle = time.perf_counter()
        call = lowered.compile()
        return call, middle - start, time.perf_counter() - middle

    with _persistent_cache(False):
        call, trace_s, compile_s = build()
    cached_s = None
    if jax.config.jax_compilation_cache_dir:
        with _persistent_cache(True):
            for _ in range(2):  # the first may have to fill it
                with _cache_hits() as hits:
                    _, _, seconds = build()
                if hits:
                    cached_s = seconds
                    break
    return Program(call, trace_s, compile_s, cached_s)


@contextlib.contextmanager
def _persistent_cache(enabled: bool) -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # it remembers whether it was on
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == HITS:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


def memory(program: Any) -> dict[str, int]:
    """Bytes of a compiled program by kind, and their peak; {} where XLA tells none."""
    sizes = program.memory_analysis()
    if sizes is None:
        return {}
    kinds = {
        kind: getattr(sizes, f"{kind}_size_in_bytes")
        for kind in ("argument", "output", "temp", "alias")
    }
    peak = kinds["argument"] + kinds["temp"] + kinds["output"] - kinds["alias"]
    return {**kinds, "peak": peak}


def xla_flops(program: Any) -> float | None:
    """XLA's own count of a compiled program, where it has one."""
    return (program.cost_analysis() or {}).get("flops")


def product_ceiling(dtype: str, precision: str) -> dict[str, Any]:
    """FLOP a second of square matrix products on random data, the best of rounds.

    Returns:
      `flops_per_s`, and `size`, the side of the matrices.
    """
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    size = 512
    while True:
        keys = jax.random.split(jax.random.key(size))
        a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
        jax.block_until_ready(product(a, b))
        best = min(queued(lambda _: product(a, b), [0], 2) / 2 for _ in range(ROUNDS))  # noqa: B023
        if best >= PRODUCT_SECONDS or size >= LARGEST_PRODUCT:
            return {"flops_per_s": 2.0 * size**3 / best, "size": size}
        size *= 2


def copy_ceiling() -> dict[str, Any]:
    """Bytes a second read and written by one elementwise pass, the best of rounds.

    In place, since a fresh result would also time the system's page faults.

    Returns:
      `bytes_per_s`, and `size` of the array in bytes.
    """
    turn = jax.jit(lambda x: -x, donate_argnums=0)
    x = turn(jax.random.normal(jax.random.key(0), (COPY_BYTES // 4,)))
    best = math.inf
    for _ in range(ROUNDS):
        jax.block_until_ready(x)
        start = time.perf_counter()
        x = turn(turn(x))
        jax.block_until_ready(x)
        best = min(best, (time.perf_counter() - start) / 2)
    return {"bytes_per_s": 2.0 * COPY_BYTES / best, "size": COPY_BYTES}


def ceilings(dtype: str) -> dict[str, dict[str, Any]]:
    """What this device does at most: copies, and products in each precision of use."""
    found = {"copy": copy_ceiling()}
    found["float32_highest"] = product_ceiling("float32", "highest")
    if jax.default_backend() != "cpu":  # where both are the same
        found["float32_default"] = product_ceiling("float32", "default")
    if dtype == "bfloat16":
        found["bfloat16"] = product_ceiling("bfloat16", "default")
    return found


def best_of(*found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The higher of ceilings measured at several moments, as bare rates."""
    rate = lambda c: c["bytes_per_s"] if "bytes_per_s" in c else c["flops_per_s"]
    return {name: max(rate(f[name]) for f in found) for name in found[0]}


def machine() -> dict[str, Any]:
    """Versions, devices, threads and flags of this process."""
    device = jax.devices()[0]
    return {
        **environment(),
        "device": f"{device.platform}:{device.device_kind}",
        "cpus_allowed": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "flags": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "JAX_PLATFORMS", "OMP_NUM_THREADS")
            if name in os.environ
        },
        "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,
    }


def load() -> float | None:
    """Processes that wait for a processor, over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@contextlib.contextmanager
def progress(console: Console, title: str, total: int) -> Iterator[Tick]:
    """A bar of calls; off a terminal a plain line a quarter."""
    done = 0
    marks = {math.ceil(total * quarter / 4) for quarter in (1, 2, 3, 4)}
    bar = Progress(
        *Progress.get_default_columns()[:3],
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(title, total=total)

    def tick() -> None:
        nonlocal done
        done += 1
        bar.advance(task)
        if not console.is_terminal and done in marks:
            say(console, f"{title}: {done}/{total}")

    with bar:
        yield tick


def say(console: Console, line: str) -> None:
    """Prints one line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
