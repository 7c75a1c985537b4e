"""Scores a system on the test cases of its data, beside the classical fills.

Stands on the roof, with the scripts that call it: it joins data, inference, metrics
and report, which do not know each other.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import jaxinpaint
from jaxinpaint import systems
from jaxinpaint.core.checkpoint import restore_variables
from jaxinpaint.core.system import Variables
from jaxinpaint.data import mask_sets, pipeline
from jaxinpaint.data.images import read_image, write_image
from jaxinpaint.data.sections import Case
from jaxinpaint.inference.restore import restorer
from jaxinpaint.metrics.baselines import BASELINES
from jaxinpaint.metrics.evaluate import Metric, evaluate, image_metric, pad_batch
from jaxinpaint.metrics.fsim import fsim, fsimc
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import ms_ssim, ssim, ssim_eq7
from jaxinpaint.report import paper_tables
from jaxinpaint.report.page import write_page
from jaxinpaint.report.panels import Panel, choose
from jaxinpaint.training.workdir import check_same_model, environment, to_json

MS_SSIM_LEAST = 176  # five scales of an 11 x 11 window
LEVELS = {"uint8": 255.0, "uint16": 65535.0}
SAME_MODEL = ("system", "channels", "image_size", "model.", "attention.")

Restore = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Bin(NamedTuple):
    """All cases of one kind of mask, and what every method made of them.

    Attributes:
      label: of the masks.
      cases: in the order of the arrays.
      made: method -> uint8 or uint16 [cases, H, W, C], read from the written files
        for the system.
      scores: (method, region, metric) -> result of the metric.
    """

    label: str
    cases: Sequence[Case]
    made: Mapping[str, np.ndarray]
    scores: Mapping[tuple[str, str, str], Mapping[str, Any]]


def evaluate_run(config: ConfigDict, workdir: Path, step: int | None) -> Path:
    """Scores one checkpoint of a run on its test sections; writes `eval/`.

    `eval/metrics.json` holds tidy rows and what was run, `eval/report.html` the page,
    `eval/masks.json` the mask manifest, and `eval/images/<mask>/<case>.png` the
    restored images, whose levels are what is scored, beside their masks.

    Args:
      config: of the run; `data` and `eval` may differ from training's.
      workdir: of the run.
      step: of the checkpoint; the newest good one if None.

    Returns:
      The report's path.

    Raises:
      ValueError: the workdir holds another model, or the data do not fit.
      FileNotFoundError: there is no such checkpoint.
    """
    say = functools.partial(Console(stderr=True).print, highlight=False, markup=False)
    check_same_model(workdir, config, SAME_MODEL)
    system = systems.build(config)
    data = pipeline.build(config, system.batch_spec, 0, 1)
    template = jax.eval_shape(system.init, jax.random.key(config.seed)).variables
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    restored = restore_variables(workdir / "checkpoints", template, device, step)
    variables: Variables = restored.state
    restore = restorer(config, system, variables, system.load_frozen())

    folder = workdir / "eval"
    bins = []
    names = list(system.batch_spec)
    for one in bins_of(config, names, data.test_cases(), restore, folder / "images"):
        bins.append(one)
        value = one.scores[config.system, "hole", "psnr"]["value"]
        say(f"{one.label}: {len(one.cases)} images, {value:.2f} dB in the hole")
    if not bins:
        raise ValueError("eval.py: config.eval.masks names no mask to score.")

    manifest = mask_sets.manifest(
        [
            (one.label, index, case.mask)
            for one in bins
            for index, case in enumerate(one.cases)
        ],
        config.eval.seed,
    )
    records = read_records(workdir / "metrics.jsonl", restored.step)
    trained = json.loads((workdir / "environment.json").read_text())
    cases = [case for one in bins for case in one.cases]
    run = {
        "system": config.system,
        "dataset": dataset_name(config),
        "data": "phantom" if config.data.source == "phantom" else "real",
        "minutes": training_minutes(records),
        "device": f"{', '.join(trained['devices'])} ({trained['processor']})",
        "steps": restored.step,
        "weights": weights_digest(variables),
        "mask_manifest": manifest["sha256"],
        "version": jaxinpaint.__version__,
        "sections": data.summary,
        "cases": len(cases),
        "cases_guided_by_training_sections": sum(
            case.neighbor_in_training for case in cases
        ),
        "config": to_json(config),
        "environment": environment(),
    }
    results = {"rows": tidy(bins, run["dataset"]), "run": run}
    printed = paper_tables.rows(config.system)
    write_json(folder / "masks.json", manifest)
    write_json(
        folder / "metrics.json", {**results, "rows": [*results["rows"], *printed]}
    )
    page = folder / "report.html"
    write_page(
        page,
        title=f"{config.system} on {run['dataset']}",
        results=results,
        paper_rows=printed,
        panels=panels(bins, config.system, config.eval.panels),
        curves=records,
        manifest=manifest,
        config=to_json(config),
        environment=run["environment"],
        notes=notes(config, run, bins),
    )
    return page


def bins_of(
    config: ConfigDict,
    names: Iterable[str],
    cases: Iterable[Case],
    restore: Restore,
    folder: Path,
) -> Iterator[Bin]:
    """Fills and scores the cases, one kind of mask after the other.

    Args:
      config: `system` and `eval.batch_size` are read.
      names: of the arrays of a case that `restore` takes.
      cases: sorted by label.
      restore: batches to completed images.
      folder: for the restored images.
    """
    known: dict[tuple[str, tuple[int, ...]], Mapping[str, Mapping[str, Metric]]] = {}
    size = config.eval.batch_size
    for label, group in itertools.groupby(cases, lambda case: case.label):
        members = list(group)
        image = members[0].image
        write_restored(members, names, restore, size, folder / folder_name(label))
        made = {config.system: read_restored(members, folder / folder_name(label))}
        for method, baseline in BASELINES.items():
            made[method] = np.stack(
                [
                    baseline(c.image, c.mask, c.neighbor, c.previous, c.following)
                    for c in members
                ]
            )
        kind = (str(image.dtype), image.shape)
        if kind not in known:
            known[kind] = metrics_for(*kind)
        scores = {
            (method, region, metric): result
            for method, images in made.items()
            for region, metrics in known[kind].items()
            for metric, result in evaluate(
                metrics, scored_batches(members, images, size)
            ).items()
        }
        yield Bin(label, members, made, scores)


def write_restored(
    cases: Sequence[Case],
    names: Iterable[str],
    restore: Restore,
    batch_size: int,
    folder: Path,
) -> None:
    """Restores the cases and writes each result beside its mask (255 = hole).

    A grey section that was fed to a colour model as three equal channels is written
    as grey again, the mean of the three.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for some in chunks(cases, batch_size):
        batch = {name: np.stack([getattr(c, name) for c in some]) for name in names}
        padded = pad_batch(batch, batch_size)
        del padded["counts"]
        for case, image in zip(some, restore(padded), strict=False):
            if (case.image == case.image[..., :1]).all():
                image = np.rint(image.mean(axis=-1, keepdims=True)).astype(image.dtype)
            write_image(folder / f"{case.name}.png", image)
            write_image(folder / f"{case.name}_mask.png", case.mask * np.uint8(255))


def read_restored(cases: Sequence[Case], folder: Path) -> np.ndarray:
    """The written results, [cases, H, W, C] with the cases' channels."""
    return np.stack(
        [
            np.broadcast_to(read_image(folder / f"{case.name}.png"), case.image.shape)
            for case in cases
        ]
    )


def metrics_for(dtype: str, shape: tuple[int, ...]) -> dict[str, dict[str, Metric]]:
    """Region -> name -> metric, for images of a dtype and shape [H, W, C].

    MS-SSIM needs sides of 176 and is left out below.
    """
    top = LEVELS[dtype]
    both = {"psnr": psnr, "ssim": ssim, "mae": mae, "fsim": fsim}
    if shape[-1] == 3:
        both["fsimc"] = fsimc
    whole = {**both, "ssim_eq7": ssim_eq7}

    def in_hole(score: Callable[..., jax.Array]) -> Metric:
        return image_metric(functools.partial(score, data_range=top))

    def everywhere(score: Callable[..., jax.Array]) -> Metric:
        return image_metric(
            lambda truth, made, region: score(
                truth, made, jnp.ones_like(region), data_range=top
            )
        )

    metrics = {
        "hole": {name: in_hole(score) for name, score in both.items()},
        "image": {name: everywhere(score) for name, score in whole.items()},
    }
    if min(shape[:2]) >= MS_SSIM_LEAST:
        metrics["image"]["ms_ssim"] = image_metric(
            lambda truth, made, region: ms_ssim(truth, made, data_range=top)
        )
    return metrics


def scored_batches(
    cases: Sequence[Case], made: np.ndarray, size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of `size` for the metrics, the last one filled up."""
    for some in chunks(range(len(cases)), size):
        yield pad_batch(
            {
                "truth": np.stack([cases[i].image for i in some]).astype(np.float32),
                "prediction": made[list(some)].astype(np.float32),
                "region": np.stack([cases[i].mask for i in some]).astype(np.float32),
            },
            size,
        )


def tidy(bins: Sequence[Bin], dataset: str) -> list[dict[str, Any]]:
    """One row a method, mask, region and metric."""
    return [
        {
            "method": method,
            "dataset": dataset,
            "bin": one.label,
            "region": region,
            "metric": metric,
            **{
                name: plain(result[name])
                for name in ("value", "sd", "n", "infinite", "undefined")
            },
        }
        for one in bins
        for (method, region, metric), result in one.scores.items()
    ]


def plain(number: float) -> float | int | None:
    """A number for JSON, which knows no NaN."""
    return number if np.isfinite(number) else None


def panels(bins: Sequence[Bin], system: str, count: int) -> list[Panel]:
    """The worst, median and best cases by PSNR in the hole, over all masks."""
    places = [(one, i) for one in bins for i in range(len(one.cases))]
    values = [one.scores[system, "hole", "psnr"]["values"][i] for one, i in places]
    out = []
    for rank, chosen in choose(values, count).items():
        for at in chosen:
            one, i = places[at]
            case = one.cases[i]
            images = {
                "truth": case.image,
                "masked": np.where(case.mask > 0, 0, case.image),
                "neighbor": case.neighbor,
                "completed": one.made[system][i],
                **{name: one.made[name][i] for name in BASELINES},
            }
            out.append(
                Panel(
                    name=case.name,
                    bin=one.label,
                    caption=f"{rank} PSNR in the hole",
                    score=float(values[at]),
                    images={name: eight_bit(image) for name, image in images.items()},
                    mask=case.mask,
                )
            )
    return out


def eight_bit(image: np.ndarray) -> np.ndarray:
    """For the eye: the upper eight bits."""
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def notes(config: ConfigDict, run: Mapping[str, Any], bins: Sequence[Bin]) -> list[str]:
    """What a reader has to know before the numbers."""
    shape = bins[0].cases[0].image.shape
    guided = run["cases_guided_by_training_sections"]
    lines = [
        f"{run['cases']} test images of {shape[0]} x {shape[1]} pixels; a neighbour "
        f"was a training section in {guided} of them (split: {config.data.split}).",
        "The system sees one neighbour, chosen over the valid pixels; mean_neighbors "
        "sees both where there are two.",
    ]
    if min(shape[:2]) < MS_SSIM_LEAST:
        lines.append(f"MS-SSIM needs sides of {MS_SSIM_LEAST}: not computed.")
    lines.append("LPIPS needs pretrained weights: not computed.")
    return lines


def read_records(path: Path, step: int) -> list[dict[str, Any]]:
    """The training records up to a step."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["step"] <= step]


def training_minutes(records: Sequence[Mapping[str, Any]]) -> float:
    """Time spent in training steps, restarts not counted twice."""
    minutes, last = 0.0, 0
    for record in records:
        if "speed/step_ms" in record:
            minutes += record["speed/step_ms"] * (record["step"] - last) / 60_000
            last = record["step"]
    return minutes


def weights_digest(variables: Variables) -> str:
    """SHA-256 over all parameters, in the tree's order."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def dataset_name(config: ConfigDict) -> str:
    """The source in words: the last parts of its path."""
    return "/".join(Path(config.data.source).parts[-3:])


def folder_name(label: str) -> str:
    """A mask's label as a folder: "30%" is "30_percent"."""
    return label.replace("%", "_percent")


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Runs of at most `size` items."""
    return (items[i : i + size] for i in range(0, len(items), size))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people and programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
