"""Compares outlines that a network draws with those it was trained on.

There is no truth for a drawn outline; what can be compared is how large they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

import jaxinpaint
from jaxinpaint import systems
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data import pipeline
from jaxinpaint.data.contours import components, enclosing_circle
from jaxinpaint.evaluation.facts import dataset_name
from jaxinpaint.evaluation.results import remove, write_json
from jaxinpaint.evaluation.runs import device_name, open_run, training_minutes
from jaxinpaint.inference.synthesize import sample_masks
from jaxinpaint.report import panels, plots, rendering
from jaxinpaint.report.rendering import Table
from jaxinpaint.training.workdir import environment, to_json

RESULTS = ("report.html", "metrics.json")
DRAWN, REAL = "glomeruli", "training outlines"
QUANTILES = (5, 25, 50, 75, 95)
MEASURES = {"area": "Area, px", "radius": "Radius of the enclosing circle, px"}
BINS = 24


def evaluate_outlines(config: ConfigDict, workdir: Path, step: int | None) -> Path:
    """Draws outlines with one checkpoint and compares their sizes; writes `eval/`.

    Args:
      config: of stage "masks"; `eval` has samples, shown, seed, batch_size, threshold.
      workdir: of the run.
      step: of the checkpoint; the newest good one if None.

    Returns:
      The report's path.

    Raises:
      ValueError: the workdir holds another model, or there are no outlines.
      FileNotFoundError: there is no such checkpoint.
      ImportError: the extra `report` is not installed.
    """
    for module in ("jinja2", "matplotlib"):
        plots.extra(module)
    system = systems.build(config)
    run = open_run(config, system, workdir, step)
    data = pipeline.build(config, system.batch_spec, 0, 1)
    options = config.eval
    epoch = [data.batch(n)["image"] for n in range(data.summary["steps_per_epoch"])]
    pictures = {
        DRAWN: sample_masks(
            system, run.variables, options.samples, options.seed, options.batch_size
        ),
        REAL: np.concatenate(epoch)[..., 0] / np.float32(255),
    }
    scale = config.data.crop_size / config.image_size
    measured = {
        name: measure(maps, options.threshold, scale, config.data.min_area)
        for name, maps in pictures.items()
    }
    dataset = dataset_name(config.data.source)
    rows = tidy(measured, dataset)
    facts = {
        "system": config.system,
        "dataset": dataset,
        "data": "phantom" if config.data.source == "phantom" else "real",
        "minutes": training_minutes(run.records),
        "device": device_name(run.machine),
        "steps": run.step,
        "weights": tree_digest(run.variables),
        "version": jaxinpaint.__version__,
        "digest": data.summary["digest"],
    }
    settings: dict[str, Any] = {"config": to_json(config), "environment": environment()}
    folder = workdir / "eval"
    remove(folder, RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"rows": rows, "run": facts | settings})
    rendering.write(
        folder / "report.html",
        "tables.html",
        title=f"{config.system}, outlines, on {dataset}",
        run=facts,
        facts=rendering.facts(facts),
        notes=[
            f"A glomerulus is a piece of at least {config.data.min_area} pixels of a "
            f"{config.data.crop_size} x {config.data.crop_size} window where the map is "
            f"above {options.threshold}; areas and radii are in pixels of that window.",
            "`jaxinpaint synthesize` gives its outlines even sizes: what counts here is "
            "their shape, and that few are empty.",
        ],
        tables=[size_table(measured)],
        sheets=[
            {
                "title": "Outlines",
                "lead": "Grey maps as the network draws and reads them.",
                "pictures": [
                    (words, rendering.uri(panels.png(sheet(maps[: options.shown]))))
                    for words, maps in (
                        ("drawn", pictures[DRAWN]),
                        ("trained on", pictures[REAL]),
                    )
                ],
            }
        ],
        plots=[
            (words, plots.histogram({n: m[name] for n, m in measured.items()}, BINS))
            for name, words in MEASURES.items()
        ],
        curves=list(plots.training_curves(run.records).items()),
        records_title="Config, machine",
        records=rendering.records(
            Config=settings["config"],
            Machine_and_versions=settings["environment"],
            Run=facts,
        ),
    )
    return folder / "report.html"


def measure(
    maps: np.ndarray, threshold: float, scale: float, least: float
) -> dict[str, list[float]]:
    """Sizes of the pieces of maps.

    Args:
      maps: [N, H, W] in [0, 1].
      threshold: a piece is what lies above it.
      scale: pixels of the window that a pixel of the maps is wide.
      least: area in pixels of the window of the smallest piece that counts.

    Returns:
      `area` and `radius` (of the enclosing circle) of each piece, and `pieces` of each
      map.
    """
    found: dict[str, list[float]] = {"area": [], "radius": [], "pieces": []}
    for one in maps:
        numbered, count = components(one > threshold)
        areas = np.bincount(numbered.reshape(-1), minlength=count + 1) * scale**2
        large = [n for n in range(1, count + 1) if areas[n] >= least]
        found["pieces"].append(float(len(large)))
        for number in large:
            *_, radius = enclosing_circle(np.argwhere(numbered == number))
            found["area"].append(float(areas[number]))
            found["radius"].append(radius * scale)
    return found


def tidy(
    measured: Mapping[str, Mapping[str, Sequence[float]]], dataset: str
) -> list[dict[str, Any]]:
    """Rows: means, the share of empty maps, and how far the distributions lie apart.

    `area_distance` and `radius_distance` are the largest difference between the two
    cumulative distributions (Kolmogorov and Smirnov), 0 where they are equal.
    """
    rows = []

    def add(method: str, metric: str, value: float, sd: float, n: int) -> None:
        numbers = {"value": value, "sd": sd}
        known = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        place = {"method": method, "dataset": dataset, "bin": "all"}
        rows.append({**place, "region": "outline", "metric": metric, **known, "n": n})

    for method, values in measured.items():
        for metric in ("area", "radius", "pieces"):
            own = np.asarray(values[metric], np.float64)
            mean = own.mean() if own.size else math.nan
            sd = own.std(ddof=1) if own.size > 1 else math.nan
            add(method, metric, float(mean), float(sd), own.size)
        empty = np.asarray(values["pieces"]) == 0
        share = float(empty.mean()) if empty.size else math.nan
        add(method, "empty", share, math.nan, empty.size)
    for metric in MEASURES:
        both = [measured[name][metric] for name in (DRAWN, REAL)]
        apart = stats.ks_2samp(*both).statistic if all(both) else math.nan
        add(DRAWN, f"{metric}_distance", float(apart), math.nan, len(both[0]))
    return rows


def size_table(measured: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Quantiles of both kinds of outlines."""
    lines = []
    for metric, words in MEASURES.items():
        for method, name in ((DRAWN, "drawn"), (REAL, "trained on")):
            values = measured[method][metric]
            texts = ["–"] * len(QUANTILES)
            if values:
                texts = [f"{value:.1f}" for value in np.percentile(values, QUANTILES)]
            lines.append([f"{words}, {name}", *texts, str(len(values))])
    head = ["", *(f"{q} %" for q in QUANTILES), "Pieces"]
    counts = {
        name: np.asarray(measured[method]["pieces"])
        for method, name in ((DRAWN, "drawn"), (REAL, "trained on"))
    }
    notes = [
        f"Maps {name}: {len(own)}, without a piece {int((own == 0).sum())}, with several "
        f"{int((own > 1).sum())}."
        for name, own in counts.items()
    ]
    return Table("Sizes: quantiles", notes, head, lines)


def sheet(maps: np.ndarray) -> np.ndarray:
    """Maps side by side on a square sheet, uint8, a pixel of grey between them."""
    side = math.ceil(math.sqrt(len(maps)))
    height, width = (n + 1 for n in maps.shape[1:])
    page = np.full((side * height - 1, side * width - 1), 128, np.uint8)
    for number, one in enumerate(maps):
        top, left = number // side * height, number % side * width
        levels = np.rint(np.clip(one, 0, 1) * 255).astype(np.uint8)
        page[top : top + height - 1, left : left + width - 1] = levels
    return page
