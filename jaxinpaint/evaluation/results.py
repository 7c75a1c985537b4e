"""Small pieces that every evaluation writes its results with."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console


def remove(folder: Path, names: Sequence[str]) -> None:
    """Removes what an earlier evaluation wrote, so that no two are mixed."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people and programs; it knows no NaN."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Runs of at most `size` items."""
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


def say(console: Console, line: str) -> None:
    """Prints one plain line."""
    console.print(line, highlight=False, markup=False)
