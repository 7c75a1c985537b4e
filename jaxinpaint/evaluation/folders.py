"""Scores what any program restored: folders in, tidy rows and a report out.

Files are scored as they are: nothing is pasted, resized, cropped or rescaled, and a
valid pixel that differs from the truth is a finding.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from jaxinpaint.core.checks import MaskCoverageError
from jaxinpaint.data.pairs import shown
from jaxinpaint.evaluation.folder_inputs import (
    POLARITIES,
    SHOWN,
    Item,
    Job,
    find,
    inspect_all,
    load,
    marks,
)
from jaxinpaint.evaluation.learned import Learned, expect_sides, learned, not_comparable
from jaxinpaint.evaluation.results import chunks
from jaxinpaint.evaluation.scoring import Filled, Place, Scored, score
from jaxinpaint.metrics.baselines import ALONE, import_opencv
from jaxinpaint.metrics.evaluate import summary
from jaxinpaint.metrics.fid import Moments, fid_result, moments
from jaxinpaint.report.scores import ALL

NO_HOLE, OUTSIDE = "no hole", "outside the bins"
BATCH_PIXELS = 2**21  # of a batch whose size nobody set: 8 images of 512 x 512
FID_BATCH = 16  # at most, since FID enlarges small images
FID = ("image", "fid")

Values = dict[str, dict[str, dict[Place, float]]]  # image, method -> scores
Features = dict[str, dict[str, np.ndarray]]  # image, "truth" or method -> [D] for FID


class Group(NamedTuple):
    """The images of one depth and hole ratio, scored.

    Attributes:
      dataset: what they are called in the rows.
      label: of the hole ratio; `ALL` for all of the dataset.
      items: the images, by name.
      methods: method -> its scores; `values` hold an image each, in this order, but
        for images that a score is not computed of (FSIMc of grey ones).
    """

    dataset: str
    label: str
    items: Sequence[Item]
    methods: Mapping[str, Scored]


class Outcome(NamedTuple):
    """All that was scored, and what was not.

    Attributes:
      items: the images, by name.
      groups: dataset by dataset, hole ratios rising, `ALL` last.
      values: image -> method -> the score of each region and metric.
      missing: names that were left out -> the folders that do not have them.
      failed: names whose files cannot be read -> why.
      remarks: sentences about what looks wrong.
      weights: metric -> what it was computed with, of `learned`.
    """

    items: Sequence[Item]
    groups: Sequence[Group]
    values: Values
    missing: Mapping[str, Sequence[str]]
    failed: Mapping[str, str]
    remarks: Sequence[str]
    weights: Mapping[str, Mapping[str, Any]]


def percent_edges(text: str) -> tuple[Fraction, ...]:
    """Reads "0,10,20": columns (0, 10] and (10, 20] per cent of hole.

    Raises:
      ValueError: no rising numbers from 0 to 100, or parts of 1.
    """
    try:
        edges = tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        edges = ()
    rising = all(low < high for low, high in itertools.pairwise(edges))
    if len(edges) < 2 or not rising or edges[0] < 0 or not 1 < edges[-1] <= 100:
        raise ValueError(
            f"bins are {text!r}; give at least two rising edges in per cent of the "
            "image, from 0 to 100, such as 0,10,20,30."
        )
    return edges


def labels_of(edges: Sequence[Fraction]) -> list[str]:
    """The columns' names, "10-20%" for (10, 20]."""
    words = [f"{float(edge):.6g}" for edge in edges]
    return [f"{low}-{high}%" for low, high in itertools.pairwise(words)]


def label_of(item: Item, edges: Sequence[Fraction]) -> str:
    """The column of an image: lower edge outside, upper inside.

    The hole's pixels are counted, so that an edge is exact.
    """
    if item.hole == 0:
        return NO_HOLE
    ratio = Fraction(100 * item.hole, item.shape[0] * item.shape[1])
    for label, (low, high) in zip(
        labels_of(edges), itertools.pairwise(edges), strict=True
    ):
        if low < ratio <= high:
            return label
    return OUTSIDE


def score_job(job: Job, console: Console) -> Outcome:
    """Matches the files of a job, checks them all, and scores them.

    Every file is read once before anything is scored; later one batch at a time is
    in memory. Images of one size and depth are scored together, which compiles once.

    Args:
      job: what to score.
      console: shows a bar where it is a terminal.

    Raises:
      ValueError: no name in every folder; names that are not, unless they are to be
        skipped; images of one name that differ in size, channels or depth; no image
        that can be read; no mask with a hole; an image too small for a metric.
      OSError: a folder is not there, or weights are not imported.
      ImportError: the extra `baselines` is needed and not installed.
    """
    if job.baselines:
        import_opencv("--baselines")
        twice = [method for method in job.made if method in ALONE]
        if twice:
            raise ValueError(
                f"--baselines adds a method {twice[0]!r}; name yours otherwise, as "
                "--pred NAME=DIR."
            )
    if job.batch_size is not None and job.batch_size < 1:
        raise ValueError(f"batch size is {job.batch_size}; it must be at least 1.")
    files, matched = find(job)
    judges = learned(job.lpips, job.lpips_vgg, job.fid)
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed} of {task.total} images"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("reading", total=len(files))
        items, failed = inspect_all(files, job.polarity, lambda: bar.advance(task))
        _expect_scorable(items, failed, job)
        for item in items:
            expect_sides(judges.weights, str(item.files.truth), item.shape)
        bar.reset(task, description="scoring", total=len(items))
        values, features = score_items(
            items, job, judges, lambda n: bar.advance(task, n)
        )
    groups = groups_of(items, values, features, judges, job)
    return Outcome(
        items,
        groups,
        values,
        matched.missing,
        failed,
        [*not_comparable(judges.weights), *remarks_on(items, job)],
        judges.weights,
    )


def _expect_scorable(
    items: Sequence[Item], failed: Mapping[str, str], job: Job
) -> None:
    if not items:
        raise ValueError(
            f"none of the {len(failed)} images can be read: "
            f"{next(iter(failed.values()))}"
        )
    if not any(item.hole for item in items):
        raise MaskCoverageError(
            f"no mask of {job.mask} has a hole, read with polarity {job.polarity!r} "
            f"({marks(job.polarity)}); there is nothing to score."
        )
    full = [item.files.name for item in items if item.ratio == 1.0]
    if full and job.baselines:
        raise MaskCoverageError(
            f"classical fills need a valid pixel, and the masks of {shown(full, SHOWN)} "
            "have none; leave --baselines out, or check --mask-polarity."
        )


def score_items(
    items: Sequence[Item], job: Job, judges: Learned, advance: Callable[[int], None]
) -> tuple[Values, Features]:
    """Scores images of any sizes, those of one size and depth together.

    Returns:
      The scores of every image, and for FID, which sorts them into sets later, what
      Inception makes of the true images and of each method's: 8 KiB a picture.

    Raises:
      ValueError: a file has changed since it was inspected.
    """
    values: Values = {item.files.name: {} for item in items}
    features: Features = {item.files.name: {} for item in items}
    kinds: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        kinds.setdefault((item.shape, item.dtype), []).append(item)
    for (shape, _), group in kinds.items():
        size = job.batch_size or max(1, BATCH_PIXELS // (shape[0] * shape[1]))
        if job.fid and job.batch_size is None:
            size = min(size, FID_BATCH)
        size = min(size, len(group))

        def parts(group: Sequence[Item] = group, size: int = size) -> Iterator[Filled]:
            for some in chunks(group, size):
                yield load([item.files for item in some], job)
                advance(len(some))

        for method, scored in score(parts(), size, judges.apart).items():
            before = sum(item.changed.get(method, 0) for item in group)
            if scored.changed != before:
                raise ValueError(
                    f"the files of {method} changed while they were scored; run again."
                )
            for place, result in scored.scores.items():
                if place == FID:
                    rows = zip(
                        group, result["truth"], result["prediction"], strict=True
                    )
                    for item, of_truth, of_made in rows:
                        features[item.files.name]["truth"] = of_truth
                        features[item.files.name][method] = of_made
                    continue
                for item, value in zip(group, result["values"], strict=True):
                    of_item = values[item.files.name].setdefault(method, {})
                    of_item[place] = float(value)
    return values, features


def groups_of(
    items: Sequence[Item], values: Values, features: Features, judges: Learned, job: Job
) -> list[Group]:
    """Sorts scored images by depth and hole ratio.

    An error in grey levels means another thing at 16 bits than at 8, so the two are
    two datasets.
    """
    depths = list(dict.fromkeys(item.dtype for item in items))
    groups = []
    for depth in depths:
        dataset = job.dataset
        if len(depths) > 1:
            dataset += f", {depth.removeprefix('uint')} bit"
        here = [item for item in items if item.dtype == depth]
        by_label: dict[str, list[Item]] = {
            label: [] for label in [NO_HOLE, *labels_of(job.edges)]
        }
        for item in here:
            by_label.setdefault(label_of(item, job.edges), []).append(item)
        for label, some in [*by_label.items(), (ALL, here)]:
            if some and label != OUTSIDE:
                found = gather(some, values, features, judges)
                groups.append(Group(dataset, label, some, found))
    return groups


def gather(
    items: Sequence[Item], values: Values, features: Features, judges: Learned
) -> dict[str, Scored]:
    """Sums up the scores of single images, method by method, and compares the sets."""
    found = {}

    def set_of(name: str) -> Moments:
        return moments(np.stack([features[item.files.name][name] for item in items]))

    truth = set_of("truth") if "fid" in judges.weights else None
    for method in values[items[0].files.name]:
        places: dict[Place, list[float]] = {}
        for item in items:
            for place, value in values[item.files.name][method].items():
                places.setdefault(place, []).append(value)
        scores: dict[Place, dict[str, Any]] = {
            place: dict(summary(np.array(some))) for place, some in places.items()
        }
        if truth is not None:
            scores[FID] = fid_result(truth, set_of(method))
        for metric, told in judges.weights.items():
            scores["image", metric]["weights"] = told["source"]
        changed = sum(item.changed.get(method, 0) for item in items)
        found[method] = Scored(scores, changed)
    return found


def remarks_on(items: Sequence[Item], job: Job) -> list[str]:
    """Says what looks like a mistake: inverted masks, empty ones, the wrong folder."""
    remarks = []
    other = POLARITIES[1 - POLARITIES.index(job.polarity)]
    inverted = f"if {marks(other)} in these files, pass --mask-polarity {other}."
    if all(item.ratio > 0.5 for item in items):
        remarks.append(
            f"Every mask is more than half hole (least {min(i.ratio for i in items):.1%}"
            f"): {inverted}"
        )
    empty = [item.files.name for item in items if item.hole == 0]
    if empty:
        remarks.append(
            f"Masks without a hole: {len(empty)} ({shown(empty, SHOWN)}). Their images "
            "count in the scores of the whole image alone."
        )
    for method in job.made:
        if any(item.filled[method] for item in items):
            continue
        if any(item.changed[method] for item in items):
            remarks.append(
                f"{method} equals the truth in the hole of every image and differs "
                f"from it outside: {inverted}"
            )
        else:
            remarks.append(
                f"{method} equals the truth in every pixel of every image; is "
                f"{job.made[method]} the folder you meant?"
            )
    outside = [i.files.name for i in items if label_of(i, job.edges) == OUTSIDE]
    if outside:
        remarks.append(
            f"Images outside the bins: {len(outside)} ({shown(outside, SHOWN)}). They "
            f"count in {ALL!r} alone."
        )
    return remarks
