"""Means over the trainings of a study, beside the paper's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import jaxinpaint
from jaxinpaint.evaluation.facts import dataset_name
from jaxinpaint.evaluation.results import write_json
from jaxinpaint.report import glomeruli_tables, rendering
from jaxinpaint.report.glomeruli_tables import Line, averaged
from jaxinpaint.report.rendering import Table
from jaxinpaint.training.workdir import environment, to_json

Row = Mapping[str, Any]
# Test set, augmented, percentage, model, class.
Key = tuple[str, bool, float, str, str]


class Trained(NamedTuple):
    """One training of a segmenter, evaluated.

    Attributes:
      name: of its workdir.
      model: `config.segment.model`.
      augmented: with flips and turns.
      percent: of synthetic tiles.
      seed: of it.
      rows: of its evaluation.
      run: facts of its evaluation.
    """

    name: str
    model: str
    augmented: bool
    percent: float
    seed: int
    rows: Sequence[Row]
    run: Mapping[str, Any]


def means(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """Tidy rows: mean, sample deviation (divisor n - 1) and number of trainings.

    A training without a number (0 / 0) leaves none for the mean.
    """
    values: dict[tuple[Any, ...], list[float | None]] = {}
    for one in trained:
        for row in one.rows:
            place = tuple(row[k] for k in ("dataset", "bin", "region", "metric"))
            key = (one.model, one.augmented, one.percent, *place)
            values.setdefault(key, []).append(row["value"])
    rows = []
    for key, several in values.items():
        model, augmented, percent, dataset, bin, region, metric = key
        cell = averaged(several)
        rows.append(
            {
                "method": "glomeruli",
                "dataset": dataset,
                "bin": bin,
                "region": region,
                "metric": metric,
                "value": cell.value,
                "sd": cell.sd,
                "n": cell.n,
                "model": model,
                "augmented": augmented,
                "synthetic_percent": percent,
            }
        )
    return rows


def lines(rows: Sequence[Row], region: str) -> list[Line]:
    """The lines of the paper's tables, from `means`.

    Args:
      rows: of a study.
      region: "image" as the paper counts, tiles; or "stitched".
    """
    places = ("dataset", "augmented", "synthetic_percent", "model", "bin")
    cells: dict[Key, dict[str, glomeruli_tables.Cell]] = {}
    for row in rows:
        name = {"dice_image": "dice"}.get(row["metric"], row["metric"])
        if row["region"] == region and name in glomeruli_tables.METRICS:
            key: Key = tuple(row[k] for k in places)
            cell = glomeruli_tables.Cell(row["value"], row["sd"], row["n"])
            cells.setdefault(key, {})[name] = cell
    return [Line(*key, found) for key, found in cells.items()]


def printed_rows() -> list[dict[str, Any]]:
    """The paper's Tables 3 to 5 as rows of a study, method "paper"."""
    return [
        {
            "method": "paper",
            "table": str(number),
            "dataset": line.dataset,
            "bin": line.kind,
            "region": "image",
            "metric": {"dice": "dice_image"}.get(metric, metric),
            "value": cell.value,
            "sd": cell.sd,
            "n": cell.n,
            "model": line.model,
            "augmented": line.augmented,
            "synthetic_percent": 100.0 if number == 5 else line.percent,
        }
        for number in (3, 4, 5)
        for line in glomeruli_tables.printed(number)
        for metric, cell in line.cells.items()
    ]


def write_study(
    config: ConfigDict, workdir: Path, trained: Sequence[Trained], failed: Sequence[str]
) -> None:
    """Writes `metrics.json` and `report.html` of a study so far.

    Args:
      config: of the study.
      workdir: of the study.
      trained: its finished trainings.
      failed: names of trainings that diverged.

    Raises:
      ImportError: the extra `report` is not installed.
    """
    rows = means(trained)
    source = config.data.source
    pool = _json(workdir / "synthetic" / "report.json")
    run = {
        "system": "glomeruli",
        "dataset": dataset_name(source),
        "data": "phantom" if source == "phantom" else "real",
        "minutes": sum(one.run["minutes"] for one in trained),
        "device": ", ".join(sorted({one.run["device"] for one in trained})) or "none",
        "version": jaxinpaint.__version__,
        "trainings": len(trained),
        "failed": list(failed),
        "synthetic": pool,
        "config": to_json(config),
        "environment": environment(),
    }
    results = {"rows": rows + printed_rows(), "run": run}
    results["trainings"] = [
        {k: v for k, v in one._asdict().items() if k not in ("rows", "run")}
        | {k: one.run[k] for k in ("steps", "minutes", "weights")}
        for one in trained
    ]
    write_json(workdir / "metrics.json", results)
    model, most = config.study.models[0], float(max(config.study.percents))
    tables = [
        glomeruli_tables.table(number, lines(rows, "image"), model, most)
        for number in (3, 4, 5)
    ]
    tables += [
        _slides_alone(glomeruli_tables.table(n, lines(rows, "stitched"), model, most))
        for n in (3, 4, 5)
    ]
    painted = _json(workdir / "inpaint" / "eval" / "metrics.json")
    if painted and "table2" in painted:
        told = painted["table2"]
        tables.insert(0, glomeruli_tables.image_table(told["measured"], told["n"]))
    tables.append(_trainings(trained))
    rendering.write(
        workdir / "report.html",
        "tables.html",
        title=f"Study of synthetic glomeruli, on {run['dataset']}",
        run=run,
        facts=rendering.facts(run),
        notes=_notes(config, run),
        tables=tables,
        sheets=[],
        plots=[],
        curves=[],
        records_title="Config, machine",
        records=rendering.records(
            Config=run["config"], Machine_and_versions=run["environment"], Run=run
        ),
    )


def _notes(config: ConfigDict, run: Mapping[str, Any]) -> list[str]:
    options, pool = config.study, run["synthetic"]
    notes = [
        f"{run['trainings']} trainings so far, seeds {list(options.seeds)}, each with a "
        "split and an initialisation of its own. Test slides reach neither the "
        "outlines, nor the inpainting, nor the synthesis.",
    ]
    if pool:
        notes.append(
            f"{pool['placements']} glomeruli were painted on {pool['outputs']} slides; "
            f"{pool['tiles']} tiles show one."
        )
    if run["failed"]:
        notes.append(f"Diverged, and in no mean: {', '.join(run['failed'])}.")
    return notes


def _slides_alone(table: Table) -> Table:
    """A table of scores of whole slides: what was measured, without printed lines."""
    kept = [n for n in range(len(table.lines)) if n not in table.printed]
    groups: dict[int, str] = {}
    heading, told = "", None
    for new, old in enumerate(kept):
        heading = [table.groups[n] for n in sorted(table.groups) if n <= old][-1]
        if heading != told:
            groups[new], told = heading, heading
    return Table(
        table.title.replace(":", " by slides:", 1) + ", every pixel once",
        ("The paper counts tiles, which overlap; it prints nothing to compare with.",),
        table.head,
        [table.lines[n] for n in kept],
        (),
        groups,
    )


def _trainings(trained: Sequence[Trained]) -> Table:
    lines = [
        [
            one.name,
            str(one.run["steps"]),
            f"{one.run['minutes']:.3g}",
            *(_mean_of(one, dataset) for dataset in _datasets(trained)),
        ]
        for one in trained
    ]
    head = ["Training", "Step", "Minutes"]
    head += [f"mean F1, {dataset}" for dataset in _datasets(trained)]
    notes = ("Each has its own report in segment/<training>/eval.",)
    return Table("Trainings", notes, head, lines)


def _datasets(trained: Sequence[Trained]) -> list[str]:
    return sorted({row["dataset"] for one in trained for row in one.rows})


def _mean_of(one: Trained, dataset: str) -> str:
    want = (dataset, "mean", "image", "f1")
    for row in one.rows:
        if tuple(row[k] for k in ("dataset", "bin", "region", "metric")) == want:
            return glomeruli_tables.number(row["value"])
    return "–"


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
