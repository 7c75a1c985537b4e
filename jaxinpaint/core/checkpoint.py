"""Checkpoints that survive kills, damaged files and other device counts.

With `core/arrays.py` the only place that knows orbax. Orbax writes a step into a
temporary directory and renames it, so a half-written step is never listed, but it
stores no checksum and casts dtypes in silence. So every step also holds a manifest
(`core/manifest.py`), and a step is read to the host, compared with it, and only then
placed on devices.
"""

import contextlib
import datetime
import fcntl
import json
import math
import os
import pathlib
import shutil
import socket
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxinpaint.core import arrays, manifest
from jaxinpaint.core.manifest import DamagedCheckpointError
from jaxinpaint.core.system import Tree, Variables

# Steps that retention drops are renamed into here and deleted at the next wait, so
# that a kill in between leaves no half-deleted step among the listed ones.
_REMOVED = "removed"
_LOCK = "writer.lock"


class Restored(NamedTuple):
    """One step, read and verified.

    Attributes:
      step: its number.
      state: the template's tree with arrays, or the variables asked for.
      meta: what `save` was given, after one trip through JSON.
    """

    step: int
    state: Any
    meta: dict


class Checkpoints:
    """The checkpoints of one run: saves in the background, restores what is good.

    A context manager; leaving it waits for the save in progress. With several
    processes each of them makes one and calls every method in the same order.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        save_every: int,
        keep_latest: int,
        keep_best: int,
        best: tuple[str, str],
    ) -> None:
        """Opens a directory for writing and removes what a killed save left.

        Args:
          directory: made if absent; no second run may write to it.
          save_every: `save` without `force` takes multiples of this step only.
          keep_latest: newest steps kept, at least 1; 2 leave one to fall back to.
          keep_best: best steps kept besides; steps without the metric never count.
          best: name of the metric and 'max' or 'min'.

        Raises:
          ValueError: a number or mode out of range, or another live run writes
            here.
        """
        if best[1] not in ("max", "min"):
            raise ValueError(
                f"Checkpoints: best is {best}; its second word is 'max' or 'min'."
            )
        if save_every < 1 or keep_latest < 1 or keep_best < 0:
            raise ValueError(
                f"Checkpoints: save_every is {save_every}, keep_latest {keep_latest}, "
                f"keep_best {keep_best}; they must be at least 1, 1 and 0."
            )
        self._directory = pathlib.Path(directory).absolute()
        self._save_every = save_every
        self._retention = _Retention(keep_latest, keep_best, best)
        self._lock = _lock(self._directory)
        try:
            self._purge("*.orbax-checkpoint-tmp*", _REMOVED)
            for step in _steps(self._directory):
                with contextlib.suppress(DamagedCheckpointError):
                    content = _read_manifest(self._directory, step)
                    self._retention.note(step, content["metrics"])
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    enable_async_checkpointing=True,
                    cleanup_tmp_directories=True,  # also on stores without rename
                    preservation_policy=self._retention,
                    todelete_subdir=_REMOVED,
                ),
            )
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        state: Tree,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float],
        force: bool = False,
    ) -> bool:
        """Starts to save a step; the state may be donated as soon as this returns.

        Blocks for an unfinished earlier save, the digests and the copy to the host.

        Args:
          step: updates done so far.
          state: tree of `jax.Array`, on one process or replicated over all; a PRNG
            key belongs into `meta`, as its seed.
          meta: whatever else the run needs to go on, JSON values only.
          metrics: scores of this state by name, for `keep_best`; may be empty.
          force: save off the interval too, for the last and the preemption save.

        Returns:
          Whether this state is now saved or on its way: False off the interval.

        Raises:
          ValueError: a leaf is not finite or no such array; `meta` is not JSON; the
            directory already holds a later step, or this one with other contents.
          OSError: the save before this one failed.
        """
        step = int(step)
        if not force and step % self._save_every:
            return False
        where = f"Checkpoints.save at step {step}"
        metrics = {name: float(value) for name, value in metrics.items()}
        host = manifest.copy_to_host(where, state)
        leaves = manifest.leaf_table(host)
        made = manifest.make(where, step, meta, metrics, leaves)
        self.wait()
        present = _steps(self._directory)
        if step in present:
            if _read_manifest(self._directory, step)["leaves"] == leaves:
                return True
            raise ValueError(
                f"{where}: {self._directory} already holds another step {step}; "
                "resume from its newest step or write to a new directory."
            )
        if present and step < present[-1]:
            raise ValueError(
                f"{where}: {self._directory} already holds step {present[-1]}; move "
                "the later steps away to train on from an earlier one."
            )
        self._retention.note(step, metrics)
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host), manifest=ocp.args.JsonSave(made)
            ),
            force=True,
        )
        assert saved, f"orbax declined the forced save of step {step}"
        return True

    def restore(
        self, template: Tree, shardings: Tree, step: int | None = None
    ) -> Restored:
        """Restores and verifies a state onto any number of devices.

        Where the newest step is damaged, the next older good one is taken, and only
        then is the damaged one renamed to '<step>.corrupt': a machine that can read
        nothing moves nothing.

        Args:
          template: tree of `jax.ShapeDtypeStruct`, from `jax.eval_shape(init, key)`.
          shardings: one sharding for all leaves, or a tree (prefix) of them.
          step: the step to take, with no other in its place; the newest good one
            if None.

        Returns:
          The step with arrays placed by `shardings`.

        Raises:
          FileNotFoundError: there is no checkpoint, or not this step.
          DamagedCheckpointError: the step asked for is damaged, or all are.
          ValueError: leaves, shapes or dtypes differ from the template's; raised
            before anything is loaded, with their paths.

        Warns:
          UserWarning: a step was damaged and set aside; names it and the reason.
        """
        self.wait()
        whole = _Part("", template, exact=True)
        restored, damaged = _find(self._directory, whole, shardings, step)
        for bad, why in damaged.items():
            name = self._set_aside(bad)
            warnings.warn(
                f"{self._directory}: step {bad} is damaged and was renamed to "
                f"'{name}'; step {restored.step} takes its place. {why}",
                stacklevel=2,
            )
        return restored

    def steps(self) -> list[int]:
        """Steps complete on disk, in order; one still being saved is not among them.

        Raises:
          DamagedCheckpointError: there is none, but damaged ones were set aside, so
            an empty list would start the run afresh.
        """
        steps = _steps(self._directory)
        if not steps:
            _refuse_fresh_start(self._directory)
        return steps

    def wait(self) -> None:
        """Waits until the save in progress is on disk.

        Raises:
          OSError: that save failed; the steps before it are intact.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._manager.reload()
            raise OSError(
                f"Checkpoints: a save into {self._directory} failed "
                f"({manifest.reason(error)}); steps {_steps(self._directory)} are "
                "intact. Is there space left?"
            ) from error
        self._purge(_REMOVED)

    def close(self) -> None:
        """Waits as `wait`, then lets another run write here."""
        try:
            self.wait()
        finally:
            try:
                self._manager.close()
            finally:
                self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _purge(self, *patterns: str) -> None:
        if jax.process_index() == 0:
            for pattern in patterns:
                for path in self._directory.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, step: int) -> str:
        names = [f"{step}.corrupt"] + [f"{step}.corrupt-{i}" for i in range(2, 100)]
        name = next(n for n in names if not (self._directory / n).exists())
        _agree(True)  # every process has read the names
        if jax.process_index() == 0:
            (self._directory / str(step)).rename(self._directory / name)
        _agree(True)  # the step is gone for every process
        self._retention.scores.pop(step, None)
        self._manager.reload()
        return name


def restore_variables(
    directory: str | os.PathLike,
    template: Variables,
    shardings: Tree,
    step: int | None = None,
) -> Restored:
    """Restores variables alone, without optimizer state, and changes nothing on disk.

    Safe beside a run that is still writing. A damaged newest step is passed over
    with a warning, not renamed.

    Args:
      directory: the `checkpoints` directory of a run.
      template: `Variables` of `jax.ShapeDtypeStruct`: whole networks, not
        necessarily all of them.
      shardings: one sharding for all leaves, or a tree (prefix) of them.
      step: the step to take; the newest good one if None.

    Returns:
      The step, with `state` like `template`, verified by its leaves' digests.

    Raises:
      FileNotFoundError: there is no checkpoint, or not this step.
      DamagedCheckpointError: the step asked for is damaged, or all are.
      ValueError: leaves, shapes or dtypes of these networks differ.

    Warns:
      UserWarning: a step was damaged and passed over.
    """
    path = pathlib.Path(directory).absolute()
    networks = _Part("variables/", template, exact=False)
    restored, damaged = _find(path, networks, shardings, step)
    for bad, why in damaged.items():
        warnings.warn(
            f"{path}: step {bad} is damaged, step {restored.step} takes its place. "
            f"{why}",
            stacklevel=2,
        )
    return restored


class _Retention:
    """Orbax preservation policy: the newest steps and the best ones.

    Orbax has these two policies, but forgets all metrics when the process ends.
    """

    def __init__(self, latest: int, best: int, metric: tuple[str, str]) -> None:
        self.scores: dict[int, float] = {}  # higher is better
        self._latest, self._best = latest, best
        self._metric = metric

    def note(self, step: int, metrics: Mapping[str, float | None]) -> None:
        name, mode = self._metric
        score = metrics.get(name)
        if score is not None and math.isfinite(score):
            self.scores[step] = score if mode == "max" else -score

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: object
    ) -> list[bool]:
        steps = [info.step for info in checkpoints]
        scored = [step for step in steps if step in self.scores]
        scored.sort(key=lambda step: (self.scores[step], step), reverse=True)
        kept = set(sorted(steps)[-self._latest :]) | set(scored[: self._best])
        return [step in kept for step in steps]


class _Part(NamedTuple):
    """What to read of a step: the leaves of `template`, below `prefix`.

    `exact` asks that the step holds no other leaf; else no other in its networks.
    """

    prefix: str
    template: Tree
    exact: bool


def _find(
    directory: pathlib.Path, part: _Part, shardings: Tree, step: int | None
) -> tuple[Restored, dict[int, str]]:
    """Reads the step asked for, or the newest good one, the same on all processes."""
    shardings = jax.tree.broadcast(shardings, part.template)
    damaged: dict[int, str] = {}
    while True:
        steps = [n for n in _steps(directory) if n not in damaged]
        if step is None:
            wanted = _of_first_process(steps[-1] if steps else -1)
        else:
            wanted = _of_first_process(step if step in steps else -1)
        if wanted < 0:
            break
        why = ""
        try:
            content, host = _read(directory, wanted, part)
        except DamagedCheckpointError as error:
            why = str(error)
        if _agree(not why):
            state = jax.tree.map(_place, host, shardings)
            return Restored(wanted, state, content["meta"]), damaged
        damaged[wanted] = why or "Another process could not read it."
        if step is not None:
            raise DamagedCheckpointError(damaged[wanted])
    if damaged:
        raise DamagedCheckpointError(
            f"{directory}: none of the steps {sorted(damaged)} can be used; nothing "
            f"was renamed. The newest: {next(iter(damaged.values()))}"
        )
    if steps:
        raise FileNotFoundError(f"{directory} holds no step {step}, but {steps}.")
    _refuse_fresh_start(directory)
    raise FileNotFoundError(
        f"{directory} holds no checkpoint; train first, or name the directory "
        "'checkpoints' in the workdir of a run."
    )


def _read(directory: pathlib.Path, step: int, part: _Part) -> tuple[dict, Tree]:
    """Reads a part of one step to the host and compares it with the manifest."""
    where = str(directory / str(step))
    content = _read_manifest(directory, step)
    saved = content["leaves"]
    asked = {part.prefix + k: v for k, v in manifest.by_path(part.template).items()}
    if not part.exact:
        networks = {tuple(path.split("/")[:2]) for path in asked}
        saved = {k: v for k, v in saved.items() if tuple(k.split("/")[:2]) in networks}
    manifest.refuse_mismatch(where, saved, asked)
    with manifest.damage_of(where):
        host = arrays.read(
            directory / str(step) / "state", asked, partial=not part.exact
        )
        manifest.refuse_damage(where, saved, host)
    leaves = [host[path] for path in asked]
    return content, jax.tree.unflatten(jax.tree.structure(part.template), leaves)


def _read_manifest(directory: pathlib.Path, step: int) -> dict[str, Any]:
    return manifest.read(directory / str(step) / "manifest" / "metadata", step)


def _place(host: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])


def _steps(directory: pathlib.Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def _refuse_fresh_start(directory: pathlib.Path) -> None:
    aside = sorted(p.name for p in directory.glob("*.corrupt*"))
    if aside:
        raise DamagedCheckpointError(
            f"{directory} holds damaged checkpoints alone ({manifest.listed(aside)}); "
            "move them away to start afresh."
        )


def _lock(directory: pathlib.Path) -> int | None:
    """Takes the writer's lock on the first process; the kernel frees it at any end."""
    held, other = None, ""
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        held = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(held, 500).decode(errors="replace") or "unknown"
            os.close(held)
        else:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            record = {"host": socket.gethostname(), "pid": os.getpid(), "started": now}
            os.ftruncate(held, 0)
            os.write(held, json.dumps(record).encode())
    if not _agree(not other):
        raise ValueError(
            f"Checkpoints: another run writes to {directory} ({other or 'see there'}); "
            "stop it or choose another directory."
        )
    return held


def _agree(ok: bool) -> bool:
    """Whether all processes say so; waits for all of them."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def _of_first_process(number: int) -> int:
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))
