"""What a folder of slides says about them: files, slides.csv and splits.json."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxinpaint.data.slide_readers import SUFFIXES

STAINS = ("PAS", "HE", "")
COLUMNS = ("id", "stain", "mpp", "group", "split", "synthetic", "reduced", "image")
MASKS = (("normal", "0"), ("sclerosed", "1"))  # names of the folders, by channel
_LISTED = 10  # names in a message


class Row(NamedTuple):
    """One slide, as its folder describes it.

    Attributes:
      image: the file.
      masks: of the two classes; or one file of outlines.
      stain: "PAS", "HE", or "" where nothing says it.
      mpp: micrometres of a pixel of the file; None where nothing says it.
      group: patient, or the slide itself.
      split: "train", "test1" and so on, or "" where a split leaves the slide out.
      synthetic: whether it holds generated pixels.
      reduced: how much the file was reduced already, along each side, when it was
        prepared; 1 if it was not.
    """

    image: Path
    masks: tuple[Path, ...]
    stain: str
    mpp: float | None
    group: str
    split: str
    synthetic: bool
    reduced: float = 1.0


def read_rows(root: str | Path) -> dict[str, Row]:
    """Reads the layout of a folder of slides; no image is opened.

    The folder holds images/<id>.png (or .npy, .tif, .svs ...), and for each image
    masks/normal/<id>.png and masks/sclerosed/<id>.png (or masks/0 and masks/1), or
    annotations/<id>.geojson. slides.csv may give stain, mpp, group, split and synthetic
    of a slide, in the column `image` a file elsewhere, relative to the folder, and in
    `reduced` how much a prepared file was reduced already; mpp is of the file as it is.
    splits.json may give the split: {"train": [ids], "test1": [ids]}. Where neither says
    anything about splits, every slide is for training.

    Args:
      root: the folder.

    Returns:
      The slides by id, sorted.

    Raises:
      FileNotFoundError: no image, or an image or annotation without its partner; up to
        ten of each side are listed.
      ValueError: a table that cannot be read, names a slide that is not there, or says
        what cannot be; the message names the file.

    Source: glomeruli specification 5.3.
    """
    root = Path(root)
    table = read_table(root / "slides.csv")
    files = _image_files(root, table)
    annotations = _pair(root, files)
    splits = read_splits(root / "splits.json", table, files)
    rows = {}
    for name in sorted(files):
        facts = table.get(name, {})
        rows[name] = Row(
            image=files[name],
            masks=annotations[name],
            stain=facts.get("stain", ""),
            mpp=positive(root, name, facts, "mpp"),
            group=facts.get("group", "") or name,
            split=splits.get(name, ""),
            synthetic=facts.get("synthetic", "") == "1",
            reduced=positive(root, name, facts, "reduced") or 1.0,
        )
    return rows


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Reads slides.csv.

    Returns:
      id -> its other columns; empty where there is no such file.

    Raises:
      ValueError: unknown columns, an id that is none or is there twice, or an unknown
        word.
    """
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = tuple(table.fieldnames or ())
        unknown = sorted(set(columns) - set(COLUMNS))
        if "id" not in columns or unknown:
            raise ValueError(
                f"{path}: the columns are {','.join(columns)}; they are id and any of "
                f"{','.join(COLUMNS[1:])}."
            )
        rows = [{k: (v or "").strip() for k, v in r.items() if k} for r in table]
    found: dict[str, dict[str, str]] = {}
    allowed = {"stain": STAINS, "synthetic": ("0", "1", "")}
    for row in rows:
        name = row["id"]
        if name in found or not re.fullmatch(r"[^/\\]+", name) or name[0] == ".":
            raise ValueError(f"{path}: '{name}' is no id, or is there twice.")
        for key, words in allowed.items():
            if row.get(key, "") not in words:
                raise ValueError(
                    f"{path}: {key} of {name} is '{row[key]}'; it is one of "
                    f"{list(words)}."
                )
        found[name] = row
    return found


def positive(root: Path, name: str, facts: Mapping[str, str], key: str) -> float | None:
    """A number of slides.csv above 0; None where nothing is said.

    Raises:
      ValueError: it is something else.
    """
    text = facts.get(key, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(
            f"{root / 'slides.csv'}: {key} of {name} is '{text}'; it is "
            + ("micrometres of a pixel, " if key == "mpp" else "a factor, ")
            + "above 0."
        )
    return value


def _image_files(root: Path, table: Mapping[str, dict[str, str]]) -> dict[str, Path]:
    """Images by id, of the folder and of the table."""
    files: dict[str, Path] = {}
    folder = root / "images"
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in here:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise ValueError(
                f"{folder}: {files[path.stem].name} and {path.name} have one id."
            )
        files[path.stem] = path
    for name, row in table.items():
        if row.get("image"):
            if name in files:
                raise ValueError(
                    f"{root / 'slides.csv'}: {name} has an image of its own, and "
                    f"{files[name]} has the same id."
                )
            files[name] = root / row["image"]
    if not files:
        raise FileNotFoundError(
            f"{root}: no slide found; looked for images/*{{{','.join(SUFFIXES)}}} and the "
            "column image of slides.csv."
        )
    absent = sorted(set(table) - set(files))
    if absent:
        raise ValueError(
            f"{root / 'slides.csv'} names {short(absent)}, of which there is no image."
        )
    return files


def _pair(root: Path, files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Masks or outlines of each image."""
    folders = []
    for names in MASKS:
        found = [root / "masks" / n for n in names if (root / "masks" / n).is_dir()]
        if len(found) == 2:
            raise ValueError(f"{found[0]} and {found[1]} are one class; keep one.")
        folders.append(found[0] if found else root / "masks" / names[0])
    masks = [{p.stem: p for p in sorted(folder.glob("*.png"))} for folder in folders]
    outlines = {p.stem: p for p in sorted((root / "annotations").glob("*.geojson"))}
    both = sorted(set(outlines) & (set(masks[0]) | set(masks[1])))
    if both:
        raise ValueError(
            f"{root}: {short(both)} have masks and outlines; keep one of the two."
        )
    pairs: dict[str, tuple[Path, ...]] = {n: (p,) for n, p in outlines.items()}
    pairs |= {n: (masks[0][n], masks[1][n]) for n in set(masks[0]) & set(masks[1])}
    alone = sorted(set(files) - set(pairs))
    orphans = sorted((set(masks[0]) | set(masks[1]) | set(outlines)) - set(files))
    if alone or orphans:
        raise FileNotFoundError(
            f"{root}: images without both masks ({folders[0].name}, {folders[1].name}) "
            f"or outlines: {short(alone)}; masks or outlines without an image: "
            f"{short(orphans)}. A class that a slide does not show has an all-black "
            "mask."
        )
    return pairs


def read_splits(
    path: Path, table: Mapping[str, dict[str, str]], files: Mapping[str, Path]
) -> dict[str, str]:
    """Reads the split of each slide that has one.

    Args:
      path: splits.json, which need not be there.
      table: as `read_table` gives it.
      files: what is known, by id.

    Returns:
      id -> split; "train" for all where nothing is said.

    Raises:
      ValueError: it cannot be read, names what is not there or a slide twice, puts a
        synthetic slide elsewhere than in training, or a list has another name.
    """
    splits = {n: row["split"] for n, row in table.items() if row.get("split")}
    if path.exists():
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(lists, dict) or not all(
            isinstance(names, list) for names in lists.values()
        ):
            raise ValueError(f'{path}: it is {{"train": [ids], "test1": [ids], ...}}.')
        for split, names in lists.items():
            for name in map(str, names):
                if name not in files:
                    raise ValueError(
                        f"{path}: {split} names {name}, which is not there."
                    )
                if splits.setdefault(name, split) != split:
                    raise ValueError(
                        f"{path}: {name} is in {splits[name]} and in {split}."
                    )
    elif not splits:
        return dict.fromkeys(files, "train")
    for name, split in splits.items():
        if table.get(name, {}).get("synthetic") == "1" and split != "train":
            raise ValueError(
                f"{path.parent}: {name} is synthetic and in the list '{split}'; "
                "synthetic slides are for training alone."
            )
        if split != "train" and not re.fullmatch(r"test\w*", split):
            raise ValueError(
                f"{path.parent}: {name} is in the list '{split}'; lists are 'train', "
                "'test1', 'test2' and so on. Validation is taken out of 'train'."
            )
    return splits


def short(names: Iterable[str]) -> list[str]:
    """At most ten of the names, and how many more there are."""
    listed = list(names)
    more = len(listed) - _LISTED
    return listed[:_LISTED] + ([f"... and {more} more"] if more > 0 else [])
