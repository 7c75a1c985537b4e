"""Training batches and test cases of MR slices.

Subjects are split, never slices: two slices of one head are in one part. Pixels are
levels on the subject's own scale, as `intensity` has them: 0 is the background, the last
one (65535, or 255 of 8 bits) the subject's percentile and all above. On the device they
are -1 and 1.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import image_set, intensity, phantom_mr, volumes
from jaxinpaint.data.builders import slices as builder
from jaxinpaint.data.builders.sections import find_prepared
from jaxinpaint.data.cases import RunData
from jaxinpaint.data.keeping import default_cache_dir, digest_files, keep

COLUMNS = ("subject_id", "path", "split")
_VERSION = 1  # of what the cache holds
_SPLIT = 1  # third word of the seed; training batches have two words


class Series(NamedTuple):
    """Slices of several subjects, all of one size.

    Attributes:
      levels: uint16 [N, S, S, 1], read-only.
      names: one a slice, unique.
      subjects: of each slice.
      tops: subject -> the grey value of the last level.
      parts: of each slice "train" or "test", where the source says it, else "".
      lesions: of each slice 1 or 0, and -1 where there is no lesion mask.
      digest: SHA-256, in hex.
    """

    levels: np.ndarray
    names: Sequence[str]
    subjects: Sequence[str]
    tops: Mapping[str, float]
    parts: Sequence[str]
    lesions: Sequence[int]
    digest: str


def build(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = MappingProxyType({}),
) -> RunData:
    """Opens the slices that a config names and splits them by subject.

    Reads what `image_set.run_data` reads, and of `config.data` source, cache_dir,
    max_pixels, axis, percentile, bits (8 or 16: of the slices that are trained on and
    scored), lesion_free (whether slices whose lesion mask marks a pixel are left out),
    validation_fraction, test_fraction, test_subjects and phantom.

    The source is "phantom"; or a manifest, a CSV file `subject_id,path,split` of .npy
    slices with split "train" or "test"; or a folder of NIfTI volumes
    (`volumes.list_scans`); or a folder that `builders.slices.write_slices` prepared.
    Slices are cropped or zero-padded about their centre to the size of the training
    images; nothing is resampled. Test subjects are those of the manifest; or else
    test_subjects; or else a share of the subjects, at random. Validation takes a share
    of the others.

    Args:
      config: every key must be there.
      batch_spec: shapes of the global batch, by name.
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: nothing can be derived from single slices; passed over.

    Returns:
      The data; its summary holds the subjects of each part and their scales too.

    Raises:
      ValueError: a config value, a manifest or a volume that does not fit, a subject in
        two parts, no subject left for training, or as `image_set.run_data`.
      ImportError: the source is NIfTI and nibabel is not installed.
      OSError: the source, or a file of the manifest, is not there.

    Source: ipA-MedGAN specification 5.1.
    """
    del derived
    data, size = config.data, batch_spec["image"].shape[1]
    if data.bits not in (8, 16):
        raise ValueError(f"config.data.bits is {data.bits}; it is 8 or 16.")
    series = open_series(data, size)
    chosen: Sequence[int] = range(len(series.names))
    if data.lesion_free:
        chosen = _without_lesions(series, data.source)
    parts = _split(
        data, series, {series.subjects[i]: series.parts[i] for i in chosen}, config.seed
    )
    training, validation, test = (
        tuple(i for i in chosen if series.subjects[i] in part) for part in parts
    )
    images = image_set.ImageSet(
        names=series.names,
        read=lambda i: intensity.of_bits(series.levels[i], data.bits),
        training=training,
        validation=validation,
        test=test,
        digest=series.digest,
        facts={
            "shape": list(series.levels.shape),
            "subjects": dict(
                zip(("training", "validation", "test"), map(sorted, parts), strict=True)
            ),
            "scales": dict(series.tops),
            "percentile": float(data.percentile),
            "left_out_for_lesions": len(series.names) - len(chosen),
        },
    )
    return image_set.run_data(config, batch_spec, images, process_index, process_count)


def open_series(data: ConfigDict, size: int) -> Series:
    """Opens the slices of a source; all but the phantom's are kept in a cache.

    They lie under `cache_dir/slices/<digest>`, which appears whole or not at all.

    Args:
      data: `config.data`, as of `build`.
      size: height and width of the slices.

    Returns:
      The slices, in the order of the source.

    Raises:
      ValueError: as `build`; or a damaged cache.
      ImportError: the source is NIfTI and nibabel is not installed.
      OSError: the source, or a file of a manifest, is not there.
    """
    if data.source == "phantom":
        return _phantom(data, size)
    source = Path(data.source)
    limit = data.max_pixels
    read: Callable[[], Iterable[tuple[builder.Slice, str]]]
    if source.suffix.lower() == ".csv":
        rows = _read_manifest(source)
        files = [source, *(path for _, path, _ in rows)]
        read = partial(_manifest_slices, rows, data.percentile, limit)
    elif prepared := find_prepared(source, builder.DATASET):
        files = sorted(path for path in prepared.iterdir() if path.is_file())
        read = partial(_prepared_slices, prepared, data, limit)
    else:
        scans = volumes.list_scans(source)
        files = [path for scan in scans for path in (scan.path, scan.lesion) if path]
        form = {"axis": data.axis, "percentile": data.percentile}
        read = lambda: (
            (one, "") for one in builder.read_slices(scans, max_pixels=limit, **form)
        )
    digest = digest_files(files)
    digest.update(f"{_VERSION} {size} {data.axis} {float(data.percentile)}".encode())
    home = Path(data.cache_dir or default_cache_dir()) / "slices" / digest.hexdigest()
    keep(home, partial(_fill, str(source), read, size))
    try:
        levels = np.load(home / "levels.npy", mmap_mode="r", allow_pickle=False)
        facts = json.loads((home / "slices.json").read_text())
        if len(levels) != len(facts["names"]):
            raise ValueError(f"{len(levels)} slices, {len(facts['names'])} names")
        # A plain array over the memory map slices faster.
        return Series(np.asarray(levels), digest=digest.hexdigest(), **facts)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{home} is damaged ({error}); delete that folder.") from error


def _phantom(data: ConfigDict, size: int) -> Series:
    volume = phantom_mr.heads(**data.phantom.to_dict())
    subjects = [f"head_{s:03d}" for s in range(len(volume))]
    levels, tops = [], {}
    for subject, head in zip(subjects, volume, strict=True):
        tops[subject] = intensity.subject_top(subject, [head], data.percentile)
        for plane in head:
            levels.append(
                intensity.fit(intensity.to_levels(plane, tops[subject]), size)
            )
    count = volume.shape[1]
    stack = np.stack(levels)[..., None]
    return Series(
        levels=stack,
        names=[f"{s}_slice_{k:03d}" for s in subjects for k in range(count)],
        subjects=[s for s in subjects for _ in range(count)],
        tops=tops,
        parts=[""] * len(stack),
        lesions=[0] * len(stack),
        digest=hashlib.sha256(stack.tobytes()).hexdigest(),
    )


def _read_manifest(path: Path) -> list[tuple[str, Path, str]]:
    """Reads (subject, file, split) of each slice; files are beside the manifest."""
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path}: a manifest begins with {','.join(COLUMNS)}, this with "
                f"{','.join(table.fieldnames or ())}."
            )
        rows = [(r["subject_id"], path.parent / r["path"], r["split"]) for r in table]
    if not rows:
        raise ValueError(f"{path}: names no slice.")
    known: dict[str, str] = {}
    for subject, _, split in rows:
        if split not in ("train", "test"):
            raise ValueError(f"{path}: split is '{split}'; it is 'train' or 'test'.")
        if known.setdefault(subject, split) != split:
            raise ValueError(f"{path}: subject {subject} is in both train and test.")
    if len({one for _, one, _ in rows}) < len(rows):
        raise ValueError(f"{path}: names a slice twice.")
    for _, one, _ in rows:
        if not one.is_file():
            raise FileNotFoundError(f"{one}: {path} names it, but it is not there.")
    return rows


def _manifest_slices(
    rows: Sequence[tuple[str, Path, str]], percentile: float, max_pixels: int
) -> Iterable[tuple[builder.Slice, str]]:
    """Yields slices and their split in the order of the manifest."""
    own: dict[str, list[Path]] = {}
    for subject, path, _ in rows:
        own.setdefault(subject, []).append(path)
    tops = {
        subject: intensity.subject_top(
            f"subject {subject}", (_read_npy(p, max_pixels) for p in paths), percentile
        )
        for subject, paths in own.items()
    }
    shared = Path(*_common([path.parts for _, path, _ in rows]))
    for subject, path, split in rows:
        levels = intensity.to_levels(_read_npy(path, max_pixels), tops[subject])
        name = str(path.relative_to(shared).with_suffix("")).replace("\\", "/")
        one = builder.Slice(
            subject, name, levels[..., None], tops[subject], builder.UNKNOWN
        )
        yield one, split


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all paths begin with."""
    first, last = min(paths), max(paths)
    count = 0
    while count < min(len(first), len(last)) - 1 and first[count] == last[count]:
        count += 1
    return first[:count]


def _read_npy(path: Path, max_pixels: int) -> np.ndarray:
    """Reads one slice [H, W] of real numbers."""
    try:
        plane = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npy: {error}") from error
    if not isinstance(plane, np.ndarray) or plane.dtype.kind not in "uif":
        raise ValueError(f"{path}: a slice is one array of real numbers.")
    if plane.ndim == 3 and plane.shape[-1] == 1:
        plane = plane[..., 0]
    if plane.ndim != 2 or not plane.size:
        raise ValueError(f"{path}: slice must be 2-D, got {plane.shape}.")
    if plane.size > max_pixels:
        raise ValueError(
            f"{path}: {list(plane.shape)} is more than {max_pixels} pixels; raise "
            "config.data.max_pixels if the file is to be trusted."
        )
    return np.asarray(plane)


def _prepared_slices(
    path: Path, data: ConfigDict, max_pixels: int
) -> Iterable[tuple[builder.Slice, str]]:
    """Yields the slices of a prepared folder, if made as the config asks."""
    asked = {"percentile": float(data.percentile), "axis": int(data.axis)}
    for one, made in builder.read_prepared(path, max_pixels):
        if made != asked:
            raise ValueError(
                f"{path} was prepared with {made}, but config.data asks for {asked}; "
                "prepare it again, or set both keys to what it has."
            )
        yield one, ""


def _fill(
    label: str,
    read: Callable[[], Iterable[tuple[builder.Slice, str]]],
    size: int,
    work: Path,
) -> None:
    """Writes the levels and the facts of `Series` into a folder."""
    facts: dict[str, Any] = {
        "names": [],
        "subjects": [],
        "tops": {},
        "parts": [],
        "lesions": [],
    }
    raw = work / "levels.raw"
    with open(raw, "wb") as file:
        for one, part in read():
            file.write(intensity.fit(one.levels[..., 0], size).tobytes())
            facts["names"].append(one.name)
            facts["subjects"].append(one.subject)
            facts["tops"][one.subject] = one.top
            facts["parts"].append(part)
            facts["lesions"].append(one.lesion)
    names = facts["names"]
    if not names:
        raise ValueError(f"{label}: holds no slice with anything but 0.")
    if len(set(names)) < len(names):
        raise ValueError(f"{label}: two slices have one name.")
    levels = np.memmap(raw, np.uint16, "r", shape=(len(names), size, size, 1))
    np.save(work / "levels.npy", levels)
    raw.unlink()
    (work / "slices.json").write_text(json.dumps(facts))


def _without_lesions(series: Series, source: str) -> list[int]:
    """The slices whose lesion mask is empty."""
    for name, lesion in zip(series.names, series.lesions, strict=True):
        if lesion == builder.UNKNOWN:
            raise ValueError(
                f"config.data.lesion_free asks for lesion masks, but {name} of "
                f"{source} has none; set it to False, or add the masks."
            )
    return [i for i, lesion in enumerate(series.lesions) if not lesion]


def _split(
    data: ConfigDict, series: Series, parts: Mapping[str, str], seed: int
) -> tuple[Collection[str], Collection[str], Collection[str]]:
    """Subjects for training, validation and test."""
    fractions = (data.validation_fraction, data.test_fraction)
    if not all(0.0 <= fraction < 1.0 for fraction in fractions):
        raise ValueError(f"split: fractions must be in [0, 1), got {fractions}.")
    unknown = sorted(set(data.test_subjects) - set(series.subjects))
    if unknown:
        raise ValueError(
            f"config.data.test_subjects names {unknown}; the subjects of {data.source} "
            f"are {sorted(set(series.subjects))}."
        )
    rng = np.random.default_rng([int(seed), 0, _SPLIT])
    # Sorted first: the split does not depend on the order of the files.
    everyone = rng.permutation(np.array(sorted(parts))).tolist()
    if any(parts.values()):
        if data.test_subjects:
            raise ValueError(
                f"config.data.test_subjects is set, but {data.source} says itself "
                "which subjects are for test."
            )
        test = {subject for subject in everyone if parts[subject] == "test"}
    elif data.test_subjects:
        test = set(data.test_subjects)
    else:
        test = set(everyone[: _share(data.test_fraction, len(everyone))])
    rest = [subject for subject in everyone if subject not in test]
    held = _share(data.validation_fraction, len(rest))
    if held >= len(rest):
        raise ValueError(
            f"split: {len(everyone)} subjects less {len(test)} for test and {held} for "
            "validation leave none for training."
        )
    return rest[held:], rest[:held], test


def _share(fraction: float, count: int) -> int:
    """A fraction of a count, rounded, at least one unless 0."""
    return max(round(fraction * count), 1 if fraction else 0)
