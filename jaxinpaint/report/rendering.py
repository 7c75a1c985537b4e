"""What all pages share: one file each, their facts, records and small tables."""

import base64
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxinpaint.report import plots

FOLDER = pathlib.Path(__file__).parent
# What run["data"] may be, in words; "given" are images of which nobody said it.
DATA = {"phantom": "synthetic", "real": "real", "given": ""}


class Table(NamedTuple):
    """A small table of words and numbers, laid out as it is.

    Attributes:
      title: above it.
      notes: sentences below it.
      head: of the columns.
      lines: of cells, each a text; the first heads the line.
      printed: numbers of the lines that a paper prints, which are set in italics.
      groups: number of a line -> the heading above it, where a new group begins.
    """

    title: str
    notes: Sequence[str]
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    printed: Sequence[int] = ()
    groups: Mapping[int, str] = {}


def write(path: str | pathlib.Path, template: str, **values: Any) -> None:
    """Fills a template and writes the page, with everything it needs inside it.

    Args:
      path: the file to write; its folder is made.
      template: name of a file beside this module, which extends "base.html".
      values: of the template: `title`, `facts`, `notes`, `records_title` and `records`
        of every page, and its own.

    Raises:
      ImportError: the extra `report` is not installed.
    """
    jinja2 = plots.extra("jinja2")
    house = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = house.get_template(template).render(palette=plots.COLOURS, **values)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, as the few facts no reader may miss.

    Args:
      run: `system`, `dataset`, `data`, `minutes`, `device`; optional `steps`,
        `weights`, `mask_manifest` and `version`.
    """
    trained = "not here" if run["minutes"] is None else duration(run["minutes"])
    if "steps" in run:
        trained += f", {run['steps']} steps"
    words = (str(run["dataset"]), DATA[run["data"]])
    found = [
        ("System", str(run["system"])),
        ("Data", ", ".join(word for word in words if word)),
        ("Trained", trained),
        ("Device", str(run["device"])),
    ]
    shown = {"weights": "Weights", "mask_manifest": "Masks", "version": "Version"}
    return found + [
        (label, _short(str(run[key]))) for key, label in shown.items() if key in run
    ]


def records(**parts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Records of a run as a page folds them away: name, short facts, JSON.

    Args:
      parts: by name, where "_" stands for a space.
    """
    return [
        (name.replace("_", " "), leaves(record), _json(record))
        for name, record in parts.items()
    ]


def duration(minutes: float) -> str:
    """Writes a time in the unit that leaves few digits."""
    for limit, unit, size in (
        (2, "seconds", 1 / 60),
        (120, "minutes", 1),
        (48 * 60, "hours", 60),
    ):
        if minutes < limit:
            return f"{minutes / size:.3g} {unit}"
    return f"{minutes / (24 * 60):.3g} days"


def uri(png: bytes) -> str:
    """A PNG as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def leaves(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The short facts of a record: what is no list and no nested record."""
    return [
        (str(key), str(value))
        for key, value in record.items()
        if not isinstance(value, Mapping | list | tuple)
    ]


def _short(text: str) -> str:
    """Cuts every digest in a text to its first 12 digits; the records have it whole."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1…", text)


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, default=str, ensure_ascii=False)
