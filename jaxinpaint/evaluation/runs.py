"""Opens what training left in a workdir: a checkpoint, and how it came to be."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.core.checkpoint import restore_variables
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.core.system import System, Variables
from jaxinpaint.training.workdir import check_same_model, differences, refuse

SAME_MODEL = (
    *("system", "stage", "channels", "image_size", "model.", "attention."),
    *("intermediate.", "refine.", "inpaint.", "repair.", "optimize."),
    *("generator.", "discriminator."),
)
SAME_SPLIT = (
    "seed",
    "data.split",
    "data.validation_fraction",
    "data.test_fraction",
    "data.damage",
    "data.flag_lost",
    "data.celeba_split",
    "data.limit_train",
    "data.test_subjects",
    "data.lesion_free",
)
DATA = ("data.kind", "data.source")  # another one is another set of images


class Run(NamedTuple):
    """What a workdir holds of a run up to one step.

    Attributes:
      variables: of the checkpoint.
      step: of the checkpoint.
      frozen: digest of the frozen variables that it was trained with; None where the
        checkpoint does not say.
      records: of `metrics.jsonl`, up to it.
      machine: that it was trained on, as `environment` tells it.
      same_stack: whether the config names the images that it was trained on.
    """

    variables: Variables
    step: int
    frozen: str | None
    records: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any]
    same_stack: bool


class Trained(NamedTuple):
    """A trained system, ready to restore.

    Attributes:
      config: of the run, as it was saved.
      system: built from it.
      run: the checkpoint.
      frozen: what its `predict` reads besides; empty if that is nothing.
    """

    config: ConfigDict
    system: System
    run: Run
    frozen: Variables


def open_trained(workdir: Path, step: int | None) -> Trained:
    """Opens a run by what its workdir says of it.

    Args:
      workdir: of the run.
      step: of the checkpoint; the newest good one if None.

    Raises:
      FileNotFoundError: no run, or no such checkpoint.
      ValueError: the config is none, or names an earlier stage that has changed.
    """
    config = saved_config(workdir)
    system = systems.build(config)
    run = open_run(config, system, workdir, step)
    frozen: Variables = {}
    if reads_frozen(system, run.variables):
        frozen = system.load_frozen()
        check_frozen(run, tree_digest(frozen))
    return Trained(config, system, run, frozen)


def reads_frozen(system: System, variables: Variables) -> bool:
    """Whether restoring reads frozen variables, which is found out without running it.

    Losses alone read most feature networks, so their weights need not be here.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        jax.eval_shape(system.predict, variables, {}, system.batch_spec, key)
    except Exception:  # whatever a network raises that lacks its variables
        return True
    return False


def saved_config(workdir: Path) -> ConfigDict:
    """The config that a run was begun with.

    Raises:
      FileNotFoundError: the workdir holds no run.
      ValueError: its `config.json` is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds no run (no config.json); name the --workdir that train.py "
            "was given."
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: is no config: {error}") from error
    if not isinstance(content, dict) or "system" not in content:
        raise ValueError(f"{path}: is no config: it names no system.")
    return ConfigDict(content)


def open_run(
    config: ConfigDict, system: System, workdir: Path, step: int | None
) -> Run:
    """Reads a checkpoint and how it came to be.

    Args:
      config: of the model; it may name other images than training's.
      system: built from it.
      workdir: of the run.
      step: of the checkpoint; the newest good one if None.

    Raises:
      FileNotFoundError: no run, or no such checkpoint.
      ValueError: another model, or another split of the images it was trained on.
    """
    check_same_model(workdir, config, SAME_MODEL)
    same_stack = check_same_split(workdir, config)
    template = jax.eval_shape(system.init, jax.random.key(config.seed)).variables
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    restored = restore_variables(workdir / "checkpoints", template, device, step)
    return Run(
        restored.state,
        restored.step,
        restored.meta.get("frozen"),
        read_records(workdir / "metrics.jsonl", restored.step),
        json.loads((workdir / "environment.json").read_text()),
        same_stack,
    )


def check_same_split(workdir: Path, config: ConfigDict) -> bool:
    """Whether a config names the images that a workdir's run was trained on.

    Raises:
      ValueError: it does, but splits them in another way: a test image could be one
        that was trained on.
    """
    changes = differences(workdir / "config.json", config)
    phantom = config.data.source == "phantom"
    images = (*DATA, "data.phantom.") if phantom else DATA
    if any(name.startswith(images) for name in changes):
        return False
    refuse(workdir, {k: v for k, v in changes.items() if k in SAME_SPLIT})
    return True


def read_records(path: Path, step: int) -> list[dict[str, Any]]:
    """The training records up to a step; a line that is cut short is passed over."""
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # of a run that was killed, or still writes
            continue
        if record["step"] <= step:
            records.append(record)
    return records


def training_minutes(records: Sequence[Mapping[str, Any]]) -> float:
    """Time spent in training steps, restarts not counted twice."""
    minutes, last = 0.0, 0
    for record in records:
        if "speed/step_ms" in record:
            minutes += record["speed/step_ms"] * (record["step"] - last) / 60_000
            last = record["step"]
    return minutes


def device_name(machine: Mapping[str, Any]) -> str:
    """Devices, equal ones counted, and the processor."""
    counts = collections.Counter(machine["devices"])
    names = [f"{n} x {name}" if n > 1 else name for name, n in counts.items()]
    return f"{', '.join(names)} ({machine['processor']})"


def check_frozen(run: Run, frozen: str) -> None:
    """Refuses a checkpoint beside other frozen variables than it was trained with.

    Args:
      run: opened.
      frozen: digest of the variables that the config's `load_frozen` gives now.

    Raises:
      ValueError: they are others: of another earlier stage, or of one that has been
        trained on since.
    """
    if run.frozen not in (None, frozen):
        raise ValueError(
            f"step {run.step} was trained with frozen weights of SHA-256 {run.frozen}, "
            f"and the config now names weights of {frozen}; name the earlier stage as "
            "it was then, or train this run again."
        )
