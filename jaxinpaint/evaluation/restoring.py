"""Restores a person's own pictures with a trained run; valid pixels stay bit for bit.

It joins data, inference, systems and report, which do not know each other.
"""

import hashlib
import json
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from jaxinpaint import systems
from jaxinpaint.core.checks import InpaintInputError
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data.images import ImageFileError, encode_png
from jaxinpaint.data.pairs import shown
from jaxinpaint.data.pictures import encode_picture, write_whole
from jaxinpaint.evaluation.checkpoint import chunks, say
from jaxinpaint.evaluation.restoring_files import Item, Job, done, find
from jaxinpaint.evaluation.restoring_inputs import Loaded, check_asked, load
from jaxinpaint.evaluation.runs import Trained, open_trained
from jaxinpaint.inference.restore import predictor
from jaxinpaint.inference.tiles import Restore, restore_pictures
from jaxinpaint.report.sheet import sheet
from jaxinpaint.training.stop import StopRequest
from jaxinpaint.training.workdir import environment, to_json

FAILURES = (ImageFileError, InpaintInputError, OSError)


class Outcome(NamedTuple):
    """What became of the pictures, by name.

    Attributes:
      restored: what is told of each.
      skipped: whose results were there.
      failed: why they were not restored.
      stopped: 0, or the exit code of the signal that ended it.
      seconds: it took, from the first picture on.
    """

    restored: dict[str, dict[str, Any]]
    skipped: list[str]
    failed: dict[str, str]
    stopped: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 143 and 130 after SIGTERM and SIGINT."""
        return self.stopped or int(bool(self.failed))


def restore_files(job: Job) -> Outcome:
    """Restores pictures into `job.output`, and tells of each on standard error.

    A result has its picture's name and container; `NAME_invented.png` beside it is
    white where pixels were invented; `panels/NAME.png` shows both. `fill.json`
    (`fill_I_of_N.json` of a shard) says of every result what made it. Each file appears
    whole or not at all, the picture after what belongs to it. A signal ends it after
    the pictures in work.

    Args:
      job: what to do.

    Raises:
      ValueError: wrong use, as `find`, `check_asked` and `open_trained`; or a network
        that gives no numbers.
      OSError: a folder is not there.
    """
    items, remarks = find(job)
    trained = open_trained(job.workdir, job.step)
    check_asked(job, trained)
    console = Console(stderr=True, soft_wrap=True)
    for line in remarks:
        say(console, f"Note: {line}.")
    run = trained.run
    restore = predictor(
        trained.config, trained.system, run.variables, trained.frozen, (), ()
    )
    job.output.mkdir(parents=True, exist_ok=True)
    outcome = Outcome({}, [], {}, 0, 0.0)
    begun = time.monotonic()
    try:
        with (
            StopRequest() as stop,
            Progress(
                *Progress.get_default_columns()[:2],
                TextColumn("{task.completed} of {task.total} images"),
                TimeElapsedColumn(),
                console=console,
                disable=not console.is_terminal,
            ) as bar,
        ):
            task = bar.add_task("fill", total=len(items))
            for some in chunks(items, job.batch_size):
                _restore_some(some, job, trained, restore, outcome, bar.console)
                bar.advance(task, len(some))
                if stop.exit_code:
                    outcome = outcome._replace(stopped=stop.exit_code)
                    break
    finally:
        outcome = outcome._replace(seconds=time.monotonic() - begun)
        _write_summary(job, trained, outcome)
    return outcome


def _restore_some(
    items: Sequence[Item],
    job: Job,
    trained: Trained,
    restore: Restore,
    outcome: Outcome,
    console: Console,
) -> None:
    """Restores and writes some pictures at once, and enters them into the outcome."""

    def fail(item: Item, why: str) -> None:
        outcome.failed[item.name] = " ".join(why.split())
        say(console, f"{item.name}: NOT restored: {outcome.failed[item.name]}")

    derived, loaded = systems.derived(trained.config), []
    for item in items:
        if job.skip_existing and done(item):
            outcome.skipped.append(item.name)
            say(console, f"{item.name}: is there already")
        elif item.problem:
            fail(item, item.problem)
        else:
            try:
                loaded.append(load(item, job, trained, derived))
            except FAILURES as error:
                fail(item, str(error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # notes tell them already
            made = restore_pictures(
                restore,
                [one.arrays for one in loaded],
                [one.tiles for one in loaded],
                job.batch_size,
            )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        for one in loaded:
            fail(one.item, "the device has not enough memory; give a smaller --tile.")
        return
    for one, pixels in zip(loaded, made, strict=True):
        try:
            entry = write_result(one, pixels, job.panel)
        except FAILURES as error:
            fail(one.item, str(error))
            continue
        outcome.restored[one.item.name] = entry
        say(console, f"{one.item.name}: {_told(entry)}")


def write_result(one: Loaded, pixels: np.ndarray, panel: bool) -> dict[str, Any]:
    """Writes a restored picture and what belongs to it.

    Args:
      one: the picture.
      pixels: restored, of its shape and dtype.
      panel: whether a sheet is drawn.

    Returns:
      What a summary tells of it.

    Raises:
      ImageFileError: it cannot be written as it was.
      RuntimeError: a valid value differs; nothing was written.
      OSError: a file cannot be written.
    """
    item, given, hole = one.item, one.picture.pixels, one.hole
    changed = int(np.count_nonzero((pixels != given)[~hole]))
    if changed:
        raise RuntimeError(f"{item.image}: {changed} valid values would change.")
    data = encode_picture(one.picture, pixels)
    if panel:
        shown_first = {"given": given}
        for name in item.sections:
            shown_first[name] = one.arrays[name]
        item.panel.parent.mkdir(exist_ok=True)
        write_whole(item.panel, sheet({**shown_first, "restored": pixels}, hole, hole))
    white = hole[..., None].astype(np.uint8) * np.uint8(255)
    write_whole(item.invented, encode_png(white))
    write_whole(item.result, data)
    height, width, channels = given.shape
    sources = {"mask": item.mask, **item.sections}
    return {
        "image": str(item.image),
        "image_sha256": one.picture.sha256,
        **{name: str(path) for name, path in sources.items() if path is not None},
        "result": item.result.name,
        "result_sha256": hashlib.sha256(data).hexdigest(),
        "invented": item.invented.name,
        "height": height,
        "width": width,
        "channels": channels,
        "dtype": str(given.dtype),
        "blind": item.mask is None,
        "hole_pixels": int(np.count_nonzero(hole)),
        "hole_ratio": float(hole.mean()),
        "hole_sha256": hashlib.sha256(np.packbits(hole).tobytes()).hexdigest(),
        "tiles": len(one.tiles),
        "valid_values_changed": changed,
        "notes": one.notes,
    }


def _told(entry: Mapping[str, Any]) -> str:
    """What is printed of a restored picture."""
    count = entry["tiles"]
    tiles = f"{count} tile{'s' if count > 1 else ''}"
    share = f"{100 * entry['hole_ratio']:.3g} % hole"
    first = "no mask, every pixel may have changed" if entry["blind"] else share
    return "; ".join([f"{first}, {tiles}", *entry["notes"]])


def summary_line(outcome: Outcome) -> str:
    """What is printed at the end."""
    restored = outcome.restored.values()
    parts = [f"{len(outcome.restored)} restored"]
    if outcome.skipped:
        parts.append(f"{len(outcome.skipped)} there already")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed ({shown(outcome.failed, 3)})")
    changed = sum(entry["valid_values_changed"] for entry in restored)
    masked = [entry for entry in restored if not entry["blind"]]
    said = f" {changed} valid values changed." if masked or not restored else ""
    stopped = " Interrupted." if outcome.stopped else ""
    return f"{', '.join(parts)} in {outcome.seconds:.1f} s.{said}{stopped}"


def summary_path(job: Job) -> Path:
    """The file that says what made the results."""
    index, count = job.shard
    name = "fill.json" if count == 1 else f"fill_{index}_of_{count}.json"
    return job.output / name


def _write_summary(job: Job, trained: Trained, outcome: Outcome) -> None:
    """Enters what was done into the summary, beside what earlier commands did."""
    path = summary_path(job)
    runs, images = _earlier(path)
    label = str(1 + max(map(int, runs), default=-1))
    run = trained.run
    runs[label] = {
        "command": shlex.join(sys.argv),
        "workdir": str(job.workdir),
        "system": trained.config.system,
        "step": run.step,
        "weights_sha256": tree_digest(run.variables),
        "frozen_weights_sha256": (
            tree_digest(trained.frozen) if trained.frozen else None
        ),
        "mask_polarity": job.polarity,
        "mask_manifest": _manifest(job),
        "restored": len(outcome.restored),
        "skipped": len(outcome.skipped),
        "failed": len(outcome.failed),
        "seconds": round(outcome.seconds, 3),
        "config": to_json(trained.config),
        "environment": environment(),
    }
    for name, entry in outcome.restored.items():
        images[name] = {"state": "restored", "run": label, **entry}
    for name, why in outcome.failed.items():
        images[name] = {"state": "failed", "run": label, "reason": why}
    for name in outcome.skipped:
        images.setdefault(name, {"state": "there already", "run": None})
    used = {label} | {entry["run"] for entry in images.values()}
    content = {
        "runs": {name: run for name, run in runs.items() if name in used},
        "images": dict(sorted(images.items())),
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def _manifest(job: Job) -> dict[str, Any] | None:
    """Seed and digest of a mask set that says them, as `jaxinpaint masks` writes it."""
    if job.mask is None:
        return None
    try:
        path = (job.mask if job.mask.is_dir() else job.mask.parent) / "masks.json"
        content = json.loads(path.read_text())
        return {name: content[name] for name in ("generator", "seed", "sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _earlier(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an earlier summary holds; nothing if there is none of ours."""
    try:
        content = json.loads(path.read_text())
        return dict(content["runs"]), dict(content["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}
