"""Puts runs beside each other that were scored on the same images.

It reads what `evaluation` wrote into the workdirs of other runs.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import mask_sets
from jaxinpaint.data.cases import RunData
from jaxinpaint.evaluation.scoring import KEPT, TOLD, Place, Scored
from jaxinpaint.inference.restore import whole_name
from jaxinpaint.metrics.baselines import BASELINES


class Rival(NamedTuple):
    """What another run reached.

    Attributes:
      name: that its system gets among the methods.
      facts: `system`, `steps` and `weights` (a digest) of the run.
      rows: its system's tidy rows.
      values: (bin, region, metric) -> the score of each image, by its name.
    """

    name: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    values: Mapping[tuple[str, str, str], Mapping[str, float]]

    def scored(self, label: str, names: Sequence[str]) -> Scored:
        """Its scores of one kind of mask.

        Args:
          label: of the masks.
          names: of the images, whose order the scores get.

        Raises:
          ValueError: it scored other images.
        """
        scores: dict[Place, Mapping[str, Any]] = {}
        for row in self.rows:
            if row["bin"] != label:
                continue
            place = row["region"], row["metric"]
            kept = {key: np.nan if row[key] is None else row[key] for key in KEPT}
            result = kept | {key: row[key] for key in TOLD if key in row}
            values = self.values.get((label, *place))
            if values is not None:
                if set(values) != set(names):
                    raise ValueError(
                        f"config.eval.compare: {self.name!r} scored other images with "
                        f"the masks {label}; evaluate both runs on the same cases."
                    )
                result["values"] = np.array([values[name] for name in names])
            scores[place] = result
        return Scored(scores, 0)


def cases_keys(kind: str) -> tuple[str, ...]:
    """What places the test images: keys of `config.eval`.

    Args:
      kind: `kind` of the data's summary.
    """
    if kind == "glomeruli_crops":  # every crop is a case, with its own mask
        return ("seed",)
    crops = "crops_per_section" if kind == "sections" else "crops_per_image"
    return ("seed", "crop_size", crops)


def check_methods(
    system: str,
    also: Sequence[str],
    whole: Sequence[str],
    compare: Sequence[tuple[str, str]],
) -> None:
    """Checks that the methods of a report will have names of their own.

    So will their files: "raw" scored whole is `<case>_raw_whole.png`.

    Args:
      system: the system's.
      also: config.eval.also.
      whole: config.eval.whole.
      compare: config.eval.compare, pairs of a name and a workdir.

    Raises:
      ValueError: `compare` holds no pairs, or a name is taken.
    """
    for pair in compare:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(
                "config.eval.compare holds pairs of a name and a workdir, such as "
                f"(('no GAN', 'runs/no_gan'),); got {pair!r}."
            )
    taken = {system, *BASELINES, "completed", "mask"}
    named = [("also", name, {name}) for name in also]
    for name in whole:
        method = whole_name(name)
        named.append(("whole", name, {method, method.replace(" ", "_")}))
    named += [("compare", name, {name}) for name, _ in compare]
    for key, name, uses in named:
        if uses & taken or not name or name.startswith("paper"):
            raise ValueError(
                f"config.eval.{key} names {name!r}, which is the name of something "
                "else in a report; give each method one of its own."
            )
        taken |= uses


def read_rivals(
    config: ConfigDict, data: RunData, dataset: str, weights: Mapping[str, Any]
) -> list[Rival]:
    """Reads the runs that `config.eval.compare` names.

    Args:
      config: of this run.
      data: built from it; its test cases are drawn once, unless nothing is compared.
      dataset: this run's, as its results name it.
      weights: of this run's learned metrics, by metric.

    Raises:
      FileNotFoundError: a run was not evaluated.
      ValueError: it was evaluated on other images or masks, or a learned metric with
        other weights.
    """
    if not config.eval.compare:
        return []
    manifest = mask_sets.manifest(_masks(data), config.eval.seed)
    keys = cases_keys(data.summary["kind"])
    here = {
        "dataset": dataset,
        "digest of the images": data.summary["digest"],
        "masks": manifest["sha256"],
        **{f"config.eval.{key}": config.eval[key] for key in keys},
        **{f"weights of {metric}": told for metric, told in weights.items()},
    }
    return [
        read_rival(name, Path(workdir), here) for name, workdir in config.eval.compare
    ]


def read_rival(name: str, workdir: Path, here: Mapping[str, Any]) -> Rival:
    """Reads one run and checks it against `here`, as `read_rivals` makes it."""
    folder = workdir / "eval"
    for file in ("metrics.json", "scores.csv"):
        if not (folder / file).exists():
            raise FileNotFoundError(
                f"config.eval.compare: {name!r} has no {folder / file}; run eval.py "
                f"with --workdir={workdir} first."
            )
    results = json.loads((folder / "metrics.json").read_text())
    run = results["run"]
    there = {
        "dataset": run["dataset"],
        "digest of the images": run["images"]["digest"],
        "masks": run["mask_manifest"],
        **{f"config.eval.{key}": value for key, value in run["config"]["eval"].items()},
        **{f"weights of {metric}": w for metric, w in run["metric_weights"].items()},
    }
    for what, wanted in here.items():
        if what.startswith("weights of ") and what not in there:
            continue  # a learned metric may be that of one run alone
        if there.get(what) != wanted:
            raise ValueError(
                f"config.eval.compare: {name!r} was scored with another {what}, "
                f"{there.get(what)!r}, here {wanted!r}; evaluate both runs alike."
            )
    system = run["system"]
    return Rival(
        name,
        {key: run[key] for key in ("system", "steps", "weights")},
        [row for row in results["rows"] if row["method"] == system],
        _values(folder / "scores.csv", system),
    )


def _masks(data: RunData) -> Iterator[tuple[str, int, np.ndarray]]:
    """Label, index and mask of every test case."""
    for label, group in itertools.groupby(data.test_cases(), lambda case: case.label):
        for index, case in enumerate(group):
            yield label, index, case.mask


def _values(path: Path, system: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """The score of every image of one method."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["method"] == system:
                place = line["bin"], line["region"], line["metric"]
                found.setdefault(place, {})[line["image"]] = float(line["value"])
    return found
