"""The result of `benchmarks.predict` as Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

BOUNDARIES = {
    "device": "(a) device in, device out",
    "host": "(b) uint8 host, both ends",
}


def markdown(result: Mapping[str, Any]) -> str:
    """Everything a person quotes, with what has to be quoted beside it."""
    run, machine = result["run"], result["machine"]
    size, batch = run["size"], run["batch"]
    parts = [
        f"# predict: {run['name']}, {size} x {size}, batch {batch}, {run['dtype']}",
        f"`{run['command']}`",
        f"{machine['device']}, {machine['processor']}, {machine['cpus_allowed']} CPU "
        f"threads allowed; jax {machine['versions']['jax']}, jaxlib "
        f"{machine['versions']['jaxlib']}, Python {machine['python']}. Precision of "
        f"float32 products: {run['precision']}. Waiting processes: "
        f"{_number(result['load']['before'])} before, "
        f"{_number(result['load']['after'])} after.",
        f"Parameters are random ({run['parameters_read']:,} are read), which changes "
        f"no shape and so no time. {run['sets']} input sets in turn: {run['inputs']}; "
        f"hole: {run['hole']}.",
        *_latency(result),
        *_correct(result["correct"]),
        *_work(result),
        *_printed(result["printed"], run["dtype"]),
    ]
    if result["warnings"]:
        parts.append("## Warnings")
        parts.append("\n".join(f"- {line}" for line in result["warnings"]))
    return "\n\n".join(parts) + "\n"


def _latency(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, words in BOUNDARIES.items():
        s = result["latency"][name]["summary"]
        mean = f"{s['mean']:.4g} ± {s['sd']:.2g}"
        if not result["latency"][name]["stable"]:
            mean += f" **not stable** (cv {100 * s['cv']:.0f} %)"
        rows.append(
            (words, f"n = {s['n']}", mean)
            + tuple(f"{s[key]:.4g}" for key in ("p50", "p90", "p99", "min", "max"))
        )
    asked, throughput = result["run"], result["throughput"]
    budget = f"within {asked['seconds']:g} s" if asked["seconds"] else "without limit"
    compiled = [
        (
            BOUNDARIES[name],
            *(_number(c[key]) for key in ("trace_s", "compile_s", "cached_s")),
        )
        for name, c in result["compile"].items()
    ]
    return [
        "## Latency",
        _table(
            ("ms a call", "calls", "mean ± sd", "p50", "p90", "p99", "min", "max"), rows
        ),
        f"{asked['warmup']} warm-up calls before each; {asked['calls']} calls asked "
        f"for, {budget}. Each ends when its result is there.",
        f"Throughput, counted apart: {throughput['images_per_second']:.4g} images/s "
        f"({throughput['calls']} calls of batch {asked['batch']} queued, awaited "
        "together; device in, device out).",
        _table(("s", "trace and lower", "compile, cold", "from the cache"), compiled),
    ]


def _correct(correct: Mapping[str, Any]) -> list[str]:
    exact = correct["float64"]
    against = (
        f"none against float64 ({exact['unavailable']})"
        if "unavailable" in exact
        else f"{exact['error']:.1e} against float64 on the CPU at {exact['size']} px"
    )
    return [
        "Checked before timing: finite, not constant, another image for another input, "
        f"{'valid pixels bit for bit' if correct['valid_pixels'] else 'no mask'}. "
        f"Relative error of the fill: {against}; {correct['highest_error']:.1e} against "
        f"float32 products at highest precision at this size; at most "
        f"{correct['bound']:.0e} is allowed."
    ]


def _work(result: Mapping[str, Any]) -> list[str]:
    work, use, memory = result["work"], result["utilisation"], result["memory"]
    rows = [
        ("model FLOP of a call", _giga(work["flops"])),
        ("XLA's count (loops once)", _giga(work["xla_flops"])),
        ("traffic, each product once", f"{work['traffic'] / 1e9:.3f} GB"),
        ("bound by these ceilings", f"{work['bound_ms']:.4g} ms"),
        (f"MFU, of {use['peak']}", f"{100 * use['mfu']:.1f} %"),
        ("bound / mean", f"{100 * use['bound_fraction']:.1f} %"),
    ]
    for name, rate in result["ceilings"]["best"].items():
        words = f"ceiling, {name.replace('_', ' ')}"
        unit = "GB/s" if name == "copy" else "GFLOP/s"
        rows.append((words, f"{rate / 1e9:.4g} {unit}"))
    rows += [(f"memory, {kind}", f"{b / 2**20:.1f} MiB") for kind, b in memory.items()]
    if result["device_memory_stats"]:
        peak = result["device_memory_stats"].get("peak_bytes_in_use")
        rows.append(("memory, the process's peak", f"{(peak or 0) / 2**20:.1f} MiB"))
    lines = ["## Work, ceilings, memory", _table(("device in, device out", ""), rows)]
    if work["open_loops"]:
        lines.append(
            f"{work['open_loops']} loops have no fixed number of turns; their bodies "
            "are counted once."
        )
    return lines


def _printed(printed: Mapping[str, Any] | None, dtype: str) -> list[str]:
    if printed is None:
        return ["## The paper", "The paper prints no latency."]
    head = (
        f"Printed: {printed['mean_ms']} ± {printed['sd_ms']} ms on {printed['card']} "
        f"({printed['flops_per_s'] / 1e12} TFLOP/s float32, "
        f"{printed['bytes_per_s'] / 1e9:g} GB/s by its data sheet); "
        f"{printed['source']}. Batch, synchronisation and what is timed are not stated."
    )
    if printed["why_not"]:
        return [
            "## The paper",
            head,
            f"Not compared with this run: {printed['why_not']}.",
        ]
    rows = [
        (
            row["limit"],
            f"{row['becomes_ms']:.4g}",
            *(f"{row['ratio'][name]:.3g}x" for name in BOUNDARIES),
        )
        for row in printed["rows"]
    ]
    counts = ", ".join(f"{words} {g}" for words, g in printed["gflop"].items())
    use = ", ".join(
        f"{100 * u:.1f} % ({words})" for words, u in printed["card_use"].items()
    )
    return [
        "## The paper",
        head,
        _table(
            (
                f"if it was limited by (here: {dtype})",
                "it would become, ms",
                *(f"over our mean, {words[:3]}" for words in BOUNDARIES.values()),
            ),
            rows,
        ),
        "Ceilings are this run's. No line says anything without the others: the first "
        "compares two machines, not two programs.",
        f"GFLOP of a call: {counts} by the specification; {printed['counted']:.2f} "
        f"counted here. {printed['gflop_note']}",
        f"The printed time is {use} of its card's float32 peak.",
    ]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _giga(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.4g} G"
