"""Searches for the weights that a paper does not print.

Short trainings, each with other weights, judged on subjects that are held out of
training; test images are never read. The first are drawn at random, the others where
a tree-structured Parzen estimator (optuna's TPE) expects most.

A workdir holds `trials.journal`, which survives a kill, `search.json` for people, and a
workdir of each trial. A search that is run again goes on, trial for trial as if it had
never stopped: what a trial draws depends on the seed, its number and the results of
the trials before.
"""

import importlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jaxinpaint import systems
from jaxinpaint.data import pipeline
from jaxinpaint.data.cases import RunData
from jaxinpaint.evaluation.runs import open_run
from jaxinpaint.evaluation.scoring import LEVELS
from jaxinpaint.inference.restore import predictor, whole_name
from jaxinpaint.metrics.ssim import ssim
from jaxinpaint.training.guard import NonFiniteError
from jaxinpaint.training.loop import train
from jaxinpaint.training.workdir import differences, refuse, to_json, write_atomically

FREE = ("search.trials", "data.threads", "data.cache_dir")  # may change on the way
Values = Mapping[str, float]


class Stopped(Exception):
    """A trial was asked to stop; the same command goes on with it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Trial(NamedTuple):
    """One short training.

    Attributes:
      number: from 0.
      values: by config key.
      score: None where the training diverged.
    """

    number: int
    values: Values
    score: float | None


def search(config: ConfigDict, workdir: Path, trials: int) -> int:
    """Runs a search, or goes on with it.

    Args:
      config: of the system; `search` says what is tried: space ((key, low, high), ...)
        of log-uniform values, trials, random_trials, steps of each, slices (how many
        held-out images are scored) and seed.
      workdir: of this search alone.
      trials: in all, those of earlier runs included.

    Returns:
      0; or 143 or 130 after SIGTERM or SIGINT, with the trial saved.

    Raises:
      ValueError: another config than the search began with, or no subject is held out.
      ImportError: the extra `search` is not installed.
    """
    optuna_module()
    keep_config(config, workdir)
    data = held_out(config)
    console = Console(stderr=True, soft_wrap=True)

    def score(values: Values, folder: Path) -> float:
        return train_and_score(config, values, folder, data)

    def tell(done: Sequence[Trial]) -> None:
        write(workdir / "search.json", config, data, done)
        last, best = done[-1], best_of(done)
        values = "  ".join(f"{k} {v:.4g}" for k, v in last.values.items())
        what = "diverged" if last.score is None else f"SSIM {last.score:.5f}"
        line = f"Trial {last.number + 1}/{trials}: {values}: {what}"
        if best is not None:
            line += f" (best {best.score:.5f}, trial {best.number + 1})"
        console.print(line, highlight=False, markup=False)

    try:
        done = study(config.search, workdir, trials, score, tell)
    except Stopped as stopped:
        return stopped.exit_code
    best = best_of(done)
    if best is not None:
        print(" ".join(f"--config.{k}={v:.6g}" for k, v in best.values.items()))
    return 0


def study(
    options: ConfigDict,
    workdir: Path,
    trials: int,
    score: Callable[[Values, Path], float],
    tell: Callable[[Sequence[Trial]], None],
) -> list[Trial]:
    """Tries values until there are so many trials.

    Args:
      options: `config.search`.
      workdir: gets `trials.journal`, and a folder of each trial under `trials`.
      trials: in all.
      score: (values, folder of the trial) -> what is to be large. One that was cut
        short is called again with the same values and folder. NonFiniteError counts
        the trial as diverged; any other error ends the study.
      tell: hears all finished trials after each one.

    Returns:
      The finished trials.

    Raises:
      ImportError: the extra `search` is not installed.
    """
    optuna = optuna_module()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = optuna.storages.journal.JournalFileBackend(
        str(workdir / "trials.journal")
    )
    found = optuna.create_study(
        storage=optuna.storages.JournalStorage(journal),
        study_name="search",
        direction="maximize",
        load_if_exists=True,
    )
    states = optuna.trial.TrialState
    space = {
        key: optuna.distributions.FloatDistribution(low, high, log=True)
        for key, low, high in options.space
    }

    def finished() -> list[Trial]:
        over = found.get_trials(states=(states.COMPLETE, states.FAIL))
        return [Trial(t.number, dict(t.params), t.value) for t in over]

    def run(number: int, values: Values) -> None:
        folder = workdir / "trials" / f"{number:03d}"
        try:
            found.tell(number, score(values, folder))
        except NonFiniteError:
            found.tell(number, state=states.FAIL)
        # What a trial learnt is its score; two dozen whole states fill a disk.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        tell(finished())

    for one in found.get_trials(states=(states.RUNNING,)):  # cut short
        run(one.number, dict(one.params))
    while (number := len(found.get_trials(deepcopy=False))) < trials:
        seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
        if number < options.random_trials:
            found.sampler = optuna.samplers.RandomSampler(seed)
        else:
            found.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        one = found.ask(space)
        run(one.number, dict(one.params))
    return finished()


def train_and_score(
    config: ConfigDict, values: Values, folder: Path, data: RunData
) -> float:
    """Trains with other weights for `config.search.steps`, and scores the result.

    Args:
      config: of the system.
      values: what replaces its own, by key.
      folder: workdir of the trial.
      data: whose validation batch is scored.

    Returns:
      The mean SSIM over whole images of what the system predicts: of the first of
      `config.eval.whole`, as it is, or else of `completed`.

    Raises:
      Stopped: a signal came; the trial is saved.
      NonFiniteError: it diverged.
    """
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict({**values, "steps": config.search.steps})
    own.lock()
    system = systems.build(own)
    trained = pipeline.build(own, system.batch_spec, 0, 1)
    outcome = train(system, trained.train, trained.validation, own, folder)
    if outcome.exit_code:
        raise Stopped(outcome.exit_code)
    run = open_run(own, system, folder, None)
    whole = tuple(own.eval.whole)[:1]
    restore = predictor(own, system, run.variables, system.load_frozen(), (), (), whole)
    return mean_ssim(
        restore,
        whole_name(whole[0]) if whole else "completed",
        data.validation,
        own.eval.batch_size,
    )


def mean_ssim(
    restore: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]],
    name: str,
    batch: Mapping[str, np.ndarray],
    size: int,
) -> float:
    """The mean SSIM over whole images, on their integer levels (section 5.4).

    Args:
      restore: as `predictor` makes it.
      name: of what it makes that is scored.
      batch: of the host, uint8 or uint16 images.
      size: rows that are restored at once; the last run is filled up.
    """
    truth = batch["image"]
    scores: list[float] = []
    for at in range(0, len(truth), size):
        rows = np.minimum(np.arange(at, at + size), len(truth) - 1)
        part = {key: array[rows] for key, array in batch.items()}
        made = restore(part)[name]
        values = ssim(
            jnp.asarray(part["image"], jnp.float32),
            jnp.asarray(made, jnp.float32),
            jnp.ones_like(part["mask"], jnp.float32),
            data_range=LEVELS[str(truth.dtype)],
        )
        scores += np.asarray(values)[: len(truth) - at].tolist()
    return float(np.mean(scores))


def held_out(config: ConfigDict) -> RunData:
    """The data of a config, with as many validation images as the search scores.

    Raises:
      ValueError: none is held out of training.
    """
    own = config.copy_and_resolve_references()
    own.data.validation_crops = config.search.slices
    data = pipeline.build(own, systems.build(own).batch_spec, 0, 1)
    if data.summary["validation_from"] != "validation":
        raise ValueError(
            "a search is judged on subjects that are not trained on, and none is held "
            "out; raise config.data.validation_fraction."
        )
    return data


def keep_config(config: ConfigDict, workdir: Path) -> None:
    """Begins a workdir, or checks that it holds a search with this config.

    Raises:
      ValueError: it holds another one; names the keys.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if path.exists():
        changes = differences(path, config)
        refuse(workdir, {k: v for k, v in changes.items() if k not in FREE})
    write_atomically(path, json.dumps(to_json(config), indent=2))


def write(path: Path, config: ConfigDict, data: RunData, done: Sequence[Trial]) -> None:
    """Writes what is known so far, for people and programs."""
    best = best_of(done)
    facts = {
        "system": config.system,
        "metric": "mean SSIM, whole images",
        "images": len(data.validation["image"]),
        "subjects": data.summary.get("subjects", {}).get("validation"),
        "digest": data.summary["digest"],
        "best": best and best._asdict(),
        "trials": [one._asdict() for one in done],
    }
    write_atomically(path, json.dumps(facts, indent=1) + "\n")


def best_of(done: Sequence[Trial]) -> Trial | None:
    """The trial of the highest score, the first of equals; None if all diverged."""
    scored = [one for one in done if one.score is not None]
    return max(scored, key=lambda one: (one.score, -one.number), default=None)


def optuna_module() -> Any:
    """Imports optuna.

    Raises:
      ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            "A search needs optuna, which is not installed; run: pip install "
            "'jaxinpaint[search]'."
        ) from error
