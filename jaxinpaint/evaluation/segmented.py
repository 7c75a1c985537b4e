"""What was found on tiles and slides, as rows for people and programs."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.slides import CLASSES
from jaxinpaint.evaluation.stitching import SlideResult
from jaxinpaint.metrics.segmentation import scores_of
from jaxinpaint.report import glomeruli_tables
from jaxinpaint.report.glomeruli_tables import Line

PIXELS = ("tp", "fp", "fn")
OF_CLASS = ("precision", "recall", "f1", "dice_pooled", "dice_image")
OF_MEAN = {  # metric of a row -> name in a metric's result
    "precision": "mean_precision",
    "recall": "mean_recall",
    "f1": "mean_f1",
    "macro_f1": "macro_f1",
    "dice_image": "mean_dice",
}


class TileResult(NamedTuple):
    """What was found on one tile.

    Attributes:
      dataset: the test set.
      slide: its id.
      top: its first row on the slide.
      left: its first column.
      table: [classes, 3] int64: true positives, false positives, false negatives.
    """

    dataset: str
    slide: str
    top: int
    left: int
    table: np.ndarray

    @property
    def name(self) -> str:
        """Of the tile, for people."""
        return f"{self.slide}, row {self.top}, column {self.left}"

    def dice(self) -> list[float]:
        """Of each class; NaN where it is in neither truth nor prediction."""
        found = []
        for tp, fp, fn in self.table.tolist():
            whole = 2 * tp + fp + fn
            found.append(2 * tp / whole if whole else math.nan)
        return found

    def mean_dice(self) -> float:
        """Of the classes that are there or were found; NaN where none is."""
        known = [value for value in self.dice() if not math.isnan(value)]
        return math.fsum(known) / len(known) if known else math.nan


def tidy(
    results: Sequence[TileResult] | Sequence[SlideResult], region: str
) -> list[dict[str, Any]]:
    """One row a test set, class and metric, and those of the mean of the classes."""
    rows = []
    for dataset in sorted({result.dataset for result in results}):
        table = np.stack([r.table for r in results if r.dataset == dataset])
        scores = scores_of(table, CLASSES)

        def row(
            bin: str, metric: str, value: float, n: int, dataset: str = dataset
        ) -> dict[str, Any]:
            return {
                "method": "glomeruli",
                "dataset": dataset,
                "bin": bin,
                "region": region,
                "metric": metric,
                "value": value if math.isfinite(value) else None,
                "sd": None,
                "n": n,
            }

        for name in CLASSES:
            own = scores[name]
            for metric in OF_CLASS:
                n = own["n"] if metric == "dice_image" else len(table)
                rows.append(row(name, metric, own[metric], n))
            rows += [row(name, metric, own[metric], len(table)) for metric in PIXELS]
        for metric, source in OF_MEAN.items():
            rows.append(row("mean", metric, scores[source], len(table)))
    return rows


def told_of(slide: SlideResult) -> dict[str, Any]:
    """A slide's glomeruli, for results."""
    return {
        "dataset": slide.dataset,
        "slide": slide.slide,
        "found": dict(slide.found),
        "true": dict(slide.true),
        "percent_found": slide.percent(slide.found),
        "percent_true": slide.percent(slide.true),
        "uncovered_pixels": slide.uncovered,
    }


def lines_of(
    rows: Sequence[Mapping[str, Any]], augmented: bool, percent: float, model: str
) -> list[Line]:
    """One training's lines for the paper's tables: a test set and class each.

    Args:
      rows: of its evaluation.
      augmented: whether it was trained with flips and turns.
      percent: of synthetic tiles.
      model: `config.segment.model`.
    """
    by = {
        (r["dataset"], r["bin"], r["metric"]): r["value"]
        for r in rows
        if r["region"] == "image"
    }
    lines = []
    for dataset, kind in dict.fromkeys((d, b) for d, b, _ in by):
        cells = {
            name: glomeruli_tables.averaged(
                [by[dataset, kind, "dice_image" if name == "dice" else name]]
            )
            for name in glomeruli_tables.METRICS
        }
        lines.append(Line(dataset, augmented, percent, model, kind, cells))
    return lines


def write_scores(path: Path, tiles: Sequence[TileResult]) -> None:
    """Writes the counts and the Dice of every tile and class as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["dataset", "slide", "top", "left", "class", *PIXELS, "dice"])
        for tile in tiles:
            for name, counts, dice in zip(
                CLASSES, tile.table.tolist(), tile.dice(), strict=True
            ):
                value = "" if math.isnan(dice) else dice
                lines.writerow([*tile[:4], name, *counts, value])
