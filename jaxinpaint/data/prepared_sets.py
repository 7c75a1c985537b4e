"""What `jaxinpaint prepare` makes of pictures, stacks and MR volumes: TFDS data sets.

Each function looks at a source and says what is to be written; `preparing` writes it.
The files are read by the readers that training uses on the source itself.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxinpaint.data import cremi, images, photographs, volumes
from jaxinpaint.data.builders import photographs as picture_builder
from jaxinpaint.data.builders import sections as section_builder
from jaxinpaint.data.builders import slices as slice_builder
from jaxinpaint.data.preparing import Job, Tally, Watch
from jaxinpaint.data.sections import TWELVE_BITS
from jaxinpaint.data.slide_tables import short
from jaxinpaint.data.stack import Sections, two_or_more

LEAST_PICTURES = 3  # one each to train, to validate and to test


def images_job(source: Path, *, max_pixels: int, watch: Watch) -> Job:
    """A folder of pictures of any size, as `config.data.kind` "photographs" reads it.

    A picture that cannot be read is rejected. Grey ones are stored in colour where
    others are in colour.

    Raises:
      ValueError: no picture, none that can be read, or 8 bits and 16 in one folder.
      OSError: the folder is not there.
    """
    files = photographs.list_pictures(source)
    names = photographs.picture_names(files)
    read = partial(images.read_image, max_pixels=max_pixels)

    def fill(work: Path) -> dict[str, Any]:
        tally, rejected = Tally(), {}
        good: list[tuple[str, Path]] = []
        first: dict[str, str] = {}  # of each dtype
        grey = []
        pairs = list(zip(names, files, strict=True))
        for name, path in watch(pairs, len(pairs), "reading"):
            try:
                pixels = read(path)
            except (ValueError, OSError) as error:
                rejected[name] = str(error)
                continue
            tally.add(pixels)
            first.setdefault(str(pixels.dtype), name)
            if pixels.shape[-1] == 1:
                grey.append(name)
            good.append((name, path))
        if not good:
            raise ValueError(
                f"{source}: none of {len(files)} pictures can be read: "
                f"{next(iter(rejected.values()))}"
            )
        if len(first) > 1:
            raise ValueError(
                f"{source}: pictures of 8 and of 16 bits ({first}); one set has one "
                "depth. Keep them in two folders."
            )
        height, width = tally.sizes[0] if len(tally.sizes) == 1 else (None, None)
        picture_builder.write_photographs(
            ((n, read(path)) for n, path in watch(good, len(good), "writing")),
            work,
            shape=(height, width, tally.channels[-1]),
            dtype=np.dtype(next(iter(first))),
        )
        notes = []
        if len(tally.channels) > 1:
            notes.append(
                f"{len(grey)} grey picture(s) are stored in colour, as others are: "
                f"{short(grey)}; set config.channels to 3."
            )
        if len(good) < LEAST_PICTURES:
            notes.append(
                f"{len(good)} picture(s): training needs {LEAST_PICTURES}, one each to "
                "train, to validate and to test."
            )
        notes += _twelve_bits(tally, "the pictures")
        dataset = _dataset(work, picture_builder.DATASET)
        return tally.facts() | {
            "dataset": dataset,
            "rejected": rejected,
            "passed_over": _others(source, files),
            "notes": notes,
        }

    return Job("images", source, {"max_pixels": max_pixels}, files, [], fill)


def sections_job(source: Path, *, max_pixels: int, watch: Watch) -> Job:
    """A folder of numbered images, one a section.

    Raises:
      ValueError: no folder, a folder with a single file, or names that give no order;
        when it is written, a section that cannot be read or differs from the others.
        Nothing is left out of a stack, since its sections are neighbours.
      OSError: the folder is not there.
    """
    files = images.list_sections(source)
    if len(files) < 2:
        raise ValueError(
            f"{source}: one file; a volume in one TIFF is prepared with `prepare "
            "volume`, one in HDF5 with `prepare cremi`."
        )
    read = partial(images.read_sections, files, max_pixels)
    fill = _stack_filler(source, read, len(files), watch)
    return Job(
        "sections",
        source,
        {"max_pixels": max_pixels},
        files,
        [],
        lambda work: fill(work) | {"passed_over": _others(source, files)},
    )


def volume_job(source: Path, *, axis: int, max_pixels: int, watch: Watch) -> Job:
    """A TIFF of several pages, or a folder with one.

    Args:
      source: the file.
      axis: which axis of (z, y, x) counts the sections; another one than 0 holds the
        whole volume in memory.
      max_pixels: height * width above which a page is refused undecoded.
      watch: shows how far it is.

    Raises:
      ValueError: several files or none; when it is written, a page that cannot be
        read.
      OSError: the file is not there.
    """
    files = images.list_sections(source)
    if len(files) > 1:
        raise ValueError(
            f"{source}: {len(files)} images; a volume is one file. A folder with one "
            "image a section is prepared with `prepare sections`."
        )
    read = partial(_across, files, axis, max_pixels)
    fill = _stack_filler(source, read, 0, watch)
    beside = _others(source, files) if source.is_dir() else []
    options = {"axis": axis, "max_pixels": max_pixels}
    return Job(
        "volume",
        source,
        options,
        files,
        [],
        lambda work: fill(work) | {"passed_over": beside},
    )


def cremi_job(source: Path, *, max_pixels: int, watch: Watch) -> Job:
    """An HDF5 file with `volumes/raw`, as the CREMI challenge has it.

    Raises:
      ValueError: another suffix; when it is written, as `cremi.read_sections`.
      ImportError: h5py is not installed.
      OSError: the file is not there.
    """
    if not cremi.is_volume(source):
        raise ValueError(
            f"{source}: CREMI's layout is one HDF5 file ({', '.join(cremi.SUFFIXES)}); "
            "a folder of images is prepared with `prepare sections`."
        )
    read = partial(cremi.read_sections, source, max_pixels)
    fill = _stack_filler(source, read, 0, watch)
    options = {"max_pixels": max_pixels}
    return Job("cremi", source, options, [source], [], fill)


def nifti_job(
    source: Path,
    *,
    axis: int,
    percentile: float,
    dicom: bool,
    max_pixels: int,
    watch: Watch,
) -> Job:
    """A folder of NIfTI volumes and lesion masks, or of DICOM series.

    A subject is rejected as a whole, since all of its volumes share one scale.

    Args:
      source: as of `builders.slices.write_slices`.
      axis: likewise; so are the others.
      percentile: likewise.
      dicom: likewise.
      max_pixels: likewise.
      watch: shows how far it is.

    Raises:
      ValueError: no folder, no volume, a percentile outside (0, 100], two volumes of
        one name, a mask without volume; when it is written, no subject that can be
        read.
      ImportError: nibabel or pydicom is not installed.
      OSError: the folder is not there.
    """
    if not source.is_dir():
        raise ValueError(f"{source} is a file; give the folder it lies in.")
    if not 0 < percentile <= 100:
        raise ValueError(f"--percentile is {percentile}; it is above 0, at most 100.")
    scans = slice_builder.list_series(source) if dicom else volumes.list_scans(source)
    files = [
        file
        for scan in scans
        for path in (scan.path, scan.lesion)
        if path is not None
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
    own: dict[str, list[volumes.Scan]] = {}
    for scan in scans:
        own.setdefault(scan.subject, []).append(scan)

    def fill(work: Path) -> dict[str, Any]:
        tally, rejected = Tally(), {}
        subjects: dict[str, dict[str, Any]] = {}

        def good() -> Iterator[slice_builder.Slice]:
            for subject, its in watch(list(own.items()), len(own), "subjects"):
                empty: list[str] = []
                try:
                    slices = list(
                        slice_builder.read_slices(
                            its,
                            axis=axis,
                            percentile=percentile,
                            max_pixels=max_pixels,
                            left_out=empty.append,
                        )
                    )
                except (ValueError, OSError) as error:
                    rejected[subject] = str(error)
                    continue
                for one in slices:
                    tally.add(one.levels)
                known = [one.lesion for one in slices]
                subjects[subject] = {
                    "volumes": len(its),
                    "slices": len(slices),
                    "empty_slices": empty,
                    "size": "{} x {}".format(*slices[0].levels.shape),
                    "top": slices[0].top,
                    "with_lesion": known.count(1),
                    "unknown_lesion": known.count(slice_builder.UNKNOWN),
                }
                yield from slices

        try:
            slice_builder.write_read(good(), work, axis=axis, percentile=percentile)
        except ValueError as error:
            if not subjects and rejected:
                raise ValueError(
                    f"{source}: none of {len(own)} subjects can be read: "
                    f"{next(iter(rejected.values()))}"
                ) from error
            raise
        notes = [
            "Values are levels on each subject's own scale: level 65535 is its `top`, "
            f"the percentile {percentile:g} of its pixels other than 0."
        ]
        empty = sum(len(one["empty_slices"]) for one in subjects.values())
        if empty:
            notes.append(f"{empty} slices hold nothing but 0 and are left out.")
        return tally.facts() | {
            "dataset": _dataset(work, slice_builder.DATASET),
            "subjects": subjects,
            "rejected": rejected,
            "passed_over": [] if dicom else _others(source, files),
            "notes": notes,
        }

    options = {"axis": axis, "percentile": percentile, "dicom": dicom}
    scanned = [[scan.subject, scan.name, scan.lesion is not None] for scan in scans]
    return Job(
        "nifti", source, options | {"max_pixels": max_pixels}, files, scanned, fill
    )


def _stack_filler(
    source: Path, read: Callable[[], Sections], total: int, watch: Watch
) -> Callable[[Path], dict[str, Any]]:
    """Writes a stack; nothing is left out of it."""

    def fill(work: Path) -> dict[str, Any]:
        tally, notes = Tally(), list[str]()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = two_or_more(str(source), read())
            section_builder.write_sections(
                _looked_at(source, watch(found, total, "sections"), tally, notes), work
            )
        if _twelve_bits(tally, ""):
            raise ValueError(
                f"{source}: sections must be uint8, or uint16 of the full range; got "
                f"uint16 with maximum {tally.high}. Rescale explicitly, e.g. with "
                "percentile limits."
            )
        notes += [str(one.message) for one in said if one.category is UserWarning]
        return tally.facts() | {
            "dataset": _dataset(work, "serial_sections"),
            "rejected": {},
            "notes": notes,
        }

    return fill


def _looked_at(
    source: Path, sections: Any, tally: Tally, notes: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Passes sections on; tells of those that training will stumble over."""
    names, before = set(), None
    for name, pixels in sections:
        if name in names:
            raise ValueError(f"{source}: two sections have the name {name}.")
        names.add(name)
        tally.add(pixels)
        if pixels.min() == pixels.max():
            notes.append(
                f"Section {name} shows one grey level; mark it in config.data.damage, "
                "or set config.data.flag_lost."
            )
        elif before is not None and np.array_equal(pixels, before[1]):
            notes.append(
                f"Sections {before[0]} and {name} are equal in every pixel; take one "
                "out, or mark it in config.data.damage: a copy is no neighbour."
            )
        before = name, pixels
        yield name, pixels


def _across(files: tuple[Path, ...], axis: int, max_pixels: int) -> Sections:
    """Sections of a volume across an axis of (z, y, x)."""
    pages = images.read_sections(files, max_pixels)
    if axis == 0:
        yield from pages
        return
    volume = np.stack([pixels for _, pixels in section_builder.expect_alike(pages)])
    for at, pixels in enumerate(np.moveaxis(volume, axis, 0)):
        height, width = pixels.shape[:2]
        images.expect_pixels(str(files[0]), height, width, max_pixels)
        yield f"{files[0].stem}_{'zyx'[axis]}{at:04d}", np.ascontiguousarray(pixels)


def _twelve_bits(tally: Tally, what: str) -> list[str]:
    """A note where 16 bits hold few levels."""
    facts, high = tally.facts(), tally.high
    if list(facts["dtype"]) != ["uint16"] or high is None or high > TWELVE_BITS:
        return []
    return [
        f"{what} are uint16 with maximum {high}: almost black at 16 bits; rescale them "
        "explicitly."
    ]


def _dataset(work: Path, name: str) -> str:
    found = section_builder.find_prepared(work, name)
    assert found is not None
    return found.relative_to(work).as_posix()


def _others(folder: Path, files: Any) -> list[str]:
    """What else lies in a folder; ten of the names at most."""
    taken = {Path(file).name for file in files}
    entries = sorted(entry.name for entry in os.scandir(folder))
    return short(n for n in entries if n not in taken and not n.startswith("."))
