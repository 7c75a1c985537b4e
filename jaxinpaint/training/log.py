"""The running record: metrics, events, panels, progress."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from jaxinpaint.training.workdir import write_atomically

PANEL_ROWS = 4
SAVED = "checkpoint/step"  # the newest step that is whole on disk


class Log:
    """Writes `metrics.jsonl`, `events/` and `images/`; shows progress.

    Only process 0 writes. TensorBoard events need the extra `report`; without it the
    log says so once, and `metrics.jsonl` holds everything.
    """

    def __init__(self, workdir: Path, steps: int) -> None:
        self.writes = jax.process_index() == 0
        self.workdir = workdir
        self.steps = steps
        self.console = Console(stderr=True, quiet=not self.writes, soft_wrap=True)
        self.events: Any = None
        self.progress = Progress(
            *Progress.get_default_columns()[:3],
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (self.writes and self.console.is_terminal),
        )
        self.task = self.progress.add_task("training", total=steps, note="")

    def __enter__(self) -> "Log":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.events is not None:
            self.events.close()

    def say(self, line: str) -> None:
        """Prints one line above the progress bar."""
        self.console.print(line, highlight=False, markup=False)

    def start_at(self, step: int) -> None:
        """Opens the events; drops records after `step`, which a resumed run repeats.

        Raises:
          ValueError: the run would start afresh, though a checkpoint was saved.
        """
        path = self.workdir / "metrics.jsonl"
        records = list(read_records(path))
        saved = max((record.get(SAVED, 0) for record in records), default=0)
        if step == 0 and saved > 0:
            raise ValueError(
                f"train: {path} tells that step {saved} was saved, but "
                f"{self.workdir / 'checkpoints'} holds no step. Put it back, or give "
                "another --workdir to start afresh."
            )
        if not self.writes:
            return
        self.progress.update(self.task, completed=step)
        self.events = event_writer(self.workdir / "events", step)
        if self.events is None:
            self.say("No TensorBoard events: install jaxinpaint[report] to have them.")
        kept = [json.dumps(record) for record in records if record["step"] <= step]
        write_atomically(path, "".join(line + "\n" for line in kept))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one record to `metrics.jsonl` and to the events.

        A number that is not finite is null there, since JSON has no word for it, and
        no event.
        """
        if not self.writes:
            return
        record = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with open(self.workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")
        if self.events is not None:
            for name, value in record.items():
                if value is not None:
                    self.events.add_scalar(name, value, step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar; prints a plain line where there is no terminal."""
        note = (
            f"{values['speed/images_per_second']:.1f} images/s  "
            f"{values['speed/step_ms']:.0f} ms/step  "
            f"{values['speed/data_wait_ms']:.1f} ms wait"
        )
        self.progress.update(self.task, completed=step, note=note)
        if not self.console.is_terminal:
            losses = "  ".join(
                f"{name.removeprefix('loss/')} {value:.4g}"
                for name, value in values.items()
                if name.startswith("loss/")
            )
            self.say(f"step {step}/{self.steps}  {losses}  {note}")

    def panel(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images [B, H, W, C] in [-1, 1] side by side, a sample a row."""
        if not self.writes:
            return
        rows = [
            np.concatenate([column[i] for column in images.values()], axis=1)
            for i in range(min(PANEL_ROWS, len(next(iter(images.values())))))
        ]
        levels = (np.concatenate(rows, axis=0) + 1.0) * 127.5
        sheet = np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8)
        path = self.workdir / "images" / f"step_{step:07d}.png"
        Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(path)
        if self.events is not None:
            name = "panel/" + "_".join(images)
            self.events.add_image(name, sheet, step, dataformats="HWC")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of `metrics.jsonl`, without a line that a kill cut short."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def event_writer(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None where tensorboardX is not installed.

    Events after `step`, of a run that was killed, are hidden from the viewer.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class Pace:
    """Images a second, time a step, and time spent waiting for data."""

    def __init__(self, images: int, step: int) -> None:
        self.images, self.step = images, step
        self.waited = 0.0
        self.since = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time inside: scores and checkpoints are no steps."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def read(self, step: int) -> dict[str, float]:
        """The figures since the last reading."""
        now = time.perf_counter()
        steps = max(1, step - self.step)
        each = (now - self.since) / steps
        values = {
            "speed/images_per_second": self.images / each,
            "speed/step_ms": 1e3 * each,
            "speed/data_wait_ms": 1e3 * self.waited / steps,
        }
        self.since, self.waited, self.step = now, 0.0, step
        return values
