"""Slides and outlines of the public sets, paired by what is found in their folders.

No folder and no file name is taken for granted. Every file below the input is listed;
what it is follows from its header and ending:

    whole slides, pictures in colour    images
    .geojson                            outlines of both classes
    grey pictures                       the mask of one class

An image and its annotations have one stem. The class of a mask is a word of
`outlines.NAMES` (or 0 and 1) as the name of a folder above it, or a word at the end of
its own name, which then does not count to the stem: sclerosed/a.png, a_sclerosed.png.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.images import MAX_SECTIONS
from jaxinpaint.data.outlines import NAMES
from jaxinpaint.data.phantom_layout import CLASSES
from jaxinpaint.data.slide_readers import SUFFIXES, WHOLE, SlideFileError, image_form
from jaxinpaint.data.slide_tables import (
    Row,
    positive,
    read_rows,
    read_splits,
    read_table,
    short,
)

LAYOUTS = ("own", "aidpath", "zenodo")
TABLES = ("slides.csv", "splits.json", "positions.csv")
DEFAULT_SPLIT = "split: default, not the paper's"
OUTLINES = ".geojson"
_FOLDERS = {**NAMES, "0": 0, "1": 1}
_FILLERS = ("mask", "masks", "label", "labels", "annotation", "annotations")
# Slides for test of slides in all, section 5.2; other amounts keep the share.
_AIDPATH, _ZENODO = (6, 31), (5, 25)


class Found(NamedTuple):
    """What lies in a folder.

    Attributes:
      rows: files and facts of each slide that has an image and its annotations.
      files: all that the rows name, and the tables, in order.
      rejected: stem -> why it cannot be told what belongs together.
      images: without annotations.
      annotations: without an image, or without a class.
      passed_over: what is neither, by kind.
      notes: what a person should know; `DEFAULT_SPLIT` among them where it holds.
    """

    rows: dict[str, Row]
    files: list[Path]
    rejected: dict[str, str]
    images: list[str]
    annotations: list[str]
    passed_over: list[str]
    notes: list[str]


class _Files(NamedTuple):
    """The files of a folder by what they are; stem -> files."""

    images: dict[str, list[Path]]
    outlines: dict[str, list[Path]]
    masks: tuple[dict[str, list[Path]], dict[str, list[Path]]]
    unknown: list[str]
    single: list[Path]
    other: list[Path]


def find(layout: str, root: Path, mpp: float | None) -> Found:
    """Looks at a folder.

    Args:
      layout: "own", as `slide_tables.read_rows`; "aidpath" or "zenodo", the public sets
        of section 5.1, with the annotations somewhere below the same folder.
      root: the folder. slides.csv and splits.json in it say the same as in "own".
      mpp: micrometres of a pixel of slides that slides.csv does not give it of.

    Returns:
      The slides, sorted by id, and all that could not be paired.

    Raises:
      FileNotFoundError: no image, or none with annotations; says what was found and
        what was looked for. With "own" as `read_rows`.
      ValueError: a table that cannot be read or names what is not there; a stain that
        the default split needs and nothing tells; another layout, or mpp.

    Source: glomeruli specification 5.1, 5.2 and 5.3.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--layout is '{layout}'; it is one of {list(LAYOUTS)}.")
    if mpp is not None and not mpp > 0:
        raise ValueError(f"--mpp is {mpp}; it is micrometres of a pixel, above 0.")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give another --input.")
    if layout == "own":
        found = _own(root)
    else:
        found = _paired(layout, root)
    rows = {
        name: row if row.mpp or row.synthetic else row._replace(mpp=mpp)
        for name, row in found.rows.items()
    }
    tables = [root / name for name in TABLES if (root / name).is_file()]
    files = [f for row in rows.values() for f in (row.image, *row.masks)]
    return found._replace(rows=rows, files=[*files, *tables])


def _own(root: Path) -> Found:
    rows = read_rows(root)
    known = {"images", "masks", "annotations", *TABLES}
    folder = root / "images"
    here = [p.name for p in root.iterdir() if p.name not in known]
    within = [
        f"images/{path.name}"
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.suffix.lower() not in SUFFIXES
    ]
    other = sorted(n for n in here + within if "/." not in f"/{n}")
    return Found(rows, [], {}, [], [], short(other), [])


def _paired(layout: str, root: Path) -> Found:
    files = _list(layout, root)
    _expect_images(root, files)
    table = read_table(root / "slides.csv")
    absent = sorted(set(table) - set(files.images))
    if absent:
        raise ValueError(
            f"{root / 'slides.csv'} names {short(absent)}, of which there is no image."
        )
    rejected = _ambiguous(files)
    marked = set(files.outlines).union(*files.masks)
    pairs: dict[str, tuple[Path, ...]] = {}
    alone = []
    for stem in sorted(files.images):
        if stem in rejected:
            continue
        missing = [
            name
            for name, own in zip(CLASSES, files.masks, strict=True)
            if stem not in own
        ]
        if stem in files.outlines:
            pairs[stem] = (files.outlines[stem][0],)
        elif not missing:
            pairs[stem] = tuple(own[stem][0] for own in files.masks)
        else:
            half = f" (no mask of {missing[0]})" if len(missing) == 1 else ""
            alone.append(f"{stem}{half}")
    orphans = sorted(marked - set(files.images)) + files.unknown
    if not pairs:
        raise FileNotFoundError(_nothing(layout, root, files, alone, orphans, rejected))
    stains = {n: table.get(n, {}).get("stain") or "" for n in files.images}
    for name, paths in files.images.items():
        stains[name] = stains[name] or _stain(layout, paths[0].relative_to(root))
    groups = {n: table.get(n, {}).get("group") or n for n in files.images}
    splits, notes = _splits(layout, root, table, files.images, stains, groups)
    rows = {
        name: Row(
            image=files.images[name][0],
            masks=masks,
            stain=stains[name],
            mpp=positive(root, name, table.get(name, {}), "mpp"),
            group=groups[name],
            split=splits.get(name, ""),
            synthetic=False,
        )
        for name, masks in pairs.items()
    }
    passed = _kinds(files.other)
    if files.single:
        passed.append(
            f"{len(files.single)} pictures of single glomeruli, which are no slides"
        )
    return Found(rows, [], rejected, alone, orphans, passed, notes)


def _list(layout: str, root: Path) -> _Files:
    """Every file below a folder, but hidden ones and its tables."""
    files = _Files({}, {}, ({}, {}), [], [], [])
    for count, path in enumerate(sorted(root.rglob("*"))):
        if count >= MAX_SECTIONS:
            raise ValueError(f"{root}: holds more than {MAX_SECTIONS} files.")
        place = path.relative_to(root)
        if any(part.startswith(".") for part in place.parts) or not path.is_file():
            continue
        suffix = path.suffix.lower()
        if suffix == OUTLINES:
            files.outlines.setdefault(_without_ending(path.stem), []).append(path)
        elif suffix in SUFFIXES:
            _sort_picture(layout, files, path, place)
        elif str(place) not in TABLES:
            files.other.append(path)
    return files


def _sort_picture(layout: str, files: _Files, path: Path, place: Path) -> None:
    channel, stem, certain = _class_of(place)
    colours = _channels(path)
    if colours == 1:
        if channel is None:
            files.unknown.append(f"{place.as_posix()} (grey; no class in its name)")
        else:
            files.masks[channel].setdefault(stem, []).append(path)
    elif not certain:
        files.images.setdefault(_without_ending(path.stem), []).append(path)
    elif layout == "aidpath":
        files.single.append(path)  # DATASET_B: one glomerulus, in a folder of its class
    else:
        assert channel is not None
        files.masks[channel].setdefault(stem, []).append(path)


def _class_of(place: Path) -> tuple[int | None, str, bool]:
    """Channel, stem without the words of the class, and whether a word names it."""
    stem, channel = place.stem, None
    while match := re.fullmatch(r"(.+)[_\-. ]([A-Za-z]+)", stem):
        word = match[2].lower()
        if word not in _FILLERS and (word not in NAMES or channel is not None):
            break
        channel = NAMES.get(word, channel)
        stem = match[1]
    if channel is not None:
        return channel, _without_ending(stem), True
    for folder in reversed(place.parent.parts):
        if folder.lower() in _FOLDERS:
            channel = _FOLDERS[folder.lower()]
            return channel, _without_ending(stem), folder.lower() in NAMES
    return None, stem, False


def _without_ending(stem: str) -> str:
    """The stem of "a.svs.geojson" is a, as that of a.svs."""
    path = Path(stem)
    return path.stem if path.suffix.lower() in SUFFIXES else stem


def _channels(path: Path) -> int:
    """1 for grey; of a file that cannot be read 3, so that reading it tells why."""
    suffix = path.suffix.lower()
    if suffix in WHOLE:
        return 3
    try:
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array.shape[-1] if array.ndim == 3 else 1
        channels = image_form(path)[2]
    except (SlideFileError, ValueError, EOFError, OSError):
        return 3
    return 1 if channels <= 2 else 3


def _ambiguous(files: _Files) -> dict[str, str]:
    """Stems of which there is more than one file of a kind."""
    rejected = {}
    for stem in sorted(files.images):
        kinds = {
            "images": files.images.get(stem, []),
            "outlines": files.outlines.get(stem, []),
            "masks of normal": files.masks[0].get(stem, []),
            "masks of sclerosed": files.masks[1].get(stem, []),
        }
        for kind, paths in kinds.items():
            if len(paths) > 1:
                names = ", ".join(str(path) for path in paths[:3])
                rejected[stem] = f"{len(paths)} {kind} have this stem: {names}"
        if kinds["outlines"] and (
            kinds["masks of normal"] or kinds["masks of sclerosed"]
        ):
            rejected[stem] = "has masks and outlines; keep one of the two"
    return rejected


def _expect_images(root: Path, files: _Files) -> None:
    if not files.images:
        raise FileNotFoundError(
            f"{root}: no slide found; looked below it for whole slides and pictures in "
            f"colour, *{{{','.join(SUFFIXES)}}}. Found: {_kinds(files.other) or 'nothing'}."
        )


def _nothing(
    layout: str,
    root: Path,
    files: _Files,
    alone: Iterable[str],
    orphans: Iterable[str],
    rejected: Mapping[str, str],
) -> str:
    hint = (
        " The public set has no outlines: draw the glomeruli in QuPath and export "
        "GeoJSON named like the slide."
        if layout == "aidpath" and not files.outlines and not any(files.masks)
        else ""
    )
    return (
        f"{root}: none of {len(files.images)} images has annotations of its stem "
        f"(<stem>{OUTLINES}, or a grey mask of each class, in a folder or with a last "
        f"word of {sorted(NAMES)}). Images alone: {short(alone)}; annotations alone: "
        f"{short(orphans)}; not to be told apart: {short(rejected)}.{hint}"
    )


def _kinds(files: Iterable[Path]) -> list[str]:
    """How many files there are of each ending."""
    counts: dict[str, int] = {}
    for path in files:
        kind = path.suffix.lower() or path.name
        counts[kind] = counts.get(kind, 0) + 1
    return [f"{n} {kind}" for kind, n in sorted(counts.items())]


def _stain(layout: str, place: Path) -> str:
    """PAS or HE, if a word of the path says one of them."""
    if layout == "aidpath":
        return "PAS"  # section 5.1: all of them
    words = set(re.findall(r"[a-z&]+", place.as_posix().lower()))
    told = [
        n for n, own in {"PAS": {"pas"}, "HE": {"he", "h&e"}}.items() if own & words
    ]
    return told[0] if len(told) == 1 else ""


def _splits(
    layout: str,
    root: Path,
    table: Mapping[str, dict[str, str]],
    images: Mapping[str, list[Path]],
    stains: Mapping[str, str],
    groups: Mapping[str, str],
) -> tuple[dict[str, str], list[str]]:
    """The split of each image: the tables', or the default one with its note."""
    path = root / "splits.json"
    if path.exists() or any(row.get("split") for row in table.values()):
        return read_splits(path, table, {name: root for name in images}), []
    unknown = sorted(name for name in images if not stains[name])
    if unknown:
        raise ValueError(
            f"{root}: the default split is by stain, and nothing tells the stain of "
            f"{short(unknown)}. Put them in folders PAS and HE, or give slides.csv with "
            "the columns id,stain, or give splits.json."
        )
    order = sorted(images, key=lambda name: images[name][0].name)
    of = lambda stain: [name for name in order if stains[name] == stain]
    if layout == "aidpath":
        splits = _last_for_test(order, groups, _AIDPATH, "test1")
    else:
        splits = _last_for_test(of("PAS"), groups, _ZENODO, "test2")
        splits |= dict.fromkeys(of("HE"), "test3")
    counts = {
        s: sum(v == s for v in splits.values()) for s in sorted(set(splits.values()))
    }
    notes = [DEFAULT_SPLIT, f"Split of {len(images)} images, paired or not: {counts}."]
    if layout == "zenodo" and all(group == name for name, group in groups.items()):
        notes.append(
            "No groups are given: two regions of one slide may lie in training and in "
            "test. Give slides.csv with the columns id,group."
        )
    return splits, notes


def _last_for_test(
    names: list[str], groups: Mapping[str, str], share: tuple[int, int], test: str
) -> dict[str, str]:
    """The first of the names for training, the last for test.

    Assumption (5.2): of another number of slides than the paper's the same share is for
    test, at least one where there are two. A group stays together.
    """
    wanted = share[0] if len(names) == share[1] else 0
    if not wanted and len(names) > 1:
        wanted = max(1, round(len(names) * share[0] / share[1]))
    splits = dict.fromkeys(names, "train")
    order = list(dict.fromkeys(groups[name] for name in names))
    for group in reversed(order[1:]):
        if sum(split == test for split in splits.values()) >= wanted:
            break
        splits |= {name: test for name in names if groups[name] == group}
    return splits
