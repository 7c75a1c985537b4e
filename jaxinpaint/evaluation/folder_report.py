"""Tells what `folders` found: a table, and a folder with all of it."""

import contextlib
import csv
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import jaxinpaint
from jaxinpaint.data import mask_sets
from jaxinpaint.evaluation.folder_inputs import Item, Job, load, marks, read_hole
from jaxinpaint.evaluation.folders import Outcome, label_of, labels_of, score_job
from jaxinpaint.evaluation.learned import few_images
from jaxinpaint.evaluation.results import say, write_json
from jaxinpaint.evaluation.runs import device_name
from jaxinpaint.evaluation.scoring import Scored, tidy
from jaxinpaint.evaluation.showing import eight_bit
from jaxinpaint.metrics.ssim import SMALLEST_SIDE
from jaxinpaint.report import plots
from jaxinpaint.report.page import write_page
from jaxinpaint.report.panels import Panel, choose
from jaxinpaint.report.scores import ALL, METRICS, comparable, format_score
from jaxinpaint.training.workdir import environment

RESULTS = ("report.html", "metrics.json", "masks.json", "scores.csv")
PANELS = 2  # of the worst, the median and the best each
COLUMNS = ("psnr", "ssim", "mae")  # of the printed table, before the learned metrics
PLAIN_WIDTH = 300


def run(job: Job, output: Path | None) -> Outcome:
    """Scores a job, prints a table, and writes the results.

    Args:
      job: what to score.
      output: a folder that gets all results or none; nothing is written if None.

    Raises:
      ValueError: as `score_job` and `expect_free`.
      OSError: a folder is not there, or a file cannot be written.
      ImportError: an extra is needed and not installed.
    """
    if output is not None:
        expect_free(output)
    console = Console(stderr=True, soft_wrap=True)
    outcome = score_job(job, console)
    if output is not None:
        with whole_folder(output) as folder:
            write_results(folder, job, outcome)
    for remark in outcome.remarks:
        say(console, f"Note: {remark}")
    for name, reason in outcome.failed.items():
        say(console, f"Left out: {name!r}: {reason}")
    for name, folders in outcome.missing.items():
        say(console, f"Left out: {name!r} is not in {', '.join(folders)}.")
    out = Console(soft_wrap=True)
    if not out.is_terminal:
        out = Console(soft_wrap=True, width=PLAIN_WIDTH)
    print_table(job, outcome, out)
    if output is not None:
        say(out, str(output / "report.html"))
    return outcome


def expect_free(output: Path) -> None:
    """Checks that results can be written to a folder, before anything is scored.

    Raises:
      ValueError: it is a file, or a folder with other files than these results.
      PermissionError: the folder it would lie in may not be written to.
      ImportError: the extra `report` is not installed.
    """
    for module in ("jinja2", "matplotlib"):
        plots.extra(module)
    above = output.resolve()
    while not above.exists():
        above = above.parent
    if above.is_dir() and not os.access(above, os.W_OK):
        raise PermissionError(f"{above} may not be written to; give another --output.")
    if not above.is_dir():
        raise ValueError(f"{above} is a file; --output must be a folder.")
    if output.is_dir():
        others = sorted(
            path.name for path in output.iterdir() if path.name not in RESULTS
        )
        if others:
            raise ValueError(
                f"{output} holds {others[0]!r}, which is no result of this command; "
                "give a new folder."
            )


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A new folder whose files go to `output` if nothing fails, and vanish if it does.

    Earlier files of the same names are replaced.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if output.exists():
            for path in part.iterdir():
                path.replace(output / path.name)
        else:
            part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def rows_of(outcome: Outcome) -> list[dict[str, str | float | int | None]]:
    """Tidy rows of all that was scored, the first method tested against the others."""
    rows = []
    for group in outcome.groups:
        first = next(iter(group.methods))
        for method, scored in group.methods.items():
            against = None if method == first else group.methods[first]
            rows += tidy(method, group.dataset, group.label, scored, against)
    return rows


def write_results(folder: Path, job: Job, outcome: Outcome) -> None:
    """Writes the results of a job.

    `metrics.json` holds tidy rows and what was run, `scores.csv` the scores of every
    image, `masks.json` the mask manifest, `report.html` the page.

    Args:
      folder: to write to.
      job: that was scored.
      outcome: of it.

    Raises:
      OSError: a file cannot be written, or one of the job's is gone.
    """
    manifest = manifest_of(job, outcome)
    facts = facts_of(job, outcome, manifest["sha256"])
    settings: dict[str, Any] = {"config": arguments(job), "environment": environment()}
    rows = rows_of(outcome)
    write_json(folder / "masks.json", manifest)
    write_json(folder / "metrics.json", {"rows": rows, "run": facts | settings})
    write_scores(folder / "scores.csv", job, outcome)
    write_page(
        folder / "report.html",
        title=f"{', '.join(job.made)} on {facts['dataset']}",
        results={"rows": rows, "run": facts},
        paper_rows=[],
        panels=panels(job, outcome),
        curves=[],
        manifest=manifest,
        notes=[*outcome.remarks, *notes(job, outcome), *few_images(rows)],
        **settings,
    )


def manifest_of(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The masks that were scored with: their names, sizes and digests.

    `sha256` is over the records of `masks`, as in every mask manifest; `images` are
    their names in the same order.
    """
    found = (
        (label_of(item, job.edges), index, read_hole(item.files.mask, job.polarity))
        for index, item in enumerate(outcome.items)
    )
    made = mask_sets.manifest(found, 0)
    return {
        "polarity": job.polarity,
        "images": [item.files.name for item in outcome.items],
        "masks": made["masks"],
        "sha256": made["sha256"],
    }


def facts_of(job: Job, outcome: Outcome, mask_digest: str) -> dict[str, Any]:
    """What was scored, for the results and the page; holds no path."""
    items = outcome.items
    return {
        "system": next(iter(job.made)),
        "methods": list(outcome.groups[0].methods),
        "dataset": job.dataset,
        "data": "given",
        "minutes": None,
        "device": device_name(environment()),
        "mask_manifest": mask_digest,
        "mask_polarity": job.polarity,
        "metric_weights": outcome.weights,
        "version": jaxinpaint.__version__,
        "images": len(items),
        "bins": labels_of(job.edges),
        "valid_pixels_changed": {
            method: sum(item.changed[method] for item in items) for method in job.made
        },
        "images_changed": {
            method: sum(item.changed[method] > 0 for item in items)
            for method in job.made
        },
        "left_out": {
            "not_in_every_folder": outcome.missing,
            "not_readable": sorted(outcome.failed),
        },
    }


def arguments(job: Job) -> dict[str, Any]:
    """The job as JSON values."""
    return {
        **job._asdict(),
        "truth": str(job.truth),
        "made": {method: str(path) for method, path in job.made.items()},
        "mask": str(job.mask),
        "edges": [float(edge) for edge in job.edges],
    }


def changed_lines(job: Job, outcome: Outcome) -> list[str]:
    """For each method, how many valid pixels of how many images it changed."""
    items = outcome.items
    valid = sum(item.shape[0] * item.shape[1] - item.hole for item in items)
    lines = []
    for method in job.made:
        changed = sum(item.changed[method] for item in items)
        line = f"{changed} valid pixels changed by {method}"
        if changed:
            some = sum(item.changed[method] > 0 for item in items)
            line += f" ({changed / valid:.2%} of them, images: {some} of {len(items)})"
        lines.append(f"{line}.")
    return lines


def notes(job: Job, outcome: Outcome) -> list[str]:
    """What a reader has to know before the numbers."""
    items = outcome.items
    ratios = [item.ratio for item in items]
    lines = [
        f"Images: {len(items)}; {marks(job.polarity)} in the mask files. The hole is "
        f"{plots.percent(statistics.median(ratios))} of an image in the median, from "
        f"{plots.percent(min(ratios))} to {plots.percent(max(ratios))}.",
        "A column such as 10-20% holds the images with more than 10 % and at most 20 % "
        f"hole; {ALL!r} holds every image.",
        *changed_lines(job, outcome),
    ]
    if outcome.missing:
        lines.append(f"Left out, not in every folder: {len(outcome.missing)}.")
    if outcome.failed:
        lines.append(f"Left out, not readable: {len(outcome.failed)}.")
    small = sum(min(item.shape[:2]) < SMALLEST_SIDE for item in items)
    if small:
        lines.append(
            f"MS-SSIM needs sides of {SMALLEST_SIDE}: not computed for {small} of the "
            "images."
        )
    grey = sum(item.shape[-1] == 1 for item in items)
    if grey:
        lines.append(f"FSIMc needs colour: not computed for {grey} of the images.")
    return lines


def panels(job: Job, outcome: Outcome) -> list[Panel]:
    """The worst, median and best images by the first method's PSNR in the hole."""
    first = next(iter(job.made))
    items = [item for item in outcome.items if item.hole]
    values = [outcome.values[i.files.name][first]["hole", "psnr"] for i in items]
    ranks = choose(values, PANELS)
    return [
        panel(items[index], values[index], rank, job)
        for rank, places in ranks.items()
        for index in places
    ]


def panel(item: Item, value: float, rank: str, job: Job) -> Panel:
    """One image, and what every method made of it."""
    filled = load([item.files], job)
    truth, mask = filled.truth[0], filled.mask[0]
    made = {method: images[0] for method, images in filled.made.items()}
    images = {
        "truth": truth,
        "masked": np.where(mask > 0, 0, truth).astype(truth.dtype),
        "completed": made.pop(next(iter(job.made))),
        **made,
    }
    return Panel(
        name=item.files.name,
        bin=f"{plots.percent(item.ratio)} hole",
        caption=f"{rank} PSNR in the hole",
        score=value,
        images={name: eight_bit(image) for name, image in images.items()},
        mask=mask,
    )


def write_scores(path: Path, job: Job, outcome: Outcome) -> None:
    """Writes the score of every image as CSV, for tests between methods.

    `hole` is the part of the image. The metric `changed` counts the valid pixels that
    differ from the truth. `weights` says where those of a learned metric come from;
    FID has no score of an image.
    """
    head = ("method", "bin", "image", "hole", "region", "metric", "value", "weights")
    sources = {metric: told["source"] for metric, told in outcome.weights.items()}
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(head)
        for method in outcome.groups[0].methods:
            for item in outcome.items:
                name = item.files.name
                place = [method, label_of(item, job.edges), name, item.ratio]
                for (region, metric), value in outcome.values[name][method].items():
                    source = sources.get(metric, "")
                    lines.writerow([*place, region, metric, value, source])
                changed = item.changed.get(method, 0)
                lines.writerow([*place, "valid", "changed", changed, ""])


def print_table(job: Job, outcome: Outcome, console: Console) -> None:
    """Prints the main scores in the hole and over the image, and what was changed.

    The learned metrics, where they were asked for, are of the image alone.
    Plain columns of words where the console is no terminal.
    """
    several = len({group.dataset for group in outcome.groups}) > 1
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1))
    for name in (["data"] if several else []) + ["hole", "method"]:
        table.add_column(name, no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    places = [(region, metric) for metric in COLUMNS for region in ("hole", "image")]
    places += [("image", metric) for metric in outcome.weights]
    for region, metric in places:
        heading = f"{METRICS[metric].label} {region}"
        source = outcome.weights.get(metric, {}).get("source")
        if not comparable(source):
            heading += f" ({source})"
        table.add_column(heading, justify="right", no_wrap=True)
    for group in outcome.groups:
        for method, scored in group.methods.items():
            table.add_row(
                *([group.dataset] if several else []),
                group.label,
                method,
                str(len(group.items)),
                *(cell(scored, *place) for place in places),
            )
    console.print(table)
    for line in changed_lines(job, outcome):
        say(console, line)


def cell(scored: Scored, region: str, metric: str) -> str:
    """A mean, with the images counted apart whose score is infinite."""
    result: Mapping[str, Any] = scored.scores[region, metric]
    infinite = result["infinite"]
    if infinite and not result["n"]:
        return "∞"
    text = format_score(metric, result["value"])
    return f"{text} (+{infinite} ∞)" if infinite else text
