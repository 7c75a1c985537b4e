"""The report of one evaluation: a single HTML file that needs nothing but itself."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxinpaint.report import (
    flow_colours,
    paper_tables,
    plots,
    rendering,
    scores,
    tables,
)
from jaxinpaint.report import panels as drawing
from jaxinpaint.report.panels import Panel
from jaxinpaint.report.rendering import DATA, Table, uri

Row = Mapping[str, Any]

WHEEL_SIDE = 160  # of the flow's legend, in pixels of the PNG
RUN_KEYS = ("system", "dataset", "data", "minutes", "device")
# What run["kind"] may be, in words: several, one, and what a phantom does not show.
KINDS = {
    "sections": ("sections", "section", "no tissue"),
    "photographs": ("images", "image", "no photographs"),
    "slices": ("slices", "slice", "no patients"),
    "glomeruli_crops": ("crops", "crop", "no tissue"),
}
WHOLE = "the network's output as it is, not composited: valid pixels are scored too"


def write_page(
    path: str | pathlib.Path,
    *,
    title: str,
    results: Mapping[str, Any],
    paper_rows: Sequence[Row],
    panels: Sequence[Panel],
    curves: Sequence[Row],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    notes: Sequence[str],
    asides: Sequence[Table] = (),
) -> None:
    """Writes the report of one evaluation as one HTML file.

    Everything is inside the file: styles, pictures (PNG) and plots (SVG). It asks no
    server for anything, prints, and reads on a phone, in light and in dark.

    Args:
      path: the file to write; its folder is made.
      title: the heading.
      results: {"rows": [...], "run": {...}}. Rows are tidy: "method", "dataset",
        "bin", "region" ("hole" or "image"), "metric" (a key of scores.METRICS), "value",
        "sd", "n"; optional "infinite" and "undefined" count the scores that were so
        and are not in "value"; optional "p", of a paired test against the system, and
        its "mark", shown beside the value; optional "weights" of a learned metric,
        shown where they are not the published ones. A value or sd may be NaN or None.
        Run says what was run: "system" (a method of the rows), "dataset" (in words),
        "data" ("phantom" or "real"), "minutes" (of training; None for outputs made
        elsewhere), "device"; optional "kind" (of the images, a key of KINDS; sections
        if it is missing), "changed_by_whole_outputs" (method -> valid pixels that it
        changed, of the methods that are not composited), "dtype" (of the images: what
        depends on their levels stands beside no printed number at "uint16"), "steps", "weights", "mask_manifest", "version",
        "compared" (by the method's name, "system" and "steps" of another run), and
        whatever else a reader needs.
      paper_rows: printed scores, as `paper_tables.rows` returns them. Rows of
        `results` whose method starts with "paper" are taken as such too.
      panels: images to show, in order.
      curves: records of metrics.jsonl.
      manifest: the mask manifest. Where it holds "masks", a list of records with
        "label", "ratio", "height", "width" and "hole_pixels", a bin of the same
        name gets its hole ratio, and a name of another size is explained.
      config: the run's config.
      environment: machine and versions.
      notes: sentences for the reader, shown near the top.
      asides: tables of a system's own, shown before the other scores.

    Raises:
      ValueError: a key of a row or of the run is missing or unknown, a score is
        given twice, or the system has no row.
      ImportError: the extra `report` is not installed.
    """
    run = results["run"]
    printed = [row for row in results["rows"] if row["method"].startswith("paper")]
    rows = [row for row in results["rows"] if not row["method"].startswith("paper")]
    paper = list({scores.key(row): row for row in [*printed, *paper_rows]}.values())
    _check(rows, run)
    scores.check(paper)
    deep = scores.OF_LEVELS if run.get("dtype") == "uint16" else ()
    limit = drawing.scale_limit(panels) if panels else drawing.LIMITS[-1]
    flows = [panel.flow for panel in panels if panel.flow is not None]
    reach = flow_colours.flow_limit(flows)
    rendering.write(
        path,
        "inpainting.html",
        title=title,
        run=run,
        words=_words(run),
        whole=list(run.get("changed_by_whole_outputs", ())),
        facts=rendering.facts(run),
        verdict=scores.verdict(rows, run["system"]),
        notes=[*notes, *_mask_notes(manifest)],
        scores=tables.blocks(
            rows,
            [row for row in paper if row["metric"] not in deep],
            system=run["system"],
            ratios=_ratios(manifest),
        ),
        tested=any("p" in row for row in rows),
        series=_series(rows, run),
        panels=[_panel(panel, limit, reach, run["system"]) for panel in panels],
        limit=limit,
        bar=uri(drawing.colour_bar()) if panels else "",
        reach=f"{reach:g}",
        wheel=uri(drawing.png(flow_colours.wheel(WHEEL_SIDE))) if flows else "",
        longest=f"{max(map(flow_colours.longest, flows)):.3g}" if flows else "",
        curves=list(plots.training_curves(curves).items()),
        paper=tables.paper_blocks(paper),
        grids=tables.paper_grids(
            paper, [row for row in rows if row["metric"] not in deep], run["system"]
        ),
        about_paper=paper_tables.ABOUT.get(run["system"], ()) if paper else (),
        asides=asides,
        records_title="Masks, config, machine",
        records=rendering.records(
            Mask_manifest=manifest,
            Config=config,
            Machine_and_versions=environment,
            Run=run,
        ),
    )


def _check(rows: Sequence[Row], run: Mapping[str, Any]) -> None:
    missing = [key for key in RUN_KEYS if key not in run]
    if missing:
        raise ValueError(f"write_page: results['run'] has no {missing}.")
    if run["data"] not in DATA:
        raise ValueError(
            "write_page: run['data'] must be 'phantom' or 'real', so that no number "
            f"is mistaken, or 'given' if nobody knows; got {run['data']!r}."
        )
    if run.get("kind", "sections") not in KINDS:
        raise ValueError(
            f"write_page: run['kind'] is {run['kind']!r}; known are {list(KINDS)}."
        )
    scores.check(rows)
    methods = sorted({row["method"] for row in rows})
    if run["system"] not in methods:
        raise ValueError(
            f"write_page: run['system'] is {run['system']!r}, but the rows hold "
            f"{methods}."
        )


def _words(run: Mapping[str, Any]) -> dict[str, str]:
    """How the images of a run are spoken of."""
    things, thing, none = KINDS[run.get("kind", "sections")]
    if run["minutes"] is None:  # made elsewhere: nobody said what they show
        things, thing = "images", "image"
    return {"things": things, "thing": thing, "none": none}


def _ratios(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Mean part of the image that is hole, by label."""
    found: dict[str, list[float]] = {}
    for mask in manifest.get("masks", ()):
        found.setdefault(mask["label"], []).append(mask["ratio"])
    return {label: sum(ratios) / len(ratios) for label, ratios in found.items()}


def _mask_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Explains a label such as 32x32 where the hole has another number of pixels."""
    for mask in manifest.get("masks", ()):
        sides = mask["label"].split("x")
        if len(sides) != 2 or not all(side.isdigit() for side in sides):
            continue
        if int(sides[0]) * int(sides[1]) != mask["hole_pixels"]:
            return [
                "A mask's name is its size in the paper's images. Here an image is "
                f"{mask['height']} x {mask['width']} pixels and the hole of "
                f"{mask['label']} has {mask['hole_pixels']}: the same part of the "
                "image, not the same size."
            ]
    return []


def _series(rows: Sequence[Row], run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, marker and meaning of each method, in the order of a table."""
    meanings = dict(scores.BASELINES)
    meanings |= dict.fromkeys(run.get("changed_by_whole_outputs", ()), WHOLE)
    for name, facts in run.get("compared", {}).items():
        meanings[name] = f"another run of {facts['system']}, {facts['steps']} steps"
    methods = scores.order({row["method"] for row in rows}, run["system"])
    return [
        (name, plots.GLYPHS[plots.mark_of(i)], meanings.get(name, ""))
        for i, name in enumerate(methods)
    ]


def _panel(panel: Panel, limit: int, reach: float, system: str) -> dict[str, Any]:
    drawn = drawing.draw(panel, limit, reach)
    top, left, bottom, right = drawn.box
    height, width = panel.mask.shape[:2]

    def tiles(found: Iterable[drawing.Tile]) -> list[dict[str, Any]]:
        return [
            {
                "name": system if tile.name == "completed" else tile.name,
                "own": tile.name == "completed",
                "picture": uri(tile.picture),
                "difference": uri(tile.difference) if tile.difference else "",
                "error": "" if tile.error is None else f"{tile.error:.1f}",
                "longest": "" if tile.longest is None else f"{tile.longest:.3g}",
                "whole": tile.whole,
            }
            for tile in found
        ]

    return {
        "name": panel.name,
        "bin": panel.bin,
        "caption": panel.caption,
        "score": f"{panel.score:.4g}",
        "frames": tiles(drawn.frames),
        "zooms": tiles(drawn.zooms),
        "changed": drawn.changed,
        "box": f"rows {top}–{bottom - 1}, columns {left}–{right - 1} of "
        f"{height} × {width}",
    }
