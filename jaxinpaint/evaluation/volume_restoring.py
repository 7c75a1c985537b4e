"""Restores the bad sections of a volume with a trained run, into a copy of it.

It joins data, inference, systems and report, which do not know each other. What a
process that was killed had restored is kept beside the results, and the same command
goes on from there.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import jaxinpaint
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data.bad_sections import order
from jaxinpaint.data.pairs import shown
from jaxinpaint.data.pictures import write_whole
from jaxinpaint.data.volume_files import Volume
from jaxinpaint.evaluation.results import chunks, say
from jaxinpaint.evaluation.runs import Trained, open_trained
from jaxinpaint.evaluation.volume_inputs import (
    Job,
    check_asked,
    check_output,
    default_axis,
    find_holes,
    needed,
    open_volume,
    result_names,
    set_voxel,
)
from jaxinpaint.evaluation.volume_sections import Restorer, Store
from jaxinpaint.evaluation.volume_writing import SUMMARY, write_results
from jaxinpaint.inference.restore import predictor
from jaxinpaint.training.stop import StopRequest

WORK = ".unfinished"
IDENTITY = "job.json"


class Outcome(NamedTuple):
    """What became of the sections.

    Attributes:
      restored: positions.
      failed: why they were not restored, by position.
      voxels: that were invented.
      stopped: 0, or the exit code of the signal that ended it.
      seconds: it took.
    """

    restored: list[int]
    failed: dict[int, str]
    voxels: int
    stopped: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 143 and 130 after SIGTERM and SIGINT."""
        return self.stopped or int(bool(self.failed))


class _Stopped(Exception):
    """Ends the writing after a signal."""


def restore_volume(job: Job) -> Outcome:
    """Restores a volume into `job.output`, and tells of each section on standard error.

    The folder gets the volume under its own name, the layer `invented` (255 where voxels
    were invented), the layer `disagreement` (how far the restorations from either
    neighbour alone lie apart, in levels) where there are two, and `repaired.json`, which
    comes last. Each appears whole or not at all; nothing appears where no section
    could be restored.

    Args:
      job: what to do.

    Raises:
      ValueError: wrong use; nothing was written.
      OSError: a file or folder is not there, or cannot be written.
      ImportError: an extra is needed and not installed.
    """
    begun = time.monotonic()
    trained = open_trained(job.workdir, job.step)
    axis = default_axis(job, trained)
    console = Console(stderr=True, soft_wrap=True)
    with contextlib.ExitStack() as open_files:
        opened = lambda path, dataset: open_files.enter_context(
            open_volume(path, dataset, axis, job.max_pixels)
        )
        volume: Volume = opened(job.volume, job.dataset)
        mask = None if job.mask is None else opened(job.mask, job.mask_dataset)
        check_asked(job, trained, volume)
        check_output(job, volume)
        unknown = set_voxel(job, volume)
        _check_there(job, volume)
        holes, notes = find_holes(job, trained, volume, mask)
        needs = needed(trained)
        repairs, failed = order(volume.shape[0], holes.voxels, len(needs))
        work = open_files.enter_context(
            _begun(job, _identity(job, trained, volume, mask, axis))
        )
        for line in filter(None, [unknown, *volume.notes, *notes]):
            say(console, f"Note: {volume.path}: {line}.")
        restore = predictor(
            trained.config,
            trained.system,
            trained.run.variables,
            trained.frozen,
            (),
            (),
        )
        restorer = Restorer(
            job, trained, restore, volume, holes, needs, Store(work / "sections")
        )
        for z, why in failed.items():
            restorer.failed[z] = why
            say(console, f"{volume.label(z)}: NOT restored: {why}.")
        stop = open_files.enter_context(StopRequest())
        done = _restore_all(restorer, repairs, stop, console)
        if stop.exit_code:
            return _outcome(restorer, done, 0, stop, begun)
        voxels = 0
        if done:
            say(console, f"Writing {job.output / volume.written_name()} ...")

            def each() -> None:
                if stop.exit_code:
                    raise _Stopped

            with contextlib.suppress(_Stopped):
                summary = write_results(
                    job, trained, volume, mask, restorer, work / "results", each
                )
                voxels = summary["invented_voxels"]
            if not voxels:
                return _outcome(restorer, done, 0, stop, begun)
    shutil.rmtree(job.output / WORK, ignore_errors=True)
    if not done and not any(job.output.iterdir()):
        job.output.rmdir()
    return _outcome(restorer, done, voxels, None, begun)


def _outcome(
    restorer: Restorer,
    done: list[int],
    voxels: int,
    stop: StopRequest | None,
    begun: float,
) -> Outcome:
    code = 0 if stop is None else stop.exit_code
    return Outcome(done, restorer.failed, voxels, code, time.monotonic() - begun)


def _restore_all(
    restorer: Restorer, repairs: list[Any], stop: StopRequest, console: Console
) -> list[int]:
    """Restores round after round what is not done yet; returns what is done."""
    done: list[int] = []
    rounds = itertools.groupby(repairs, key=lambda one: one.round)
    # A batch holds the same sections after an interruption as without one, so that
    # its numbers are the same.
    batches = [
        some for _, own in rounds for some in chunks(own, restorer.job.batch_size)
    ]
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed} of {task.total} sections"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("fill-volume", total=len(repairs))
        for some in batches:
            if stop.exit_code:
                break
            there = [restorer.store.entry(one.section) for one in some]
            if not all(there):
                restorer.restore_some(some)
            for one, before in zip(some, there, strict=True):
                z, label = one.section, restorer.volume.label(one.section)
                if z in restorer.failed:
                    why = restorer.failed[z].rstrip(".")
                    say(bar.console, f"{label}: NOT restored: {why}.")
                    continue
                done.append(z)
                entry = before or restorer.store.entry(z)
                assert entry is not None
                again = "there already; " if all(there) else ""
                say(bar.console, f"{label}: {again}{_told(entry)}")
            bar.advance(task, len(some))
    return sorted(done)


def _told(entry: Mapping[str, Any]) -> str:
    """What is printed of a restored section."""
    places = [entry[name] for name in ("previous", "following")]
    used = [str(p) for p in places if p is not None]
    if entry.get("guided_by") is not None:
        used = [str(entry["guided_by"])]
    first = (
        "no mask, every pixel may have changed"
        if entry["blind"]
        else (
            "bad whole" if entry["whole"] else f"{100 * entry['hole_ratio']:.3g} % hole"
        )
    )
    parts = [first, *([f"from {' and '.join(used)}"] if used else [])]
    return "; ".join([", ".join(parts), *entry["notes"]])


def summary_line(outcome: Outcome) -> str:
    """What is printed at the end."""
    count = len(outcome.restored)
    parts = [f"{count} section{'s' if count != 1 else ''} restored"]
    if outcome.failed:
        names = sorted(outcome.failed)
        parts.append(f"{len(names)} failed ({shown(map(str, names), 3)})")
    line = f"{', '.join(parts)} in {outcome.seconds:.1f} s."
    if outcome.stopped:
        return f"{line} Interrupted: the same command goes on from here."
    if not outcome.restored:
        return f"{line} Nothing was written."
    return f"{line} {outcome.voxels} voxels invented, 0 valid values changed."


def _check_there(job: Job, volume: Volume) -> None:
    """Refuses to replace results, or anything else, unless that is asked for.

    Raises:
      ValueError: something is there.
    """
    if job.overwrite or not job.output.exists():
        return
    if (job.output / SUMMARY).exists():
        raise ValueError(
            f"{job.output} holds finished results; add --overwrite to replace them, or "
            "name another --output."
        )
    if (job.output / WORK).exists():
        return
    names = [n for n in result_names(volume) if (job.output / n).exists()]
    if names:
        raise ValueError(
            f"{job.output / names[0]} is there already; name another --output, or add "
            "--overwrite."
        )


def _identity(
    job: Job, trained: Trained, volume: Volume, mask: Volume | None, axis: str
) -> dict[str, Any]:
    """What unfinished work must agree in to be gone on with."""
    return {
        "volume": _state(volume),
        "mask": None if mask is None else _state(mask),
        "weights": tree_digest(trained.run.variables),
        "frozen weights": tree_digest(trained.frozen) if trained.frozen else None,
        "version": jaxinpaint.__version__,
        "--dataset": job.dataset,
        "--mask-dataset": job.mask_dataset,
        "--bad-sections": job.bad,
        "--axis": axis,
        "--mask-polarity": job.polarity,
        "--tile": job.tile,
        "--overlap": job.overlap,
        "--batch-size": job.batch_size,
        "disagreement": job.disagreement,
    }


def _state(volume: Volume) -> list[Any]:
    """Path, size and time of the last change of what a volume consists of."""
    files = [(volume.path / name).stat() for name in volume.files()]
    sizes, times = ([getattr(f, n) for f in files] for n in ("st_size", "st_mtime_ns"))
    return [os.path.realpath(volume.path), len(files), sum(sizes), max(times)]


@contextlib.contextmanager
def _begun(job: Job, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of unfinished work, locked against a second process.

    Raises:
      ValueError: it holds other work, or another process works on it.
    """
    work = job.output / WORK
    path = work / IDENTITY
    if path.exists() and not job.overwrite:
        before = json.loads(path.read_text())
        differs = [k for k, v in identity.items() if before.get(k) != v]
        if differs:
            raise ValueError(
                f"{work} holds unfinished work of another command (another "
                f"{', '.join(differs)}); remove that folder, or add --overwrite."
            )
    (work / "sections").mkdir(parents=True, exist_ok=True)
    with locked(work, job.output):
        same = path.exists() and json.loads(path.read_text()) == identity
        if not same:
            shutil.rmtree(work / "sections")
            (work / "sections").mkdir()
            write_whole(path, json.dumps(identity).encode())
        yield work


@contextlib.contextmanager
def locked(work: Path, output: Path) -> Iterator[None]:
    """Keeps a second process away from unfinished work.

    Args:
      work: its folder; the system lets go of the lock when the process dies.
      output: that the message names.

    Raises:
      ValueError: another process works on it.
    """
    lock = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ValueError(
            f"another process works on {output}; wait for it, or name another --output."
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(lock)
