"""Slides with glomeruli, checked and written at working resolution."""

import csv
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxinpaint.data import glomeruli_import, slide_readers
from jaxinpaint.data.contours import components
from jaxinpaint.data.glomeruli_crops import Rules, crops_of
from jaxinpaint.data.images import write_image
from jaxinpaint.data.positions import read_positions
from jaxinpaint.data.preparing import Job, Tally, Watch
from jaxinpaint.data.slide_tables import COLUMNS, Row, short
from jaxinpaint.data.slides import Slide, expect_apart, factor_of, open_rows

RULES = Rules(size=256, min_area=400, max_radius=120, max_cover=0.6)  # section 5.5
LARGEST = 64_000_000  # pixels of a whole slide that become one PNG


class _Settings(NamedTuple):
    """How slides are opened; as of `slides.open_folder`."""

    working_mpp: float
    downsample_all: float
    mask_threshold: int
    max_pixels: int


class _Checked(NamedTuple):
    """A slide that can be used.

    Attributes:
      slide: as it was opened.
      image: uint8 [H, W, 3]; None of a whole slide that stays where it is.
      label: uint8 [H, W, 2].
      facts: for the report.
    """

    slide: Slide
    image: np.ndarray | None
    label: np.ndarray
    facts: dict[str, Any]


def glomeruli_job(
    source: Path,
    *,
    layout: str,
    working_mpp: float,
    downsample_all: float,
    mask_threshold: int,
    mpp: float | None,
    max_pixels: int,
    watch: Watch,
) -> Job:
    """A folder of slides in one of the layouts of `glomeruli_import`.

    What is written has the layout of section 5.3: images/<id>.png and
    masks/{normal,sclerosed}/<id>.png at working resolution, splits.json, slides.csv with
    the resolution of the images as they are now and, in `reduced`, what they were reduced
    by. So a run on that folder reduces nothing twice. A whole slide of more than
    `LARGEST` pixels at working resolution stays where it is and as it is: slides.csv
    names its file, its masks or outlines are copied.

    A slide that cannot be used is rejected with its reason.

    Args:
      source: the folder.
      layout: "own", "aidpath" or "zenodo".
      working_mpp: as of `slides.open_folder`; so are the others.
      downsample_all: likewise.
      mask_threshold: likewise.
      mpp: micrometres of a pixel of slides that nothing else tells it of.
      max_pixels: as of `slides.open_folder`.
      watch: shows how far it is.

    Returns:
      The job. Written, it raises ValueError where no slide can be used or an image is
      for training and for test, ImportError where a whole slide needs a package.

    Raises:
      ValueError: as `glomeruli_import.find`.
      FileNotFoundError: likewise.

    Source: glomeruli specification 5.1 to 5.5.
    """
    settings = _Settings(working_mpp, downsample_all, mask_threshold, max_pixels)
    if working_mpp <= 0 or downsample_all < 0 or not 0 <= mask_threshold <= 255:
        raise ValueError(
            f"--working-mpp is {working_mpp}, --downsample-all {downsample_all} and "
            f"--mask-threshold {mask_threshold}; the first is above 0, the second not "
            "below, the third 0 to 255."
        )
    found = glomeruli_import.find(layout, source, mpp)

    def fill(work: Path) -> dict[str, Any]:
        return _fill(source, found, settings, watch, work)

    options = {"layout": layout, "mpp": mpp, **settings._asdict()}
    facts = {
        name: [row.image.name, *(p.name for p in row.masks), *map(str, row[2:])]
        for name, row in found.rows.items()
    }
    unpaired = [found.rejected, found.images, found.annotations]
    return Job("glomeruli", source, options, found.files, [facts, *unpaired], fill)


def _fill(
    source: Path,
    found: glomeruli_import.Found,
    settings: _Settings,
    watch: Watch,
    work: Path,
) -> dict[str, Any]:
    tally, notes = Tally(), list(found.notes)
    rejected = dict(found.rejected)
    used: list[Slide] = []
    facts: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for name, row in watch(list(found.rows.items()), len(found.rows), "slides"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                one = _checked(name, row, settings)
            except (ValueError, OSError) as error:
                rejected[name] = str(error)
                continue
        notes += [str(one.message) for one in said if one.category is UserWarning]
        used.append(one.slide._replace(region=_closed, label=_closed))
        facts[name] = one.facts
        lines.append(_write(work, one, row, tally))
    if not used:
        raise ValueError(
            f"{source}: none of {len(found.rows)} slides can be used: "
            f"{'; '.join(list(rejected.values())[:3])}"
        )
    expect_apart(used)
    _write_tables(work, lines)
    notes += _positions(source, work, facts)
    notes += _remarks(facts, settings)
    total, small = Counter[str](), Counter[str]()
    for own in facts.values():
        total.update(own["glomeruli"])
        small.update(own["small"])
    return {
        **tally.facts(),
        "count": len(used),
        "slides": facts,
        "splits": dict(Counter(own["split"] or "none" for own in facts.values())),
        "glomeruli": dict(total),
        "small": dict(small),
        "crops": {
            split or "none": _crops([o for o in facts.values() if o["split"] == split])
            for split in sorted({own["split"] for own in facts.values()})
        },
        "rules": RULES._asdict(),
        "rejected": rejected,
        "unpaired": {"images": found.images, "annotations": found.annotations},
        "passed_over": found.passed_over,
        "notes": notes,
    }


def _closed(*place: int) -> NoReturn:
    """In place of a slide's pixels, which would stay in memory with it."""
    raise AssertionError(f"{place} of a slide that was closed")


def _checked(name: str, row: Row, settings: _Settings) -> _Checked:
    """Reads all of a slide once, as training will."""
    file = slide_readers.open_pixels(row.image, settings.max_pixels)
    factor = factor_of(name, row, file, settings.working_mpp, settings.downsample_all)
    (slide,) = open_rows({name: row}, **settings._asdict())
    label = slide.label()
    image, held = None, slide._replace(label=lambda: label)
    if not file.whole or slide.height * slide.width <= LARGEST:
        image = slide.region(0, 0, slide.height, slide.width)
        held = held._replace(
            region=lambda top, left, h, w: image[top : top + h, left : left + w]
        )
    cut = Counter(
        "crops" if arrays else str(facts["reason"])
        for arrays, facts in crops_of(held, RULES)
    )
    areas = [_areas(label[..., channel]) for channel in (0, 1)]
    mpp = file.mpp or row.mpp
    return _Checked(
        slide,
        image,
        label,
        {
            "split": row.split,
            "stain": row.stain,
            "group": row.group,
            "synthetic": row.synthetic,
            "file": [file.height, file.width],
            "file_mpp": mpp,
            "size": [slide.height, slide.width],
            "factor": factor,
            "mpp": _mpp_now(row, mpp, factor, settings),
            "referenced": image is None,
            "sha256": slide.digest,
            "glomeruli": {
                n: len(a) for n, a in zip(glomeruli_import.CLASSES, areas, strict=True)
            },
            "small": {
                n: int((a < RULES.min_area).sum())
                for n, a in zip(glomeruli_import.CLASSES, areas, strict=True)
            },
            "crops": cut.pop("crops", 0),
            "crops_rejected": dict(cut),
        },
    )


def _areas(mask: np.ndarray) -> np.ndarray:
    """Pixels of each 8-connected piece of a mask [H, W]."""
    numbers, _ = components(mask)
    return np.bincount(numbers.ravel())[1:]


def _mpp_now(
    row: Row, mpp: float | None, factor: float, settings: _Settings
) -> float | None:
    """Micrometres of a pixel of the image that is written; None where nobody knows."""
    if row.synthetic or (mpp is None and not settings.downsample_all):
        return settings.working_mpp  # what it counted as
    return None if mpp is None else mpp * factor


def _write(work: Path, one: _Checked, row: Row, tally: Tally) -> dict[str, Any]:
    """Writes a slide and its masks; returns its line of slides.csv."""
    slide, own = one.slide, one.facts
    line = {
        "id": slide.id,
        "stain": row.stain,
        "mpp": own["mpp"] or "",
        "group": row.group,
        "split": row.split,
        "synthetic": int(row.synthetic),
        "reduced": row.reduced * own["factor"],
        "image": "",
    }
    masks = [work / "masks" / n / f"{slide.id}.png" for n in glomeruli_import.CLASSES]
    for folder in (work / "images", *(path.parent for path in masks)):
        folder.mkdir(parents=True, exist_ok=True)
    if one.image is None:
        if len(row.masks) == 1:
            masks = [work / "annotations" / f"{slide.id}{glomeruli_import.OUTLINES}"]
            masks[0].parent.mkdir(exist_ok=True)
        for path, given in zip(masks, row.masks, strict=True):
            path.write_bytes(given.read_bytes())
        known = own["file_mpp"] or ""
        return line | {"mpp": known, "reduced": 1.0, "image": row.image.resolve()}
    tally.add(one.image)
    write_image(work / "images" / f"{slide.id}.png", one.image)
    for channel, path in enumerate(masks):
        write_image(path, one.label[..., channel : channel + 1] * np.uint8(255))
    return line


def _write_tables(work: Path, lines: list[dict[str, Any]]) -> None:
    columns = COLUMNS if any(line["image"] for line in lines) else COLUMNS[:-1]
    with open(work / "slides.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(
            file, columns, lineterminator="\n", extrasaction="ignore"
        )
        table.writeheader()
        table.writerows(lines)
    splits: dict[str, list[str]] = {}
    for line in lines:
        if line["split"]:
            splits.setdefault(line["split"], []).append(line["id"])
    text = json.dumps(dict(sorted(splits.items())), indent=1)
    (work / "splits.json").write_text(text + "\n", encoding="utf-8")


def _positions(source: Path, work: Path, facts: Mapping[str, Any]) -> list[str]:
    """Copies a person's centres, which are at working resolution already."""
    path = source / "positions.csv"
    if not path.is_file():
        return []
    unknown = sorted(set(read_positions(path)) - set(facts))
    (work / path.name).write_bytes(path.read_bytes())
    if not unknown:
        return []
    return [f"positions.csv names {short(unknown)}, which are not among the slides."]


def _crops(slides: list[dict[str, Any]]) -> dict[str, Any]:
    total = Counter[str]()
    for own in slides:
        total.update(own["crops_rejected"])
    return {
        "slides": len(slides),
        "crops": sum(own["crops"] for own in slides),
        "rejected": dict(total),
    }


def _remarks(facts: Mapping[str, Mapping[str, Any]], settings: _Settings) -> list[str]:
    """What a person should know of the slides."""
    notes = []
    training = [own for own in facts.values() if own["split"] == "train"]
    if not training:
        notes.append("No slide is for training.")
    elif not any(own["crops"] for own in training):
        notes.append(
            f"no sclerosed glomerulus of at least {RULES.min_area} px that fits a window "
            f"of {RULES.size} px in {len(training)} training slides: nothing to train "
            "the inpainting network on."
        )
    guessed = [n for n, own in facts.items() if own["file_mpp"] is None]
    if guessed and not settings.downsample_all:
        notes.append(
            f"Nothing tells the resolution of {short(guessed)}; they count as being at "
            f"{settings.working_mpp:g} um/px. Give mpp in slides.csv, or --mpp."
        )
    referenced = [n for n, own in facts.items() if own["referenced"]]
    if referenced:
        notes.append(
            f"{short(referenced)} have more than {LARGEST} pixels at working resolution; "
            "slides.csv names their files, which must stay where they are."
        )
    return notes
