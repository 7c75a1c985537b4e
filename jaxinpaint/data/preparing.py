"""Folders that `jaxinpaint prepare` writes: whole or not at all, each with a report."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

import jaxinpaint
from jaxinpaint.data.keeping import digest_files, keep

REPORT = "report.json"
LISTED = 10  # sizes in a report, names in a line
_VERSION = 1  # of what is written from the same input

T = TypeVar("T")
# (items, how many, what is done with them) -> the same items, while somebody watches.
Watch = Callable[[Iterable[T], int, str], Iterable[T]]


class Job(NamedTuple):
    """What is to be prepared.

    Attributes:
      kind: "images", "sections" and so on.
      source: the file or folder that was given.
      options: JSON values that decide what is written.
      files: all that is read, in the order in which it is read.
      found: further JSON values that were found in the source and decide it.
      fill: writes into an empty folder; returns the report's facts: `count`,
        `rejected` (name -> reason), `notes` and others.
    """

    kind: str
    source: Path
    options: Mapping[str, Any]
    files: Sequence[Path]
    found: Any
    fill: Callable[[Path], dict[str, Any]]


class Prepared(NamedTuple):
    """What was prepared.

    Attributes:
      report: as report.json has it.
      again: whether it was there already and nothing was done.
    """

    report: dict[str, Any]
    again: bool


def prepare(job: Callable[[], Job], source: Path, output: Path) -> Prepared:
    """Prepares a folder unless the same preparation is there.

    The same is: of one kind, with equal options, from the same files, by this version
    of the command.

    Args:
      job: looks at the source; called when the output may be written to.
      source: the file or folder that is read.
      output: appears whole, with report.json, or not at all.

    Returns:
      The report.

    Raises:
      ValueError: the output is a file, lies in the source, or holds anything else than
        this preparation, whole; or as the job.
      OSError: a file cannot be read or written.
    """
    old = _expect_free(source, output)
    asked = job()
    digest = digest_files(asked.files).hexdigest()
    what = [_VERSION, asked.kind, dict(asked.options), asked.found, digest]
    identity = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    if old is not None:
        if old["preparation"] != identity:
            raise ValueError(
                f"{output} holds a preparation of {old['input']!r} as {old['kind']!r}, "
                "from other files or with other options; give another --output, or "
                "delete it."
            )
        _expect_whole(output, old)
        return Prepared(old, True)
    report: dict[str, Any] = {
        "kind": asked.kind,
        "input": source.resolve().name,
        "input_sha256": digest,
        "options": dict(asked.options),
        "preparation": identity,
        "jaxinpaint": jaxinpaint.__version__,
    }

    def fill(work: Path) -> None:
        report.update(asked.fill(work))
        report["files"] = {
            path.relative_to(work).as_posix(): path.stat().st_size
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        text = json.dumps(report, indent=1, allow_nan=False)
        (work / REPORT).write_text(text + "\n", encoding="utf-8")

    if output.is_dir():
        output.rmdir()  # empty; `keep` would take it for finished
    keep(output, fill)
    written = _read_report(output)
    if written is None or written["preparation"] != identity:
        raise ValueError(
            f"{output}: another process wrote something else there; give another "
            "--output."
        )
    return Prepared(written, False)


def _expect_free(source: Path, output: Path) -> dict[str, Any] | None:
    """The report of what is there; None where there is nothing."""
    if not source.exists():
        raise FileNotFoundError(f"{source}: is not there; give another --input.")
    here, there = output.resolve(), source.resolve()
    if here == there or there in here.parents:
        raise ValueError(
            f"{output} lies in the input {source}, which is only read; give another "
            "--output."
        )
    if not output.exists():
        return None
    if not output.is_dir():
        raise ValueError(f"{output} is a file; --output is a folder to be made.")
    if not any(output.iterdir()):
        return None
    report = _read_report(output)
    if report is None:
        raise ValueError(
            f"{output} is not empty and was not prepared by this command; give another "
            "--output."
        )
    return report


def _read_report(output: Path) -> dict[str, Any] | None:
    """The report of a prepared folder; None if it is no such folder."""
    try:
        report = json.loads((output / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    needed = {"kind", "input", "preparation", "files", "rejected", "notes"}
    return report if isinstance(report, dict) and needed <= set(report) else None


def _expect_whole(output: Path, report: Mapping[str, Any]) -> None:
    for name, size in report["files"].items():
        path = output / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(
                f"{path} is not as it was written; delete {output} and prepare it again."
            )


class Tally:
    """Counts what pictures are like, one after the other."""

    def __init__(self) -> None:
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._channels: Counter[int] = Counter()
        self._dtypes: Counter[str] = Counter()
        self._low: float | None = None
        self._high: float | None = None

    def add(self, pixels: np.ndarray) -> None:
        """Counts a picture [H, W, C]."""
        height, width, channels = pixels.shape
        self._sizes[height, width] += 1
        self._channels[channels] += 1
        self._dtypes[str(pixels.dtype)] += 1
        low, high = pixels.min().item(), pixels.max().item()
        self._low = low if self._low is None else min(self._low, low)
        self._high = high if self._high is None else max(self._high, high)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths, each pair once."""
        return sorted(self._sizes)

    @property
    def channels(self) -> list[int]:
        """1 and 3, or one of the two."""
        return sorted(self._channels)

    @property
    def high(self) -> float | None:
        """The largest value; None before the first picture."""
        return self._high

    def facts(self) -> dict[str, Any]:
        """For the report: count, sizes, channels, dtype and range of values."""
        often = self._sizes.most_common(LISTED)
        facts: dict[str, Any] = {
            "count": sum(self._sizes.values()),
            "sizes": {f"{h} x {w}": n for (h, w), n in often},
            "channels": {str(n): k for n, k in sorted(self._channels.items())},
            "dtype": dict(self._dtypes),
            "range": [self._low, self._high],
        }
        if len(self._sizes) > len(often):
            sides = np.array(list(self._sizes))
            facts["other_sizes"] = len(self._sizes) - len(often)
            facts["smallest_sides"] = sides.min(axis=0).tolist()
            facts["largest_sides"] = sides.max(axis=0).tolist()
        return facts
