"""Curves as SVG text that takes its ink from the page, in light and in dark."""

import importlib
import io
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]

# One colour a method, told apart by people who do not see red or green as well; a
# page overrides them with the CSS variables --series-0, --series-1, ...
COLOURS = (
    "#0b62d6",
    "#8a8d91",
    "#c4560a",
    "#12805c",
    "#a3368f",
    "#8a6d00",
    "#5b5bd0",
    "#b3261e",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "⬟")  # the same marks, for a legend
_INK, _GRID = "#010203", "#010204"


def extra(module: str) -> Any:
    """Imports a module of the extra `report`.

    Raises:
      ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"A report needs {module.partition('.')[0]}, which is not installed; "
            "run: pip install 'jaxinpaint[report]'."
        ) from error


def training_curves(records: Sequence[Row]) -> dict[str, str]:
    """Draws every logged scalar against the step.

    Args:
      records: lines of metrics.jsonl; each holds "step" and scalars whose names have
        a slash, such as "loss/generator". A record need not hold every scalar; one
        that is null, NaN or infinite leaves a gap.

    Returns:
      SVG by name of scalar, `eval/` first, then `loss/`, then the others.

    Raises:
      ValueError: a record without "step".
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for index, record in enumerate(records):
        if "step" not in record:
            raise ValueError(f"training_curves: record {index} has no 'step'.")
        for name, value in record.items():
            number = _number(value)
            if "/" in name and number is not None:
                series.setdefault(name, []).append((float(record["step"]), number))
    rooms = {"eval": 0, "loss": 1}
    order = sorted(series, key=lambda name: (rooms.get(name.split("/")[0], 2), name))
    return {name: _curve(series[name]) for name in order}


def score_by_hole(
    rows: Iterable[Row],
    *,
    methods: Sequence[str],
    bins: Sequence[str],
    ratios: Mapping[str, float],
) -> str:
    """Draws one score against the size of the hole, one line a method.

    Args:
      rows: tidy rows of one dataset, region and metric.
      methods: the methods to draw, the system first; it sets colour and marker.
      bins: the masks along the x axis, equally spaced.
      ratios: hole in parts of the image (0 to 1), by bin; written below the bin
        where it is known.

    Returns:
      SVG. A score that is not finite leaves a gap.
    """
    value = {(row["method"], row["bin"]): _number(row["value"]) for row in rows}
    figure, axes = _axes(4.4, 2.5)
    for index, method in reversed(list(enumerate(methods))):
        heights = [value.get((method, name)) for name in bins]
        axes.plot(
            range(len(bins)),
            [math.nan if h is None else h for h in heights],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[mark_of(index)],
            linewidth=2.4 if index == 0 else 1.1,
            markersize=5 if index == 0 else 3.5,
        )
    labels = [
        f"{name}\n{percent(ratios[name])}" if name in ratios else name for name in bins
    ]
    crowded = len(bins) > 5
    axes.set_xticks(
        range(len(bins)),
        labels,
        parse_math=False,
        fontsize=7.5 if crowded else 9,
        rotation=50 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
    )
    return _svg(figure)


def histogram(values: Mapping[str, Sequence[float]], bins: int) -> str:
    """Draws how values are distributed, one line a series, over common bins.

    Args:
      values: by name of the series; a series without a value draws no line.
      bins: how many, from the least to the largest of all values.

    Returns:
      SVG with a legend; each line encloses an area of 1.
    """
    figure, axes = _axes(4.4, 2.5)
    everything = [value for several in values.values() for value in several]
    edges = np.histogram_bin_edges(everything, bins)
    for index, (name, several) in enumerate(values.items()):
        if len(several):
            heights, _ = np.histogram(several, edges, density=True)
            colour = COLOURS[index % len(COLOURS)]
            # Whole and dashed, for who does not see the colours.
            style = "-" if index % 2 == 0 else "--"
            axes.stairs(heights, edges, color=colour, label=name, ls=style, lw=1.6)
    if everything:
        legend = axes.legend(fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_color(_INK)
    return _svg(figure)


def mark_of(index: int) -> int:
    """Which marker a method has; where the colours begin again it is another one."""
    return (index + index // len(COLOURS)) % len(MARKERS)


def percent(ratio: float) -> str:
    """Writes a part of the image in per cent, with three significant figures."""
    return f"{100 * ratio:.3g} %"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    figure, axes = _axes(3.6, 2.0)
    steps, values = np.asarray(points, float).T
    few = len(points) <= 30
    axes.plot(steps, values, color=COLOURS[0], linewidth=1.4, marker="o" if few else "")
    for line in axes.lines:
        line.set_markersize(3)
    axes.set_xlabel("step")
    return _svg(figure)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else math.nan


def _axes(width: float, height: float) -> tuple[Any, Any]:
    extra("matplotlib")
    figure = extra("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    # A number of ticks that the layout cannot change, or its labels outgrow the margin.
    axes.locator_params(nbins=5)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GRID, labelcolor=_INK, labelsize=9, length=3)
    axes.xaxis.label.set(color=_INK, fontsize=9)
    axes.margins(x=0.03, y=0.08)
    return figure, axes


def _svg(figure: Any) -> str:
    """Writes a figure as an <svg> element without header, metadata or outer size."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Text stays text: small, searchable, in the font of the page. The salt makes the
    # same figure the same bytes.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "jaxinpaint"}
    with extra("matplotlib").rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    body = re.sub(r"font-family: [^;\"]*; ", "", body)
    body = body.replace(_INK, "currentColor").replace(_GRID, "var(--rule, #c8c8c8)")
    for index, colour in enumerate(COLOURS):
        body = body.replace(colour, f"var(--series-{index}, {colour})")
    # Several figures share one page: only names that are pointed at stay, each with
    # a prefix of its own.
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', body))
    body = re.sub(
        r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body
    )
    prefix = f"f{zlib.crc32(body.encode()):08x}-"
    body = re.sub(r'(id="|url\(#|href="#)', lambda found: found[0] + prefix, body)
    return f"{head}>{body}".strip()
