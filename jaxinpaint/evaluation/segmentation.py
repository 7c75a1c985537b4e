"""Scores a segmenter on the tiles of its test slides, and on the slides themselves.

It joins data, metrics and report, which do not know each other.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import jaxinpaint
from jaxinpaint import systems
from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.core.system import System, Variables
from jaxinpaint.data import glomeruli, glomeruli_tiles
from jaxinpaint.data.slides import CLASSES, Slide, open_slides
from jaxinpaint.data.tiles import Tile
from jaxinpaint.evaluation.facts import dataset_name
from jaxinpaint.evaluation.results import chunks, remove, say, write_json
from jaxinpaint.evaluation.runs import (
    Run,
    best_step,
    check_frozen,
    device_name,
    open_run,
    training_minutes,
)
from jaxinpaint.evaluation.segmented import (
    TileResult,
    lines_of,
    tidy,
    told_of,
    write_scores,
)
from jaxinpaint.evaluation.stitching import Canvas, SlideResult, score_slide
from jaxinpaint.metrics.segmentation import confusion
from jaxinpaint.report import glomeruli_tables, plots
from jaxinpaint.report.label_panels import LabelPanel, spread
from jaxinpaint.report.rendering import Table
from jaxinpaint.report.segmentation_page import write_page
from jaxinpaint.training.workdir import environment, to_json

RESULTS = ("report.html", "metrics.json", "scores.csv", "predictions")
Segment = Callable[[np.ndarray], np.ndarray]


def evaluate_segmentation(config: ConfigDict, workdir: Path, step: int | None) -> Path:
    """Scores one checkpoint of a segmenter on its test slides; writes `eval/`.

    `eval/metrics.json` holds tidy rows, the glomeruli of each slide and what was run,
    `eval/scores.csv` the counts of every tile, `eval/report.html` the page, and
    `eval/predictions/<test set>/<class>/<slide>.png` what was found on each slide (255
    = found). Those of an earlier evaluation are removed.

    A row has method "glomeruli", the test set as dataset, a class or "mean" as bin, and
    region "image" (all valid pixels of all tiles, which overlap) or "stitched" (every
    pixel of a slide once, probabilities averaged). `value` is None for 0 / 0.

    Args:
      config: of the run; `eval` may differ from training's, and so may `data` where it
        names other slides.
      workdir: of the run.
      step: of the checkpoint; if None, the one of the highest validation Dice among
        those that are there, or the newest where none has a score.

    Returns:
      The report's path.

    Raises:
      ValueError: the workdir holds another model, another split of these slides, or
        there is no test tile.
      FileNotFoundError: there is no such checkpoint.
      ImportError: the extra `report` is not installed.

    Source: glomeruli specification 6.2.
    """
    for module in ("jinja2", "matplotlib"):
        plots.extra(module)  # now, not after hours
    system = systems.build(config)
    best = best_step(workdir, "eval/dice")
    chosen = best if step is None else step
    run = open_run(config, system, workdir, chosen)
    frozen = system.load_frozen()
    check_frozen(run, tree_digest(frozen))
    opened = open_slides(config)
    images = images_of(config, system, run, opened)
    segment = segmenter(config, system, run.variables, frozen)
    folder = workdir / "eval"
    console = Console(stderr=True, soft_wrap=True)
    whole = {slide.id: slide for slide in opened}
    stream = glomeruli_tiles.test_tiles(config, opened)
    first = next(stream, None)  # its errors come before anything is removed
    if first is None:
        raise ValueError(
            f"{config.data.source}: no test slide has a tile to score; name test slides "
            "in splits.json, or lower config.data.min_tissue."
        )
    remove(folder, RESULTS)
    tiles, slides = score_tiles(
        itertools.chain([first], stream), whole, segment, config, folder, console
    )
    rows = [*tidy(tiles, "image"), *tidy(slides, "stitched")]
    facts = facts_of(config, run, images, tiles, slides)
    newest = "newest, none has a validation Dice"
    by_score = newest if best is None else "highest validation Dice"
    facts["chosen_by"] = by_score if step is None else "asked for"
    facts["frozen_weights"] = tree_digest(frozen) if frozen else None
    settings: dict[str, Any] = {"config": to_json(config), "environment": environment()}
    told = [told_of(slide) for slide in slides]
    results = {"rows": rows, "slides": told, "run": facts | settings}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", results)
    write_scores(folder / "scores.csv", tiles)
    write_page(
        folder / "report.html",
        title=f"{config.system}, {config.segment.model}, on {facts['dataset']}",
        results={"rows": rows, "slides": told, "run": facts},
        panels=panels(
            config, tiles, glomeruli_tiles.test_tiles(config, opened), segment
        ),
        asides=paper_tables(config, rows),
        curves=run.records,
        notes=notes(config, facts, slides),
        **settings,
    )
    for row in rows:
        if (row["bin"], row["region"], row["metric"]) == ("mean", "image", "f1"):
            value = glomeruli_tables.number(row["value"])
            say(console, f"{row['dataset']}: mean F1 {value}")
    return folder / "report.html"


def images_of(
    config: ConfigDict, system: System, run: Run, slides: Sequence[Slide]
) -> dict[str, Any]:
    """What is said of the images: of the data of training, where these slides are theirs.

    Args:
      config: as of `evaluate_segmentation`.
      system: whose batches the data fit.
      run: of which `same_stack` says whether it was trained on this source.
      slides: opened.

    Returns:
      The data's summary, less the source, which stands in the config alone; of another
      source the kind, and SHA-256 of each test slide.

    Raises:
      ValueError: as `glomeruli.build_tiles`, or tiles of another size than the images.
    """
    if not run.same_stack:
        glomeruli_tiles.expect_side(config.data, system.batch_spec["image"].shape[1])
        tests = {s.id: s.digest for s in slides if s.split.startswith("test")}
        return {"kind": config.data.kind, "slides": tests}
    # Who was trained on, in the data's own words.
    data = glomeruli.build_tiles(config, system.batch_spec, slides=slides)
    return {key: value for key, value in data.summary.items() if key != "source"}


def segmenter(
    config: ConfigDict, system: System, variables: Variables, frozen: Variables
) -> Segment:
    """Makes the function that segments tiles of the host.

    Args:
      config: `seed`, `system` and `eval.batch_size`.
      system: whose `predict` gives `probabilities`.
      variables: trained.
      frozen: what the stage reads besides.

    Returns:
      images uint8 [N, S, S, 3], N at most `eval.batch_size` -> probabilities float32
      [N, S, S, classes]; the last image is repeated, so it compiles once.
    """
    key, size = jax.random.key(config.seed), config.eval.batch_size

    @jax.jit
    def forward(variables: Variables, frozen: Variables, image: jax.Array) -> jax.Array:
        batch = scale_batch({"image": image})
        return system.predict(variables, frozen, batch, key)["probabilities"]

    def segment(images: np.ndarray) -> np.ndarray:
        systems.validate_inputs(config.system, "segment", {"image": images})
        fill = [(0, size - len(images)), (0, 0), (0, 0), (0, 0)]
        made = forward(variables, frozen, np.pad(images, fill, mode="edge"))
        return np.asarray(made, np.float32)[: len(images)]

    return segment


def score_tiles(
    stream: Iterable[Tile],
    whole: Mapping[str, Slide],
    segment: Segment,
    config: ConfigDict,
    folder: Path,
    console: Console,
) -> tuple[list[TileResult], list[SlideResult]]:
    """Segments and counts all tiles; one slide is in memory at a time.

    Args:
      stream: tiles, those of a slide one after the other.
      whole: the slides by id.
      segment: as `segmenter` makes it.
      config: `eval.batch_size`, `eval.threshold` and `data.min_area`.
      folder: gets `predictions`.
      console: shows a bar, or plain lines where it is no terminal.
    """
    threshold, tiles, slides = config.eval.threshold, [], []
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed} tiles"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        for (dataset, name), group in itertools.groupby(
            stream, lambda tile: (tile.split, tile.slide)
        ):
            bar.update(task, description=f"{dataset} {name}")
            slide = whole[name]
            canvas = Canvas(slide.height, slide.width, len(CLASSES))
            for some in chunks(group, config.eval.batch_size):
                found = segment(np.stack([tile.image for tile in some]))
                tables = confusion(
                    np.stack([tile.label for tile in some]),
                    found > threshold,
                    np.stack([tile.valid for tile in some]),
                )
                for tile, table, one in zip(
                    some, np.asarray(tables, np.int64), found, strict=True
                ):
                    place = tile.top, tile.left
                    tiles.append(TileResult(dataset, name, *place, table))
                    canvas.add(*place, one)
                bar.advance(task, len(some))
            least, label = config.data.min_area, slide.label()
            result, maps = score_slide(
                canvas, label, dataset, name, CLASSES, threshold, least
            )
            slides.append(result)
            write_maps(folder / "predictions" / dataset, name, maps)
    return tiles, slides


def write_maps(folder: Path, slide: str, maps: np.ndarray) -> None:
    """Writes what was found, a picture a class of 0 and 255, 1 bit a pixel."""
    for number, name in enumerate(CLASSES):
        path = folder / name / f"{slide}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(maps[..., number]).save(path, optimize=True)


def facts_of(
    config: ConfigDict,
    run: Run,
    images: Mapping[str, Any],
    tiles: Sequence[TileResult],
    slides: Sequence[SlideResult],
) -> dict[str, Any]:
    """What was run, for the results and the page."""
    return {
        "system": config.system,
        "dataset": dataset_name(config.data.source),
        "data": "phantom" if config.data.source == "phantom" else "real",
        "kind": images["kind"],
        "model": config.segment.model,
        "augmented": bool(config.segment.trad_aug),
        "synthetic_percent": float(config.data.synthetic_percent),
        "minutes": training_minutes(run.records),
        "device": device_name(run.machine),
        "steps": run.step,
        "weights": tree_digest(run.variables),
        "version": jaxinpaint.__version__,
        "tiles": len(tiles),
        "slides": len(slides),
        "trained_on_these_images": run.same_stack,
        "images": dict(images),
    }


def notes(
    config: ConfigDict, facts: Mapping[str, Any], slides: Sequence[SlideResult]
) -> list[str]:
    """What a reader has to know before the numbers."""
    sets = ", ".join(dict.fromkeys(slide.dataset for slide in slides))
    trained = (
        "none of them was trained on"
        if facts["trained_on_these_images"]
        else "the config names other data than the run was trained on; whether some of "
        "these slides were among those is not known"
    )
    uncovered = sum(slide.uncovered for slide in slides)
    synthetic = f"{facts['synthetic_percent']:g} % of synthetic tiles"
    augmented = "with" if facts["augmented"] else "without"
    return [
        f"{facts['tiles']} tiles of {config.image_size} x {config.image_size} pixels of "
        f"{facts['slides']} test slides ({sets}); {trained}.",
        f"Trained {augmented} flips and turns, and with {synthetic}. Step "
        f"{facts['steps']} is scored ({facts['chosen_by']}).",
        f"A pixel is of a class where its probability is above {config.eval.threshold}. "
        f"Tiles with less than {config.data.min_tissue:.0%} tissue are left out, as in "
        f"training; {uncovered} pixels of the slides lie in no tile.",
    ]


def paper_tables(config: ConfigDict, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The paper's tables that this one training has lines for."""
    percent = float(config.data.synthetic_percent)
    model = config.segment.model
    lines = lines_of(rows, bool(config.segment.trad_aug), percent, model)
    return [
        glomeruli_tables.table(number, lines, model, percent)
        for number in (3, 4, 5)
        if any(glomeruli_tables.belongs(number, x, model, percent) for x in lines)
        and (number == 3 or percent > 0)
    ]


def panels(
    config: ConfigDict,
    tiles: Sequence[TileResult],
    stream: Iterator[Tile],
    segment: Segment,
) -> list[LabelPanel]:
    """Tiles from the worst to the best of each test set, with outlines.

    Args:
      config: `eval.panels` of each set, `eval.threshold`.
      tiles: scored.
      stream: the same tiles once more.
      segment: as `segmenter` makes it.
    """
    wanted: dict[tuple[Any, ...], TileResult] = {}
    for dataset in sorted({tile.dataset for tile in tiles}):
        own = [tile for tile in tiles if tile.dataset == dataset]
        for index in spread([tile.mean_dice() for tile in own], config.eval.panels):
            wanted[own[index][:4]] = own[index]
    drawn = {}
    for tile in stream:
        place = tile.split, tile.slide, tile.top, tile.left
        if place not in wanted:
            continue
        (probabilities,) = segment(tile.image[None])
        result = wanted[place]
        dice = ", ".join(
            f"{name} {'n/a' if math.isnan(value) else f'{value:.4f}'}"
            for name, value in zip(CLASSES, result.dice(), strict=True)
        )
        drawn[place] = LabelPanel(
            result.name,
            result.dataset,
            f"Dice: {dice}.",
            tile.image,
            {"truth": tile.label, "found": probabilities > config.eval.threshold},
        )
        if len(drawn) == len(wanted):
            break
    return [drawn[place] for place in wanted]
