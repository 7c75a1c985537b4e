"""A one-layer system of the protocol shows that nothing else of a system is used."""

import io
import json
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags, logging
from ml_collections import ConfigDict
from rich.console import Console

from benchmarks import correct, harness, paper, predict
from benchmarks.table import markdown
from jaxinpaint import systems
from jaxinpaint.core.system import System, TrainState

RATES = {
    "copy": {"bytes_per_s": 1e9, "size": 1},
    "float32_highest": {"flops_per_s": 1e9, "size": 1},
}
SUMMARY = "n mean sd p50 p90 p99 min max cv".split()
SCHEMA = {
    "benchmark": str,
    "format": int,
    "run": dict,
    "machine": dict,
    "load": {"before": float, "after": float},
    "correct": {
        "float64": dict,
        "highest_error": float,
        "bound": float,
        "valid_pixels": bool,
        "bytes_apart": int,
    },
    "compile": dict,
    "latency": dict,
    "throughput": {"calls": int, "seconds": float, "images_per_second": float},
    "ceilings": {"before": dict, "after": dict, "best": dict},
    "work": {
        "flops": int,
        "traffic": int,
        "open_loops": int,
        "bound_ms": float,
        "xla_flops": float,
    },
    "utilisation": {"peak": str, "mfu": float, "bound_fraction": float},
    "memory": dict.fromkeys("argument output temp alias peak".split(), int),
    "device_memory_stats": (dict, types.NoneType),
    "printed": (dict, types.NoneType),
    "warnings": list,
}


def conforms(value, schema, where="result"):
    if isinstance(schema, dict):
        assert value.keys() == schema.keys(), where
        for name, inner in schema.items():
            conforms(value[name], inner, f"{where}.{name}")
    else:
        assert isinstance(value, schema), f"{where} is {value!r}"


def toy(config, spoil=None):
    """Completes a hole by one convolution; `spoil` makes it wrong."""
    dtype = jnp.dtype("bfloat16" if spoil == "coarse" else config.model.dtype)
    if spoil == "coarse" and config.model.dtype == "float64":
        dtype = jnp.dtype("float64")
    image = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
    mask = jax.ShapeDtypeStruct((4, 16, 16, 1), jnp.float32)

    def init(key):
        kernel = 0.3 * jax.random.normal(key, (3, 3, 6, 3))
        unread = jnp.ones((1000,))
        params = {"generator": {"params": kernel}, "critic": {"params": unread}}
        return TrainState(jnp.zeros((), jnp.int32), params, {})

    def fill(variables, frozen, batch, key):
        hole = batch["mask"] > 0
        x = jnp.where(hole, 0.0, batch["image"])
        x = jnp.concatenate([x, batch["neighbor"]], axis=-1).astype(dtype)
        kernel = variables["generator"]["params"].astype(dtype)
        raw = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        raw = jnp.tanh(raw * frozen["scale"]["params"].astype(dtype))
        raw = raw.astype(jnp.float32)
        if spoil == "constant":
            raw = jnp.full_like(raw, 0.5)
        if spoil == "nan":
            raw = raw.at[0, 8, 8, 0].set(jnp.nan)
        if spoil == "deaf":
            raw = jnp.float32(np.random.default_rng(1).normal(size=raw.shape))
        image = batch["image"]
        image = jnp.nextafter(image, 2.0) if spoil == "pixel" else image
        name = "raw" if spoil == "name" else "completed"
        return {name: jnp.where(hole, raw, image)}

    return System(
        {"image": image, "neighbor": image, "mask": mask},
        init,
        lambda: {"scale": {"params": jnp.float32(0.5)}},
        lambda *_: None,
        fill,
    )


def options(tmp_path, **changes):
    config = ConfigDict({"system": "toy", "model": {"dtype": "float32"}})
    config.lock()
    values = {
        "config": config,
        "source": "configs/toy.py:smoke",
        "size": 32,
        "batch": 2,
        "dtype": "float32",
        "precision": "default",
        "calls": 12,
        "warmup": 2,
        "seconds": 0.0,
        "output": tmp_path,
        "command": "python -m benchmarks.predict",
    }
    return predict.Options(**(values | changes))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(harness, "ceilings", lambda dtype: RATES)
    return lambda spoil: monkeypatch.setattr(
        systems, "build", lambda config: toy(config, spoil)
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "ceilings", lambda dtype: RATES)
        patch.setattr(systems, "build", toy)
        folder = tmp_path_factory.mktemp("result")
        return predict.run(options(folder), Console(file=io.StringIO()))


def test_the_result_is_what_it_declares(result, tmp_path):
    path = predict.write(result, tmp_path / "new")
    assert path.name == "predict_toy_smoke_32_b2_float32_cpu.json"
    loaded = json.loads(path.read_text())
    conforms(loaded, SCHEMA)
    for boundary in ("device", "host"):
        assert loaded["compile"][boundary].keys() == {
            "trace_s",
            "compile_s",
            "cached_s",
        }
        latency = loaded["latency"][boundary]
        assert list(latency["summary"]) == SUMMARY
        assert len(latency["samples_ms"]) == latency["summary"]["n"] == 12
    assert loaded["run"]["shapes"]["mask"] == [2, 32, 32, 1]
    assert loaded["run"]["config"]["model"]["dtype"] == "float32"
    assert loaded["machine"]["versions"]["jax"] == jax.__version__
    assert path.with_suffix(".md").read_text() == markdown(loaded)


def test_work_and_its_shares_by_hand(result):
    count = 2 * (2 * 32 * 32 * 3) * (9 * 6)
    moved = 4 * (2 * 32 * 32 * (6 + 3) + 9 * 6 * 3)
    assert result["work"]["flops"] == count and result["work"]["traffic"] == moved
    mean = np.mean(result["latency"]["device"]["samples_ms"]) / 1e3
    assert result["utilisation"]["mfu"] == pytest.approx(count / 1e9 / mean)
    assert result["work"]["bound_ms"] == pytest.approx(count / 1e9 * 1e3)
    assert result["run"]["parameters_read"] == 9 * 6 * 3 + 1  # not the critic's
    images = 2 * result["throughput"]["calls"] / result["throughput"]["seconds"]
    assert result["throughput"]["images_per_second"] == pytest.approx(images)


def test_the_table_says_what_was_and_was_not_measured(result):
    text = markdown(result)
    s = result["latency"]["device"]["summary"]
    assert f"{s['p50']:.4g} | {s['p90']:.4g} | {s['p99']:.4g}" in text
    assert "n = 12" in text and "Parameters are random" in text
    assert "quarter of the pixels" in text and "The paper prints no latency." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_too_few_calls_and_scatter_are_told(quick, tmp_path, monkeypatch):
    quick(None)
    times = {"device": [10.0, 30.0, 20.0], "host": [10.0, 10.1, 10.2]}
    given = iter([[1.0], [1.0], *times.values()])  # warming up comes first
    monkeypatch.setattr(harness, "latencies", lambda *_: next(given))
    got = predict.run(options(tmp_path, seconds=1.0), Console(file=io.StringIO()))
    assert [got["latency"][n]["stable"] for n in ("device", "host")] == [False, True]
    unsteady, *cut = got["warnings"]
    assert "50 %" in unsteady and "between 10 and 30 ms" in unsteady
    assert [line.count("n = 3 of 12 calls") for line in cut] == [1, 1]
    lines = markdown(got).splitlines()
    (device,) = [line for line in lines if line.startswith("| (a)") and "n = " in line]
    (host,) = [line for line in lines if line.startswith("| (b)") and "n = " in line]
    assert "20 ± 10 **not stable** (cv 50 %)" in device and "10.1 ± 0.1 |" in host


@pytest.mark.parametrize(
    "spoil, message",
    [
        ("constant", "constant"),
        ("nan", "not finite"),
        ("pixel", "outside the hole"),
        ("deaf", "same fill"),
        ("coarse", "against float64 is"),
        ("name", "no `completed`"),
    ],
)
def test_a_wrong_answer_is_not_timed(quick, tmp_path, monkeypatch, spoil, message):
    quick(spoil)
    monkeypatch.setattr(harness, "latencies", lambda *_: pytest.fail("was timed"))
    with pytest.raises(correct.WrongAnswerError, match=message):
        predict.run(options(tmp_path), Console(file=io.StringIO()))


def test_bounds_by_dtype_and_precision(monkeypatch):
    assert correct.bound_of("float32", "default") == 1e-5
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert correct.bound_of("float32", "default") == 1e-3
    assert correct.bound_of("float32", "highest") == 1e-5
    assert correct.bound_of("bfloat16", "default") == 4e-2


def test_the_dtype_is_set_wherever_it_stands():
    config = ConfigDict({"dtype": "float32", "a": {"b": {"dtype": "float32"}}, "c": 1})
    got = correct.with_dtype(config.lock(), "bfloat16")
    assert got.dtype == got.a.b.dtype == "bfloat16" and config.dtype == "float32"
    with pytest.raises(ValueError, match="dtype"):
        correct.with_dtype(ConfigDict({"c": 1}), "bfloat16")


def test_names_tell_runs_apart(tmp_path):
    name = lambda **changes: predict.result_name(
        options(tmp_path, **changes), 512, "cpu"
    )
    paper_run = {"source": "configs/ccpgan.py", "batch": 1}
    assert name(**paper_run) == "predict_ccpgan_512_float32_cpu"
    assert name(**paper_run, dtype="bfloat16") == "predict_ccpgan_512_bfloat16_cpu"
    assert name(precision="highest") == "predict_toy_smoke_512_b2_float32_highest_cpu"


@pytest.mark.parametrize(
    "seconds, call_ms, nbytes, count",
    [
        (math.inf, 1.0, 100, 50),
        (1.0, 100.0, 100, 10),
        (0.0, 100.0, 100, 2),
        (math.inf, 1.0, 2**28, 8),
    ],
)
def test_the_queue_fits_time_and_memory(seconds, call_ms, nbytes, count):
    assert predict._queue_length(seconds, call_ms, nbytes) == count


def test_the_paper_row_has_both_normalised_ratios_beside_it(result, monkeypatch):
    same = paper.PRINTED["ccpgan"]._replace(
        size=32, batch=2, parameters=9 * 6 * 3 + 1, mean_ms=50.0
    )
    means = {
        name: harness.summarize([ms]) for name, ms in (("device", 100), ("host", 200))
    }
    monkeypatch.setattr(paper, "PRINTED", {"toy": same})
    config = ConfigDict({"system": "toy"})
    given = types.SimpleNamespace(config=config, batch=2)
    rates = {"copy": 336e9, "float32_highest": 1.63e12}  # a half and a tenth of it
    printed = predict._printed(given, 32, 9 * 6 * 3 + 1, means, rates, 2e9)
    text = markdown(result | {"printed": printed})
    rows = [
        line
        for line in text.splitlines()
        if re.match(r"\| (nothing|mem.*width|float32 a)", line)
    ]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["50", "0.5x", "0.25x |"],
        ["100", "1x", "0.5x |"],
        ["500", "5x", "2.5x |"],
    ]
    assert "Titan RTX" in text and "16.3 TFLOP/s" in text and "672 GB/s" in text
    other = predict._printed(given, 64, 7, means, rates, 2e9)
    assert other["rows"] == [] and "size is 64" in markdown(result | {"printed": other})


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_command_on_a_real_config(monkeypatch, tmp_path, capsys):
    values = flags.FlagValues()
    predict.define_flags(values)
    arguments = [
        "--config=configs/ccpgan.py:smoke",
        "--calls=3",
        "--warmup=1",
        f"--output={tmp_path}",
    ]
    values(["predict", *arguments])
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(predict.sys, "argv", ["predict", *arguments])
    monkeypatch.setattr(harness, "ceilings", lambda dtype: RATES)
    verbosity = logging.get_verbosity()
    try:
        predict.main(["predict"])
    finally:
        logging.set_verbosity(verbosity)
    path = tmp_path / "predict_ccpgan_smoke_64_float32_cpu.json"
    loaded = json.loads(path.read_text())
    conforms(loaded, SCHEMA)
    assert capsys.readouterr().out == markdown(loaded) + "\n"
    assert loaded["run"]["command"].startswith("python -m benchmarks.predict --config")
    assert loaded["correct"]["float64"]["size"] == 64
    assert "the size is 64, not 512" in loaded["printed"]["why_not"]


def test_wrong_use_ends_with_2_and_a_wrong_answer_with_1(monkeypatch, capsys):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    for error, code in ((ValueError("x"), 2), (correct.WrongAnswerError("x"), 1)):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(predict, "read_options", fail)
        with pytest.raises(SystemExit) as ended:
            predict.main(["predict"])
        assert ended.value.code == code
        assert capsys.readouterr().err == "benchmarks.predict: x\n"
