"""Scores laid out for a page: what was measured, and what a paper prints."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxinpaint.report import plots
from jaxinpaint.report.scores import (
    ALL,
    METRICS,
    OF_A_SET,
    REGIONS,
    Row,
    comparable,
    first_seen,
    format_score,
    label,
    order,
    place,
    rank,
    value,
)

MOST_COLUMNS = 16  # of a printed table that is laid out with its metrics side by side


def blocks(
    rows: Sequence[Row],
    paper: Sequence[Row],
    *,
    system: str,
    ratios: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Arranges scores for a page: one block a metric, in it a table and plot a region.

    Args:
      rows: the measured tidy rows.
      paper: the printed ones; those of the paper's own system stand below the
        measured lines where the bins have the same name.
      system: the method that the report is about.
      ratios: hole in parts of the image (0 to 1) by bin, where known.

    Returns:
      Blocks in the order of METRICS, every number written out.
    """
    methods = order({row["method"] for row in rows}, system)
    found = []
    for metric in [name for name in METRICS if name in first_seen(rows, "metric")]:
        tables = []
        of_metric = [row for row in rows if row["metric"] == metric]
        heading = label(metric, of_metric[0].get("weights"))
        for dataset in first_seen(of_metric, "dataset"):
            for region in REGIONS:
                own = [
                    row
                    for row in of_metric
                    if (row["dataset"], row["region"]) == (dataset, region)
                ]
                if not own:
                    continue
                bins = first_seen(own, "bin")
                beside = [
                    row
                    for row in paper
                    if (row["method"], row["metric"], row["region"])
                    == ("paper", metric, region)
                    and row["bin"] in bins
                ]
                table = _table(own, bins, methods, system)
                table["dataset"], table["region"] = dataset, REGIONS[region]
                table["bins"] = [
                    (name, plots.percent(ratios[name]) if name in ratios else "")
                    for name in bins
                ]
                table["paper"] = _printed(beside, bins, _decimals(paper))
                along = [name for name in bins if name != ALL]
                table["plot"] = (
                    plots.score_by_hole(own, methods=methods, bins=along, ratios=ratios)
                    if len(along) > 1
                    else ""
                )
                tables.append(table)
        shown = METRICS[metric]._replace(label=heading)
        found.append({"name": metric, "metric": shown, "tables": tables})
    return found


def _table(
    rows: Sequence[Row], bins: Sequence[str], methods: Sequence[str], system: str
) -> dict[str, Any]:
    """Lines of cells for one dataset, region and metric; the best of a column marked.

    The count below a column is its commonest n; a cell with another says so.
    """
    by = {(row["method"], row["bin"]): row for row in rows}
    lines, counts = [], []
    for name in bins:
        here = [by[m, name] for m in methods if (m, name) in by]
        counts.append(statistics.mode(row["n"] for row in here))
    for method in methods:
        cells: list[dict[str, Any] | None] = []
        for name, count in zip(bins, counts, strict=True):
            row = by.get((method, name))
            if row is None:
                cells.append(None)
                continue
            ranks = [rank(by[m, name]) for m in methods if (m, name) in by]
            best = len(ranks) > 1 and rank(row) == max(ranks) and rank(row)[0]
            remarks = []
            if row.get("infinite"):
                remarks.append(f"+ {row['infinite']} ∞")
            if row.get("undefined"):
                remarks.append(f"{row['undefined']} undefined")
            if row["n"] != count:
                remarks.append(f"n {row['n']}")
            cells.append(
                {
                    "value": format_score(row["metric"], value(row)),
                    "sd": _deviation(row),
                    "best": best,
                    "mark": row.get("mark", ""),
                    "remark": ", ".join(remarks),
                }
            )
        if any(cells):
            lines.append({"method": method, "own": method == system, "cells": cells})
    return {"lines": lines, "counts": counts}


def _deviation(row: Row) -> str:
    """The deviation as text; none for a score of a whole set."""
    return "" if row["metric"] in OF_A_SET else format_score(row["metric"], row["sd"])


def _decimals(paper: Iterable[Row]) -> dict[str, int]:
    """Decimals a paper prints a metric with: the longest of its numbers."""
    found: dict[str, int] = {}
    for row in paper:
        for number in (row["value"], row["sd"]):
            digits = len(repr(float(number)).partition(".")[2]) if number else 0
            found[row["metric"]] = max(found.get(row["metric"], 0), digits)
    return found


def _printed(
    rows: Sequence[Row], bins: Sequence[str], decimals: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Lines of printed numbers by method and dataset, with the best of a column."""
    by = {(row["method"], row["dataset"], row["bin"]): row for row in rows}
    lines = []
    for method, dataset in dict.fromkeys((r["method"], r["dataset"]) for r in rows):
        cells: list[dict[str, Any] | None] = []
        for name in bins:
            row = by.get((method, dataset, name))
            if row is None:
                cells.append(None)
                continue
            cells.append(_printed_cell(row, rows, decimals))
        ns = {r["n"] for r in rows if (r["method"], r["dataset"]) == (method, dataset)}
        lines.append(
            {
                "method": method.removeprefix("paper_"),
                "own": method == "paper",
                "dataset": dataset,
                "n": "/".join(str(n) for n in sorted(ns - {None})),
                "cells": cells,
            }
        )
    return lines


def _printed_cell(
    row: Row, rows: Iterable[Row], decimals: Mapping[str, int]
) -> dict[str, Any]:
    """A printed number, marked where it is the best at its place in its table."""
    rivals = [
        rank(other)
        for other in rows
        if (*place(other), other.get("table")) == (*place(row), row.get("table"))
    ]
    places = decimals[row["metric"]]
    return {
        "value": f"{row['value']:.{places}f}",
        "sd": "" if row["sd"] is None else f"{row['sd']:.{places}f}",
        "best": len(rivals) > 1 and rank(row) == max(rivals),
        "mark": "",
        "remark": "",
    }


def paper_blocks(paper: Sequence[Row]) -> list[dict[str, Any]]:
    """Arranges the wide printed tables whole, one block a metric, numbers as printed.

    A table is wide that has more than MOST_COLUMNS pairs of a mask and a metric.
    """
    decimals = _decimals(paper)
    wide = [row for table in _tables(paper) if _is_wide(table) for row in table]
    found = []
    for metric in [name for name in METRICS if name in first_seen(wide, "metric")]:
        rows = [row for row in wide if row["metric"] == metric]
        bins = first_seen(rows, "bin")
        lines = _printed(rows, bins, decimals)
        found.append({"metric": METRICS[metric], "bins": bins, "lines": lines})
    return found


def paper_grids(
    paper: Sequence[Row], rows: Sequence[Row], system: str
) -> list[dict[str, Any]]:
    """Arranges the other printed tables: all metrics side by side for each mask.

    Args:
      paper: printed rows.
      rows: the measured ones; those whose mask, region and metric a table prints
        stand above it, for scale. A score that is not `comparable` is left out.
      system: the method that the report is about.

    Returns:
      Tables in the order of `paper`: "table" (its number), "bins", "metrics",
      "measured" and "lines".
    """
    decimals = _decimals(paper)
    found = []
    for table in _tables(paper):
        if _is_wide(table):
            continue
        bins = first_seen(table, "bin")
        metrics = [m for m in METRICS if m in first_seen(table, "metric")]
        places = {(row["bin"], row["region"], row["metric"]) for row in table}
        own = [
            row
            for row in rows
            if (row["bin"], row["region"], row["metric"]) in places
            and comparable(row.get("weights"))
        ]
        methods = order({row["method"] for row in own}, system)
        own.sort(key=lambda row: methods.index(row["method"]))
        columns = [(name, metric) for name in bins for metric in metrics]
        cell = partial(_printed_cell, rows=table, decimals=decimals)
        found.append(
            {
                "table": table[0].get("table", ""),
                "bins": bins,
                "metrics": [METRICS[metric] for metric in metrics],
                "measured": _grid(own, columns, system, _measured_cell),
                "lines": _grid(table, columns, "paper", cell),
            }
        )
    return found


def _grid(
    rows: Sequence[Row],
    columns: Sequence[tuple[str, str]],
    own: str,
    cell: Callable[[Row], dict[str, Any]],
) -> list[dict[str, Any]]:
    """One line a method and dataset, one cell a mask and metric."""
    by = {(r["method"], r["dataset"], r["bin"], r["metric"]): r for r in rows}
    lines = []
    for method, dataset in dict.fromkeys((r["method"], r["dataset"]) for r in rows):
        found = [by.get((method, dataset, *column)) for column in columns]
        lines.append(
            {
                "method": method.removeprefix("paper_"),
                "own": method == own,
                "dataset": dataset,
                "n": "/".join(
                    str(n) for n in sorted({row["n"] for row in found if row} - {None})
                ),
                "cells": [None if row is None else cell(row) for row in found],
            }
        )
    return lines


def _measured_cell(row: Row) -> dict[str, Any]:
    text = format_score(row["metric"], value(row))
    return {"value": text, "sd": "", "best": False, "mark": "", "remark": ""}


def _tables(paper: Iterable[Row]) -> list[list[Row]]:
    """Printed rows by table."""
    found: dict[Any, list[Row]] = {}
    for row in paper:
        found.setdefault(row.get("table"), []).append(row)
    return list(found.values())


def _is_wide(table: Iterable[Row]) -> bool:
    return len({(row["bin"], row["metric"]) for row in table}) > MOST_COLUMNS
