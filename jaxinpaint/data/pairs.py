"""Finds the files of several folders that belong to one image, by their stems."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxinpaint.data.images import SUFFIXES


class Matched(NamedTuple):
    """Which names are in every folder.

    Attributes:
      names: in all of them, sorted.
      missing: name -> the folders that do not have it, for every other name.
    """

    names: list[str]
    missing: dict[str, list[str]]


def images_by_name(
    source: str | Path, suffix: str = "", beside: Iterable[str] = ()
) -> dict[str, Path]:
    """Lists the images of a folder by stem, the file's name without its ending.

    Folders inside it, hidden files and files that are no images are passed over.

    Args:
      source: a folder, or one image.
      suffix: "_mask" takes the files whose stem ends in it alone, and cuts it off:
        `a_mask.png` is named "a".
      beside: suffixes of other files in the same folder. `a_mask.png` is passed over
        if this holds "_mask" and there is an image of stem "a".

    Returns:
      Files by name.

    Raises:
      ValueError: no image, or two of one name such as a.png and a.jpg.
      OSError: `source` is not there or may not be read.
    """
    source = Path(source)
    if not source.is_dir():
        source.stat()
        return {source.stem.removesuffix(suffix): source}
    files = sorted(
        path
        for path in (Path(one.path) for one in os.scandir(source) if one.is_file())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    stems = {path.stem for path in files}
    others = {stem + end for stem in stems for end in beside if end}
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in others or not path.stem.endswith(suffix):
            continue
        name = path.stem.removesuffix(suffix)
        if name in found:
            raise ValueError(
                f"{source}: {found[name].name} and {path.name} have one name; files "
                "are matched by it without its ending, so keep one of them."
            )
        found[name] = path
    if not found:
        what = f"no image whose stem ends in {suffix!r}" if suffix else "no image"
        raise ValueError(f"{source}: holds {what} ({', '.join(SUFFIXES)}).")
    return found


def match(folders: Mapping[str, Mapping[str, Path]]) -> Matched:
    """Finds the names that all folders have.

    Args:
      folders: what each is called in messages -> its files by name, at least one.

    Raises:
      ValueError: there is no such name; each folder's first names are told.
    """
    every = sorted(set().union(*folders.values()))
    names = [name for name in every if all(name in files for files in folders.values())]
    if not names:
        told = "; ".join(
            f"{folder} has {shown(sorted(files), 3)}"
            for folder, files in folders.items()
        )
        raise ValueError(f"no name is in every folder: {told}.")
    missing = {
        name: [folder for folder, files in folders.items() if name not in files]
        for name in every
        if name not in names
    }
    return Matched(names, missing)


def shown(names: Iterable[str], most: int) -> str:
    """The first names in quotes, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
