"""Latencies that papers print, and what is fair to say beside them.

A time on another card says little by itself. `compare` also asks what the printed
time would become if the card's arithmetic, or its memory, had limited it and were as
fast as was measured here. No line is to be quoted without the others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Printed(NamedTuple):
    """A latency as a paper prints it, and the network that it was printed for.

    Attributes:
      source: where it is printed.
      size: side of the images.
      batch: images a call.
      parameters: that the network reads.
      mean_ms: mean of a call.
      sd_ms: its standard deviation.
      card: the accelerator.
      flops_per_s: the card's float32 arithmetic, from its data sheet.
      bytes_per_s: of its memory, likewise.
      gflop: the specification's counts of a call, by how it is computed.
      gflop_note: what these counts hold and `benchmarks.flops` does not.
    """

    source: str
    size: int
    batch: int
    parameters: int
    mean_ms: float
    sd_ms: float
    card: str
    flops_per_s: float
    bytes_per_s: float
    gflop: Mapping[str, float]
    gflop_note: str


PRINTED = {
    "ccpgan": Printed(
        source="CCPGAN, Experiment 1, mean of 100 images; R42",
        size=512,
        batch=1,
        parameters=5_091_241,
        mean_ms=52.3,
        sd_ms=1.9,
        card="NVIDIA Titan RTX",
        flops_per_s=16.3e12,
        bytes_per_s=672e9,
        gflop={
            "literal patches": 479.9,
            "patch products as shifted sums": 307.4,
            "and upsampling joined to its convolution": 275.2,
        },
        gflop_note=(
            "The last is how this library computes it; of it 0.46 GFLOP are additions "
            "(shifted sums of scores and weights, propagation), which the count here "
            "leaves out."
        ),
    ),
}


def why_not(printed: Printed, size: int, batch: int, parameters: int) -> str:
    """Why a run is not the printed one's like, or "" where it is."""
    pairs = (
        ("the size", size, printed.size),
        ("the batch", batch, printed.batch),
        ("the number of parameters", parameters, printed.parameters),
    )
    wrong = [f"{name} is {here}, not {there}" for name, here, there in pairs]
    return "; ".join(w for w, (_, h, t) in zip(wrong, pairs, strict=True) if h != t)


def compare(
    printed: Printed, mean_ms: Mapping[str, float], ceilings: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The printed time against ours, as it stands and by what might have limited it.

    Args:
      printed: the paper's.
      mean_ms: our mean by boundary.
      ceilings: measured here in the same run: `copy` in bytes a second, products in
        FLOP a second, `float32_highest` and, where measured, others.

    Returns:
      A row each: `limit`, the card's and this machine's figure for it, what the
      printed time becomes, and that divided by ours, by boundary.
    """
    limits = [
        ("nothing (absolute)", 1.0, 1.0),
        ("memory bandwidth", printed.bytes_per_s, ceilings["copy"]),
        ("float32 arithmetic", printed.flops_per_s, ceilings["float32_highest"]),
    ]
    for name, words in (
        ("float32_default", "arithmetic, float32 products as this device likes them"),
        ("bfloat16", "arithmetic, allowed bfloat16"),
    ):
        if name in ceilings:
            limits.append((words, printed.flops_per_s, ceilings[name]))
    rows = []
    for limit, there, here in limits:
        becomes = printed.mean_ms * there / here
        ratios = {name: becomes / ours for name, ours in mean_ms.items()}
        rows.append(
            {
                "limit": limit,
                "card": there,
                "here": here,
                "becomes_ms": becomes,
                "ratio": ratios,
            }
        )
    return rows


def card_use(printed: Printed) -> dict[str, float]:
    """The share of the card's arithmetic that the printed time means, by count."""
    per_second = {
        name: 1e9 * count / (printed.mean_ms / 1e3)
        for name, count in printed.gflop.items()
    }
    return {name: rate / printed.flops_per_s for name, rate in per_second.items()}
