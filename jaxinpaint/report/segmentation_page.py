"""The report of one segmenter: scores by test set and class, slides, outlined tiles."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxinpaint.report import glomeruli_tables, label_panels, plots, rendering
from jaxinpaint.report.label_panels import COLOURS, LabelPanel
from jaxinpaint.report.rendering import Table

Row = Mapping[str, Any]

REGIONS = {
    "image": "tiles",
    "stitched": "slides, every pixel once",
}
METRICS = {  # the metrics of rows that a table shows, in its order
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "dice_image": "Dice",
    "dice_pooled": "Dice, pooled",
}
MEANINGS = {
    "Precision, recall, F1": "of all valid pixels of a test set together; F1 = 2PR / "
    "(P + R). In the lines of the mean, F1 is the harmonic mean of mean precision and "
    "mean recall.",
    "Dice": "mean over tiles, or slides, of their own Dice; where a class is in neither "
    "truth nor prediction, they are left out of its mean.",
    "Dice, pooled": "of all pixels together, by algebra equal to F1.",
    "Tiles": "overlap: a pixel inside a slide counts up to four times.",
    "Slides": "the mean of the probabilities where tiles overlap; every pixel that a "
    "tile covers counts once.",
    "n/a": "nothing there and nothing found.",
}


def write_page(
    path: str | pathlib.Path,
    *,
    title: str,
    results: Mapping[str, Any],
    panels: Sequence[LabelPanel],
    asides: Sequence[Table],
    curves: Sequence[Row],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Writes the report of a segmenter as one HTML file.

    Args:
      path: the file to write; its folder is made.
      title: the heading.
      results: {"rows", "slides", "run"}. Rows are tidy: "dataset" is the test set,
        "bin" a class or "mean", "region" one of REGIONS, "metric", "value" (None for
        0 / 0) and "n". Slides hold "dataset", "slide", "found" and "true" (glomeruli
        by class), "percent_found" and "percent_true". Run as `rendering.facts` takes
        it, with "data" one of `rendering.DATA`.
      panels: tiles to show, in order.
      asides: further tables, after the scores.
      curves: records of metrics.jsonl.
      config: the run's config.
      environment: machine and versions.
      notes: sentences for the reader, shown near the top.

    Raises:
      ImportError: the extra `report` is not installed.
    """
    run = results["run"]
    drawn = [
        {
            "name": panel.name,
            "group": panel.group,
            "caption": panel.caption,
            "pictures": [
                (name, rendering.uri(picture))
                for name, picture in label_panels.pictures(panel).items()
            ],
        }
        for panel in panels
    ]
    rendering.write(
        path,
        "segmentation.html",
        title=title,
        run=run,
        facts=rendering.facts(run),
        notes=notes,
        scores=score_tables(results["rows"]),
        meanings=MEANINGS,
        slides=slide_table(results["slides"]),
        asides=asides,
        panels=drawn,
        legend=[
            (_hex(0), "solid", "normal"),
            (_hex(1), "dashed", "sclerosed"),
        ],
        curves=list(plots.training_curves(curves).items()),
        records_title="Config, machine",
        records=rendering.records(
            Config=config, Machine_and_versions=environment, Run=run
        ),
    )


def score_tables(rows: Sequence[Row]) -> list[Table]:
    """One table a test set: a line a region and class."""
    by = {(r["dataset"], r["region"], r["bin"], r["metric"]): r for r in rows}
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        lines: list[list[str]] = []
        groups = {}
        for region, words in REGIONS.items():
            bins = dict.fromkeys(
                r["bin"]
                for r in rows
                if (r["dataset"], r["region"]) == (dataset, region)
            )
            groups[len(lines)] = words.capitalize()
            for name in bins:
                cells = [by.get((dataset, region, name, m)) for m in METRICS]
                images = by[dataset, region, name, "dice_image"]["n"]
                lines.append([name, *map(_text, cells), str(images)])
        head = ["", *METRICS.values(), "n of Dice"]
        found.append(Table(dataset.capitalize(), (), head, lines, (), groups))
    return found


def slide_table(slides: Sequence[Mapping[str, Any]]) -> Table:
    """Glomeruli of each slide, and what part of them is sclerosed."""
    lines = [
        [
            slide["slide"],
            slide["dataset"],
            *(str(slide[which][c]) for which in ("true", "found") for c in _CLASSES),
            *(_percent(slide[f"percent_{which}"]) for which in ("true", "found")),
        ]
        for slide in slides
    ]
    head = ["Slide", "Test set"]
    head += [f"{c}, {which}" for which in ("outlined", "found") for c in _CLASSES]
    head += ["sclerosed, outlined", "sclerosed, found"]
    notes = (
        "Per cent global glomerulosclerosis: 100 x sclerosed / (normal + sclerosed) "
        "glomeruli. A glomerulus is a piece of at least the config's data.min_area "
        "pixels; glomeruli that touch are counted as one. For research alone, no "
        "diagnosis.",
    )
    return Table("Glomeruli of the slides", notes, head, lines)


_CLASSES = ("normal", "sclerosed")


def _hex(number: int) -> str:
    return "#" + bytes(COLOURS[number]).hex()


def _text(row: Row | None) -> str:
    return "–" if row is None else glomeruli_tables.number(row["value"])


def _percent(value: float | None) -> str:
    return glomeruli_tables.NONE if value is None else f"{value:.1f} %"
