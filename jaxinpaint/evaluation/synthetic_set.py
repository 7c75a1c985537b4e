"""The folder that synthesised slides are written to, slide by slide, and resumed from.

It has the layout of a person's own slides, so the same reader takes it:

    images/<output>.png  masks/normal/<output>.png  masks/sclerosed/<output>.png
    slides.csv  splits.json    every slide is for training and marked synthetic
    provenance/<output>.png    255 where a pixel was generated
    manifest.jsonl             a line for every glomerulus
    settings.json              all that decides what is written

An output counts when its lines are in the manifest, which is written last.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.images import write_image
from jaxinpaint.training.workdir import flat, write_atomically

FOLDERS = ("images", "masks/normal", "masks/sclerosed", "provenance")
COLUMNS = ("id", "stain", "mpp", "group", "split", "synthetic")


class Output(NamedTuple):
    """A slide with new glomeruli.

    Attributes:
      name: `<source>__syn<seed>_<round>`.
      image: uint8 [H, W, 3].
      label: uint8 [H, W, 2], normal and sclerosed, 0 and 1.
      generated: bool [H, W].
      about: source, source_sha256, stain, mpp, group, round, tiles (how many tiles of
        the slide hold a generated pixel) and left_out (positions that broke a rule).
      placements: what is told of each new glomerulus.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    generated: np.ndarray
    about: Mapping[str, Any]
    placements: Sequence[Mapping[str, Any]]


class SyntheticSet:
    """A folder of synthesised slides; opening one that was begun goes on with it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Begins a folder, or opens one.

        Args:
          folder: made if absent.
          settings: JSON values: what decides which bytes are written.

        Raises:
          ValueError: the folder was begun with other settings, holds something else, or
            a file is not the one that was written.
          OSError: a file cannot be read or written.
        """
        self._folder = folder
        self._lines: dict[str, list[dict[str, Any]]] = {}
        begun = folder / "settings.json"
        if begun.exists():
            _expect_same(begun, settings)
            self._read()
            return
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder}: is not empty and holds no synthesised set; give another "
                "--output."
            )
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        # Before the first image: a slide that no list names is not trained on.
        self._write_tables()
        write_atomically(begun, json.dumps(settings, indent=1) + "\n")

    def __contains__(self, name: object) -> bool:
        return name in self._lines

    def lines(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The manifest's lines of an output."""
        return self._lines[name]

    def add(self, output: Output) -> None:
        """Writes an output; after a kill it is there whole, or is written again.

        Raises:
          ValueError: it has no placement, or normal and sclerosed overlap in it.
          OSError: a file cannot be written.
        """
        if not output.placements:
            raise ValueError(f"{output.name}: has no new glomerulus.")
        normal, sclerosed = (output.label[..., channel] > 0 for channel in (0, 1))
        both = int((normal & sclerosed).sum())
        if both:
            raise ValueError(
                f"{output.name}: {both} pixels are both normal and sclerosed; nothing "
                "was written."
            )
        planes = (output.image, normal, sclerosed, output.generated)
        files = {}
        for place, plane in zip(FOLDERS, planes, strict=True):
            path = self._folder / place / f"{output.name}.png"
            pixels = plane if plane.ndim == 3 else _white(plane)
            write_image(path, pixels)
            files[place] = _digest(path)
        shared = {"output": output.name, **output.about, "files": files}
        self._lines[output.name] = [{**shared, **one} for one in output.placements]
        self._write_tables()
        lines = [json.dumps(line) for own in self._lines.values() for line in own]
        write_atomically(self._folder / "manifest.jsonl", "\n".join(lines) + "\n")

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Writes report.json."""
        write_atomically(
            self._folder / "report.json", json.dumps(report, indent=1) + "\n"
        )

    def _read(self) -> None:
        path = self._folder / "manifest.jsonl"
        if not path.exists():  # killed before the first output
            return
        for line in path.read_text().splitlines():
            found = json.loads(line)
            self._lines.setdefault(found["output"], []).append(found)
        for name, lines in self._lines.items():
            for place, digest in lines[0]["files"].items():
                file = self._folder / place / f"{name}.png"
                if not file.exists() or _digest(file) != digest:
                    raise ValueError(
                        f"{file}: is not the file that was written; begin again in an "
                        "empty --output."
                    )

    def _write_tables(self) -> None:
        """slides.csv and splits.json of the outputs so far."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        for name, (line, *_) in self._lines.items():
            known = {key: line[key] for key in ("stain", "mpp", "group")}
            table.writerow({"id": name, **known, "split": "train", "synthetic": 1})
        splits = {"train": list(self._lines)}
        write_atomically(self._folder / "splits.json", json.dumps(splits) + "\n")
        write_atomically(self._folder / "slides.csv", text.getvalue())


def _expect_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses settings that are not those a folder was begun with.

    Raises:
      ValueError: names the first that differs, with both values.
    """
    try:
        old = dict(flat(json.loads(path.read_text())))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    new = dict(flat(json.loads(json.dumps(settings))))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{path.parent} was begun with {key} {old.get(key)!r}, now it is "
                f"{new.get(key)!r}; give another --output, or what it was begun with."
            )


def _white(plane: np.ndarray) -> np.ndarray:
    return np.where(plane, 255, 0).astype(np.uint8)[..., None]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
