"""Runs a system on the test cases of its data and reports it beside classical fills.

It joins data, inference, metrics and report, which do not know each other.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from jaxinpaint import systems
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data import mask_sets, pipeline
from jaxinpaint.data.cases import Case
from jaxinpaint.data.images import read_mask
from jaxinpaint.evaluation import painted
from jaxinpaint.evaluation.comparing import Rival, check_methods, read_rivals
from jaxinpaint.evaluation.facts import dataset_name, facts_of, notes
from jaxinpaint.evaluation.filling import (
    blanked_batch,
    image_path,
    mask_path,
    outputs,
    read_filled,
    write_restored,
)
from jaxinpaint.evaluation.learned import (
    expect_sides,
    few_images,
    learned,
    not_comparable,
)
from jaxinpaint.evaluation.results import chunks, remove, say, write_json
from jaxinpaint.evaluation.runs import check_frozen, open_run
from jaxinpaint.evaluation.scoring import Filled, More, Scored, score, tidy
from jaxinpaint.evaluation.showing import panels
from jaxinpaint.inference.restore import predictor
from jaxinpaint.metrics.baselines import import_opencv
from jaxinpaint.report import paper_tables, plots
from jaxinpaint.report.page import write_page
from jaxinpaint.training.workdir import environment, to_json

RESULTS = ("report.html", "metrics.json", "masks.json", "scores.csv", "images")

Fill = Callable[[Sequence[Case]], Filled]


class Bin(NamedTuple):
    """All cases of one kind of mask, scored.

    Attributes:
      label: of the masks.
      names: of the cases, in order.
      guided: how many had a training section as neighbour.
      methods: method -> its scores, the system first.
    """

    label: str
    names: Sequence[str]
    guided: int
    methods: Mapping[str, Scored]


def evaluate_run(config: ConfigDict, workdir: Path, step: int | None) -> Path:
    """Scores one checkpoint of a run on its test images; writes `eval/`.

    `eval/metrics.json` holds tidy rows and what was run, `eval/scores.csv` the scores
    of every image, `eval/report.html` the page, `eval/masks.json` the mask manifest,
    and `eval/images/<mask>/<case>.png` the restored images, whose levels are what is
    scored, beside their masks. Painted glomeruli have `table2` in the metrics too. Those of an earlier evaluation are removed. The rows
    of the other methods hold a paired t-test against the system (`tidy`).

    What `config.eval.also` names among the system's outputs, such as "reference", is
    put into the hole, written beside as `<case>_reference.png`, and scored as a method
    of its own. What `config.eval.whole` names, such as "raw", is written and scored as
    it is predicted, valid pixels included: `<case>_raw_whole.png`, method "raw whole".
    The valid pixels that it changes are counted apart. `config.eval.compare` names runs
    that were evaluated on the same cases before: their scores are read and join the
    results as methods of their own.

    Args:
      config: of the run; `eval` may differ from training's, and so may `data` where
        it names other images.
      workdir: of the run.
      step: of the checkpoint; the newest good one if None.

    Returns:
      The report's path.

    Raises:
      ValueError: the workdir holds another model, another split of these images, or
        a run on other frozen weights, or the data do not fit.
      FileNotFoundError: there is no such checkpoint.
      ImportError: the extra `baselines` or `report` is not installed.
    """
    for module in ("jinja2", "matplotlib"):
        plots.extra(module)  # now, not after hours
    import_opencv("evaluate_run")
    judges = learned(config.eval.lpips, config.eval.lpips_vgg, config.eval.fid)
    also, whole = tuple(config.eval.also), tuple(config.eval.whole)
    check_methods(config.system, also, whole, config.eval.compare)
    system = systems.build(config)
    run = open_run(config, system, workdir, step)
    frozen = system.load_frozen()
    check_frozen(run, tree_digest(frozen))
    derived = systems.derived(config)
    data = pipeline.build(config, system.batch_spec, 0, 1, derived)
    folder = workdir / "eval"
    channels = data.summary["shape"][-1]
    names, size = list(system.batch_spec), config.eval.batch_size
    restore = predictor(config, system, run.variables, frozen, also, ("flow",), whole)
    made: set[str] = set()

    def fill(cases: Sequence[Case]) -> Filled:
        place = (channels, folder / "images", outputs(config))
        made.update(write_restored(cases, names, restore, size, *place))
        return read_filled(config.system, cases, *place)

    def flow_of(case: Case) -> np.ndarray:
        return restore(blanked_batch([case], names, size))["flow"][0]

    rivals = read_rivals(config, data, dataset_name(config.data.source), judges.weights)
    cases = data.test_cases()
    first = next(cases, None)  # its errors come before anything is removed
    if first is None:
        raise ValueError("config.eval.masks names no mask to score.")
    expect_sides(judges.weights, "the test images", first.image.shape)
    remove(folder, RESULTS)
    console = Console(stderr=True, soft_wrap=True)
    cases = itertools.chain([first], cases)
    for line in not_comparable(judges.weights):
        say(console, f"Note: {line}")
    crops = data.summary["kind"] == painted.KIND
    more = painted.with_local(judges.more) if crops else judges.more
    bins = list(score_cases(cases, fill, config.eval.batch_size, console, more))

    manifest = mask_sets.manifest(
        written_masks(bins, folder / "images"), config.eval.seed
    )
    facts = facts_of(config, run, data, bins, manifest)
    facts["frozen_weights"] = tree_digest(frozen) if frozen else None
    facts["metric_weights"] = judges.weights
    facts["compared"] = {rival.name: rival.facts for rival in rivals}
    bins = [joined(one, rivals) for one in bins]
    settings: dict[str, Any] = {"config": to_json(config), "environment": environment()}
    rows = [
        row
        for one in bins
        for method, scored in one.methods.items()
        for row in tidy(
            method,
            facts["dataset"],
            one.label,
            scored,
            None if method == config.system else one.methods[config.system],
        )
    ]
    printed = paper_tables.rows(config.system)
    write_json(folder / "masks.json", manifest)
    results: dict[str, Any] = {"rows": rows + printed, "run": facts | settings}
    asides = []
    if crops:
        results["table2"] = painted.table_2(rows, config.system, facts["dtype"])
        asides.append(painted.aside(results["table2"]))
    write_json(folder / "metrics.json", results)
    write_scores(folder / "scores.csv", bins)
    write_page(
        folder / "report.html",
        title=f"{config.system} on {facts['dataset']}",
        results={"rows": rows, "run": facts},
        paper_rows=printed,
        panels=panels(
            config,
            bins,
            data.test_cases(),
            channels,
            folder / "images",
            guides=names,
            flow_of=flow_of if "flow" in made else None,
        ),
        curves=run.records,
        manifest=manifest,
        notes=notes(config, facts, manifest, names) + few_images(rows),
        asides=asides,
        **settings,
    )
    say(console, f"{facts['valid_pixels_changed']} valid pixels changed.")
    return folder / "report.html"


def score_cases(
    cases: Iterable[Case],
    fill: Fill,
    batch_size: int,
    console: Console,
    more: More | None = None,
) -> Iterator[Bin]:
    """Fills and scores the cases, one kind of mask after the other.

    One batch of cases is in memory at a time.

    Args:
      cases: sorted by label.
      fill: a batch of cases -> what every method made of them, the system first.
      batch_size: cases that are filled and scored at once.
      console: shows a bar, or plain lines where it is no terminal.
      more: further metrics, as `score` takes them.
    """
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed} images"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        for label, group in itertools.groupby(cases, lambda case: case.label):
            bar.reset(task, description=label)
            one = score_bin(
                label, group, fill, batch_size, lambda n: bar.advance(task, n), more
            )
            system = next(iter(one.methods.values()))
            mean = system.scores["hole", "psnr"]["value"]
            what = f"{mean:.2f} dB" if np.isfinite(mean) else "no difference"
            say(bar.console, f"{label}: {len(one.names)} images, {what} in the hole")
            yield one


def score_bin(
    label: str,
    cases: Iterable[Case],
    fill: Fill,
    batch_size: int,
    advance: Callable[[int], None],
    more: More | None = None,
) -> Bin:
    """Fills and scores the cases of one kind of mask; `advance` hears how many."""
    facts: list[tuple[str, bool]] = []

    def parts() -> Iterator[Filled]:
        for some in chunks(cases, batch_size):
            yield fill(some)
            facts.extend((case.name, case.neighbor_in_training) for case in some)
            advance(len(some))

    methods = score(parts(), batch_size, more)
    return Bin(label, [name for name, _ in facts], sum(g for _, g in facts), methods)


def joined(one: Bin, rivals: Sequence[Rival]) -> Bin:
    """The bin with the scores of other runs, which are of the same images.

    Raises:
      ValueError: a run scored other images.
    """
    others = {rival.name: rival.scored(one.label, one.names) for rival in rivals}
    return one._replace(methods={**one.methods, **others})


def written_masks(
    bins: Iterable[Bin], folder: Path
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Label, index and mask of every case, read from its file."""
    for one in bins:
        for index, name in enumerate(one.names):
            path = mask_path(image_path(folder, one.label, name))
            yield one.label, index, read_mask(path)


def write_scores(path: Path, bins: Iterable[Bin]) -> None:
    """Writes the score of every image as CSV, for tests between methods.

    A score of a whole set, such as FID, has none and no line. `weights` says where
    those of a learned metric come from.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        head = ["method", "bin", "image", "region", "metric", "value", "weights"]
        lines.writerow(head)
        for one in bins:
            for method, scored in one.methods.items():
                for (region, metric), result in scored.scores.items():
                    values = result.get("values")
                    if values is None:
                        continue
                    weights = result.get("weights", "")
                    for name, value in zip(one.names, values, strict=True):
                        place = [method, one.label, name, region, metric]
                        lines.writerow([*place, value, weights])
