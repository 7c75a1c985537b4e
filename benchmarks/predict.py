"""Times a system's `predict`: latency, throughput, compiling, work and memory.

python -m benchmarks.predict --config=configs/ccpgan.py --size=512

Any config will do. The answers are checked first; a Markdown table goes to stdout,
and with all samples as JSON into benchmarks/results. At 512 pixels a call of CCPGAN
takes seconds on two CPU cores, so --seconds cuts the number of calls there; the
table says how many were made. docs/benchmarks.md says what each figure means.
"""

import functools
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from benchmarks import correct, flops, harness, paper
from benchmarks import inputs as noise
from benchmarks.table import BOUNDARIES, markdown
from jaxinpaint import systems
from jaxinpaint.core.system import Batch, Key, System, Variables
from jaxinpaint.training.workdir import to_json, write_atomically

RESULTS = Path(__file__).parent / "results"
QUEUE = 50  # calls in flight for the throughput
QUEUE_BYTES = 2 * 2**30  # of results that may wait meanwhile
SHARES = {"device": 0.6, "host": 0.25, "queue": 0.15}  # of the time after warming up


class Options(NamedTuple):
    """What to time.

    Attributes:
      config: of the system; `dtype` is already in it.
      source: the config file as it was named, with its preset.
      size: side of the images; 0 takes the config's.
      batch: images a call.
      dtype: of compute, "float32" or "bfloat16".
      precision: of float32 products, "default" or "highest".
      calls: latency samples by boundary.
      warmup: calls before them.
      seconds: for warming up and timing together; 0 sets no limit.
      output: folder of the result.
      command: as a person repeats it.
    """

    config: ConfigDict
    source: str
    size: int
    batch: int
    dtype: str
    precision: str
    calls: int
    warmup: int
    seconds: float
    output: Path
    command: str


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define = functools.partial(flags.DEFINE_integer, flag_values=values)
    config_flags.DEFINE_config_file(
        "config", None, "configs/X.py or configs/X.py:preset", flag_values=values
    )
    define("size", 0, "side of the images; 0: the config's", lower_bound=0)
    define("batch", 1, "images a call", lower_bound=1)
    define("calls", 100, "latency samples", lower_bound=1)
    define("warmup", 10, "calls before them", lower_bound=1)
    flags.DEFINE_float(
        "seconds",
        600.0,
        "time for warming up and timing; cuts the calls; 0: no limit",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16"],
        "of compute",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "precision",
        "default",
        ["default", "highest"],
        "of float32 products that the system leaves open",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", str(RESULTS), "folder of the result", flag_values=values
    )
    flags.mark_flag_as_required("config", flag_values=values)


def read_options(values: flags.FlagValues, argv: list[str]) -> Options:
    """Options from parsed flags and the arguments they were parsed from."""
    return Options(
        config=correct.with_dtype(values.config, values.dtype),
        source=config_flags.get_config_filename(values["config"]),
        size=values.size,
        batch=values.batch,
        dtype=values.dtype,
        precision=values.precision,
        calls=values.calls,
        warmup=values.warmup,
        seconds=values.seconds,
        output=Path(values.output),
        command=shlex.join(["python", "-m", "benchmarks.predict", *argv]),
    )


def result_name(options: Options, size: int, platform: str) -> str:
    """The same run has the same name: predict_ccpgan_512_float32_cpu."""
    path, _, preset = options.source.partition(":")
    parts = ["predict", Path(path).stem, preset, str(size)]
    parts.append(f"b{options.batch}" if options.batch > 1 else "")
    parts.append(options.dtype)
    parts.append("highest" if options.precision == "highest" else "")
    return "_".join(part for part in (*parts, platform) if part)


def run(options: Options, console: Console) -> dict[str, Any]:
    """Checks, then times; the result as plain JSON values.

    Raises:
      WrongAnswerError: the system computes wrong images; nothing was timed.
      ValueError: the system cannot be built, or refuses this size.
    """
    tell = functools.partial(harness.say, console)
    load_before = harness.load()
    system = systems.build(options.config)
    size = options.size or _own_size(system)
    spec = noise.shapes(system.batch_spec, size, options.batch)
    # XLA's own generator: the default one takes longer to compile than the network.
    key = jax.random.key(0, impl="unsafe_rbg")
    variables = jax.jit(lambda key: system.init(key).variables)(key)
    frozen = system.load_frozen()
    sets = noise.draw_sets(spec)
    tell(f"{options.source} at {size} x {size}, batch {options.batch}: compiling")

    on_device = functools.partial(_predict, system)
    on_host = functools.partial(_predict_bytes, system, spec)
    first = sets[0]
    build = functools.partial(harness.compile_program, precision=options.precision)
    programs = {
        "device": build(on_device, variables, frozen, first.batch, first.key),
        "host": build(on_host, variables, frozen, first.levels, first.key),
    }

    def device_call(one: noise.Inputs) -> Batch:
        return programs["device"].call(variables, frozen, one.batch, one.key)

    def host_call(one: noise.Inputs) -> np.ndarray:
        levels = jax.device_put(one.levels)
        return np.asarray(programs["host"].call(variables, frozen, levels, one.key))

    tell("checking the answers")
    checked = correct.check(
        correct.Subject(options.config, options.dtype, options.precision, system),
        (variables, frozen),
        sets,
        device_call,
        host_call,
    )
    tell("measuring what the device can do")
    before = harness.ceilings(options.dtype)

    began = time.perf_counter()
    limit = options.seconds or math.inf
    calls = {
        "device": lambda one: jax.block_until_ready(device_call(one)),
        "host": host_call,
    }
    for name, call in calls.items():
        with harness.progress(console, f"warm-up {name}", options.warmup) as tick:
            harness.latencies(
                call, sets, options.warmup, math.inf, tick, options.warmup
            )
    left = max(0.0, limit - (time.perf_counter() - began))
    samples = {}
    for name, call in calls.items():
        with harness.progress(console, f"latency {name}", options.calls) as tick:
            samples[name] = harness.latencies(
                call, sets, options.calls, SHARES[name] * left, tick
            )
    summaries = {name: harness.summarize(times) for name, times in samples.items()}
    sizes = harness.memory(programs["device"].call)
    count = _queue_length(
        SHARES["queue"] * left, summaries["device"].p50, sizes.get("output", 0)
    )
    tell(f"throughput: {count} calls queued")
    seconds = harness.queued(device_call, sets, count)
    stats = jax.devices()[0].memory_stats()
    after = harness.ceilings(options.dtype)

    best = harness.best_of(before, after)
    peak = _peak_name(options, best)
    traced = jax.make_jaxpr(on_device)(variables, frozen, first.batch, first.key)
    work = flops.walk(traced.jaxpr)
    parameters = _parameters_read(traced.jaxpr, (variables, frozen))
    mean_s = summaries["device"].mean / 1e3
    bound_s = flops.bound(work, best[peak], best["copy"])
    warnings = [harness.unstable(BOUNDARIES[n], s) for n, s in summaries.items()]
    for name, summary in summaries.items():
        if summary.n < options.calls:
            warnings.append(
                f"{BOUNDARIES[name]}: n = {summary.n} of {options.calls} calls; "
                f"--seconds={options.seconds:g} was used up."
            )
    return {
        "benchmark": "predict",
        "format": 1,
        "run": {
            "name": result_name(options, size, jax.default_backend()),
            "command": options.command,
            "config": to_json(options.config),
            "system": options.config.system,
            "size": size,
            "batch": options.batch,
            "dtype": options.dtype,
            "precision": options.precision,
            "calls": options.calls,
            "warmup": options.warmup,
            "seconds": options.seconds,
            "parameters": "random, init of seed 0",
            "parameters_read": parameters,
            "sets": len(sets),
            "shapes": {name: list(e.shape) for name, e in spec.items()},
            "inputs": "uniform noise in 256 levels",
            "hole": noise.HOLE if "mask" in spec else "none; the system takes no mask",
        },
        "machine": harness.machine(),
        "load": {"before": load_before, "after": harness.load()},
        "correct": checked,
        "compile": {
            name: {k: v for k, v in p._asdict().items() if k != "call"}
            for name, p in programs.items()
        },
        "latency": {
            name: {
                "boundary": BOUNDARIES[name],
                "summary": summary._asdict(),
                "stable": not harness.unstable(name, summary),
                "samples_ms": samples[name],
            }
            for name, summary in summaries.items()
        },
        "throughput": {
            "calls": count,
            "seconds": seconds,
            "images_per_second": count * options.batch / seconds,
        },
        "ceilings": {"before": before, "after": after, "best": best},
        "work": {
            "flops": flops.flops(work),
            "traffic": flops.traffic(work),
            "open_loops": work.open_loops,
            "bound_ms": 1e3 * bound_s,
            "xla_flops": harness.xla_flops(programs["device"].call),
        },
        "utilisation": {
            "peak": peak,
            "mfu": flops.flops(work) / mean_s / best[peak],
            "bound_fraction": bound_s / mean_s,
        },
        "memory": sizes,
        "device_memory_stats": stats,
        "printed": _printed(
            options, size, parameters, summaries, best, flops.flops(work)
        ),
        "warnings": [line for line in warnings if line],
    }


def _predict(
    system: System, variables: Variables, frozen: Variables, batch: Batch, key: Key
) -> Batch:
    return system.predict(variables, frozen, batch, key)


def _predict_bytes(
    system: System,
    spec: Mapping[str, jax.ShapeDtypeStruct],
    variables: Variables,
    frozen: Variables,
    levels: Batch,
    key: Key,
) -> jax.Array:
    batch = noise.to_batch(levels, spec)
    out = system.predict(variables, frozen, batch, key)
    return noise.to_bytes(correct.completed_of("predict in bytes", out))


def _own_size(system: System) -> int:
    sides = {e.shape[1] for e in system.batch_spec.values() if len(e.shape) == 4}
    if len(sides) != 1:
        raise ValueError(f"--size is needed: the config's images are {sorted(sides)}.")
    return sides.pop()


def _queue_length(seconds: float, call_ms: float, result_bytes: int) -> int:
    by_time = min(seconds * 1e3 / call_ms, QUEUE)
    by_memory = QUEUE_BYTES / max(result_bytes, 1)
    return max(2, int(min(by_time, by_memory)))


def _peak_name(options: Options, ceilings: Mapping[str, float]) -> str:
    if options.dtype == "bfloat16":
        return "bfloat16"
    name = f"float32_{options.precision}"
    return name if name in ceilings else "float32_highest"


def _parameters_read(jaxpr: Any, weights: Any) -> int:
    """How many weights the traced program uses; critics, say, it does not."""
    used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
    leaves = jax.tree.leaves(weights)
    read = zip(leaves, jaxpr.invars[: len(leaves)], strict=True)
    return sum(leaf.size for leaf, v in read if id(v) in used)


def _printed(
    options: Options,
    size: int,
    parameters: int,
    summaries: Mapping[str, harness.Summary],
    ceilings: Mapping[str, float],
    counted: int,
) -> dict[str, Any] | None:
    printed = paper.PRINTED.get(options.config.system)
    if printed is None:
        return None
    means = {name: summary.mean for name, summary in summaries.items()}
    reason = paper.why_not(printed, size, options.batch, parameters)
    return {
        **printed._asdict(),
        "why_not": reason,
        "rows": [] if reason else paper.compare(printed, means, ceilings),
        "counted": counted / 1e9,
        "card_use": paper.card_use(printed),
    }


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Writes the result as JSON and as Markdown; returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['run']['name']}.json"
    write_atomically(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_atomically(path.with_suffix(".md"), markdown(result))
    return path


def main(argv: list[str]) -> None:
    """Parses, times, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    try:
        options = read_options(flags.FLAGS, sys.argv[1:])
        result = run(options, Console(stderr=True))
        path = write(result, options.output)
    except correct.WrongAnswerError as error:
        print(f"benchmarks.predict: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"benchmarks.predict: {error}", file=sys.stderr)
        sys.exit(2)
    print(markdown(result))
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
