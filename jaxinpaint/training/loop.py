"""One training loop for every system."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxinpaint.core.checkpoint import Checkpoints, restore_variables
from jaxinpaint.core.checks import check_training_batch
from jaxinpaint.core.levels import scale_batch
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.core.system import Batch, Key, Scalars, System, TrainState, Variables
from jaxinpaint.training.guard import BadUpdates, Update, guarded
from jaxinpaint.training.label_validation import LabelValidation
from jaxinpaint.training.log import SAVED, Log, Pace
from jaxinpaint.training.prepare import check_spec, flip
from jaxinpaint.training.sharding import (
    make_mesh,
    put_batch,
    put_whole,
    replicated,
    split,
)
from jaxinpaint.training.stop import StopRequest
from jaxinpaint.training.validation import Validation
from jaxinpaint.training.workdir import open_workdir, to_json

HostBatch = Mapping[str, np.ndarray]


class Outcome(NamedTuple):
    """How a run ended: the step it reached, and the process's exit code."""

    step: int
    exit_code: int


def train(
    system: System,
    batches: Callable[[int], Iterator[HostBatch]],
    validation: HostBatch,
    config: ConfigDict,
    workdir: Path,
) -> Outcome:
    """Trains a system, or goes on where its workdir stands.

    The state is donated and replicated, the batch split over all devices, and a
    step's numbers are fetched while the next one runs. SIGTERM and SIGINT save and
    end the run. A resumed run equals an uninterrupted one bit for bit on CPU: keys
    are `fold_in(key, step)`, and data a function of seed and step.

    Args:
      system: what to train.
      batches: a step -> this process's rows of its batch and of all later ones;
        integers are scaled on the device.
      validation: one fixed batch, scored and drawn at every save.
      config: read are seed, steps, init_from, data.flips, eval.whole and train.
      workdir: of this run alone.

    Returns:
      The step reached, and 0, 143 (after SIGTERM) or 130 (after SIGINT).

    Raises:
      ValueError: the workdir holds another config's run, or has lost its
        checkpoints, or the data do not fit.
      NonFiniteError: too many updates were not finite.
    """
    mesh, options, labelled = make_mesh(), config.train, "label" in system.batch_spec
    check_devices(system, mesh)
    open_workdir(workdir, config)
    with (
        Log(workdir, config.steps) as log,
        StopRequest() as stop,
        Checkpoints(
            workdir / "checkpoints",
            save_every=options.save_every,
            keep_latest=options.keep_latest,
            keep_best=options.keep_best,
            best=("eval/dice" if labelled else "eval/psnr", "max"),
        ) as checkpoints,
    ):
        make_key = lambda: jax.random.key(config.seed)
        key = jax.jit(make_key, out_shardings=replicated(mesh))()
        loaded = system.load_frozen()
        frozen_digest = tree_digest(loaded)
        state, step, bad_updates = start(
            system, key, checkpoints, mesh, log, config.init_from, frozen_digest
        )
        log.start_at(step)
        frozen = put_whole(loaded, mesh)
        score = (
            LabelValidation(system, validation, mesh, key)
            if labelled
            else Validation(system, validation, mesh, key, tuple(config.eval.whole))
        )
        stream = batches(step)
        opening = next(stream)
        check_spec("train", opening, system.batch_spec, jax.process_count())
        example = (state, frozen, put_batch(opening, split(mesh)), key)
        update = compile_update(system, config, mesh, log, example)
        pace = Pace(next(iter(system.batch_spec.values())).shape[0], step)

        def settle(at: int, scalars: Scalars) -> None:
            """Fetches a step's numbers, judges them and writes them down."""
            values = {k: float(v) for k, v in jax.device_get(scalars).items()}
            bad = values.pop("bad_update") > 0
            if bad:
                log.say(f"Step {at}: losses or gradients not finite; not applied.")
            bad_updates.record(bad, at)
            if at % options.log_every == 0 or at == config.steps or bad:
                values |= {"skipped_updates": bad_updates.total, **pace.read(at)}
                log.scalars(at, values)
                log.show(at, values)

        def save() -> None:
            scores: dict[str, float] = {}
            if step % options.save_every == 0 or step == config.steps:
                # Off the interval somebody waits for the end of this process.
                scores, images = score(state.variables, frozen)
                if step % options.panel_every == 0 or step == config.steps:
                    log.panel(step, images)
            log.scalars(step, {**scores, SAVED: max(checkpoints.steps(), default=0)})
            meta = {
                "config": to_json(config),
                "frozen": frozen_digest,
                "skipped_updates": bad_updates.total,
                "skipped_lately": bad_updates.recent,
            }
            checkpoints.save(step, state, meta, scores, force=True)

        ahead: HostBatch | None = opening
        first, asked = step, stop.asked(step)
        with jax.transfer_guard("disallow"):
            unsettled: tuple[int, Scalars] | None = None
            while step < config.steps and not asked:
                assert ahead is not None
                check_training_batch("train", ahead)
                batch = put_batch(ahead, split(mesh))
                state, scalars = update(state, frozen, batch, key)
                step += 1
                if unsettled is not None:  # of the step before, while this one runs
                    settle(*unsettled)
                unsettled = (step, scalars)
                if step < config.steps:
                    with pace.waiting():
                        ahead = stop.next_of(stream)
                asked = stop.asked(step)
                if step % options.save_every == 0 or step == config.steps or asked:
                    settle(*unsettled)
                    unsettled = None
                    with pace.paused(), jax.transfer_guard("allow"):
                        save()
        checkpoints.wait()
        if step > first:
            log.scalars(step, {SAVED: step})
        if asked:
            log.say(f"Stopped at step {step}; the same command goes on from there.")
    return Outcome(step, stop.exit_code if asked else 0)


def start(
    system: System,
    key: Key,
    checkpoints: Checkpoints,
    mesh: Mesh,
    log: Log,
    init_from: str,
    frozen_digest: str,
) -> tuple[TrainState, int, BadUpdates]:
    """The newest checkpoint's state, or a fresh one where none was ever saved.

    A fresh state takes the variables of the run in the workdir `init_from`, if one is
    named; its optimizers and steps begin anew.

    Raises:
      ValueError: the checkpoint was trained with other frozen variables than those of
        this digest: an earlier stage that has changed since.
    """
    template = jax.eval_shape(system.init, key)
    for name, variables in template.variables.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(variables))
        log.say(f"{name}: {count:,} parameters")
    if checkpoints.steps():
        back = checkpoints.restore(template, replicated(mesh))
        if back.meta.get("frozen", frozen_digest) != frozen_digest:
            raise ValueError(
                f"step {back.step} was trained with frozen weights of SHA-256 "
                f"{back.meta['frozen']}, which are now {frozen_digest}: an earlier "
                "stage has changed since. Begin a new workdir, or give the old weights."
            )
        log.say(f"Going on from step {back.step}.")
        skipped = (back.meta[name] for name in ("skipped_updates", "skipped_lately"))
        return back.state, back.step, BadUpdates(*skipped)
    # Run once, and on CPU drawing random numbers compiles for long: a third of the time
    # or less where the compiler does not try hard.
    on_cpu = jax.default_backend() == "cpu"
    quick = {"xla_backend_optimization_level": 0} if on_cpu else None
    init = jax.jit(system.init, out_shardings=replicated(mesh), compiler_options=quick)
    state = init(key)
    if init_from:
        other = Path(init_from) / "checkpoints"
        found = restore_variables(other, template.variables, replicated(mesh))
        state = dataclasses.replace(state, variables=found.state)
        log.say(f"Beginning with the variables of {init_from}, step {found.step}.")
    return state, 0, BadUpdates(0, ())


def compile_update(
    system: System,
    config: ConfigDict,
    mesh: Mesh,
    log: Log,
    example: tuple[TrainState, Variables, Batch, Key],
) -> Update:
    """Compiles one whole step: scaling, flips, the system's update, the guard."""

    def step(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        key_flip, key_update = jax.random.split(jax.random.fold_in(key, state.step))
        batch = scale_batch(batch)
        if config.data.flips:
            batch = flip(batch, key_flip)
        return guarded(system.update)(state, frozen, batch, key_update)

    whole, rows = replicated(mesh), split(mesh)
    began = time.perf_counter()
    jitted = jax.jit(
        step,
        in_shardings=(whole, whole, rows, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    compiled = jitted.lower(*example).compile()
    needs = device_bytes(compiled)
    memory = "unknown memory" if needs is None else f"{needs / 2**20:,.0f} MiB"
    log.say(
        f"Compiled the step in {time.perf_counter() - began:.1f} s; it needs {memory} "
        f"on each of {mesh.size} devices."
    )
    return compiled


def device_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What a program takes of each device's memory; None where XLA does not tell.

    Arguments, results and scratch space, a donated argument and its result once;
    `peak_memory_in_bytes` leaves out the scratch space on CPU.
    """
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def check_devices(system: System, mesh: Mesh) -> None:
    """Checks that a batch divides among the devices.

    Raises:
      ValueError: it does not.
    """
    for name, spec in system.batch_spec.items():
        if spec.shape[0] % mesh.size:
            raise ValueError(
                f"train: {name} has {spec.shape[0]} rows a step, which do not divide "
                f"among {mesh.size} devices; change config.batch_size."
            )
