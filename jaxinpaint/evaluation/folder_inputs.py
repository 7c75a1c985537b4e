"""Finds and reads what `folders` scores, and checks that it fits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.core.checks import DTypeError, ShapeMismatchError
from jaxinpaint.data.images import ImageFileError, read_image, read_mask
from jaxinpaint.data.pairs import Matched, images_by_name, match
from jaxinpaint.evaluation.scoring import Filled
from jaxinpaint.metrics.baselines import ALONE, BASELINES
from jaxinpaint.metrics.ssim import SIDE

POLARITIES = ("hole", "valid")
RESERVED = ("truth", "mask", "masked", "completed")  # of a report's pictures
SHOWN = 5  # names in a message


class Job(NamedTuple):
    """What is to be scored, and how.

    Attributes:
      truth: folder of the true images, or one image.
      made: method -> folder of its images, or one image; the report is about the
        first.
      mask: folder of masks, or one mask for all images.
      polarity: what a mask's larger value marks, "hole" or "valid".
      truth_suffix: that the stems of the true images end in, after their name.
      made_suffix: the same of all `made`.
      mask_suffix: the same of the masks.
      edges: of the columns, in per cent of the image that are hole, rising.
      baselines: whether the classical fills of `ALONE` are scored too.
      batch_size: images that are scored at once; by their size if None.
      skip_missing: whether names that are not in every folder are left out.
      dataset: what the images are called in the results.
      lpips: source of the weights of LPIPS, as `learned` takes it; "" leaves it out.
      lpips_vgg: the same of LPIPS on VGG16.
      fid: the same of FID.
    """

    truth: Path
    made: Mapping[str, Path]
    mask: Path
    polarity: str
    truth_suffix: str
    made_suffix: str
    mask_suffix: str
    edges: Sequence[Fraction]
    baselines: bool
    batch_size: int | None
    skip_missing: bool
    dataset: str
    lpips: str
    lpips_vgg: str
    fid: str


class Files(NamedTuple):
    """The files of one image."""

    name: str
    truth: Path
    made: Mapping[str, Path]
    mask: Path


class Item(NamedTuple):
    """One image that can be scored.

    Attributes:
      files: its files.
      shape: (H, W, C).
      dtype: "uint8" or "uint16".
      hole: pixels of the hole.
      changed: method -> valid pixels that differ from the truth.
      filled: method -> hole pixels that differ from it.
    """

    files: Files
    shape: tuple[int, ...]
    dtype: str
    hole: int
    changed: Mapping[str, int]
    filled: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """Part of the image that is hole, 0 to 1."""
        return self.hole / (self.shape[0] * self.shape[1])


def named_folders(given: Sequence[str], name: str | None) -> dict[str, Path]:
    """Reads "NAME=DIR" or "DIR", whose method is called as the folder.

    Args:
      given: what was typed, at least one.
      name: of the method where there is one folder without a name.

    Raises:
      ValueError: two methods of one name, a name that results cannot hold, or a
        `name` that is not needed.
    """
    if name is not None and (len(given) > 1 or named(given[0])[0] is not None):
        raise ValueError(
            "--name is for a single --pred DIR; name several as --pred NAME=DIR."
        )
    found: dict[str, Path] = {}
    for text in given:
        own, path = named(text)
        method = own if own is not None else name
        if method is None:
            method = path.resolve().name if path.is_dir() else path.stem
        if method in found:
            raise ValueError(
                f"two methods are called {method!r}; name them as --pred NAME=DIR."
            )
        if not method or method in RESERVED or method.startswith("paper"):
            raise ValueError(
                f"a method cannot be called {method!r}; name it as --pred NAME=DIR."
            )
        found[method] = path
    return found


def named(text: str) -> tuple[str | None, Path]:
    """Splits "NAME=DIR" unless it is the path of something that is there."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, Path(text)
    return name, Path(path)


def find(job: Job) -> tuple[list[Files], Matched]:
    """Matches the files of a job by name.

    Raises:
      ValueError: as `score_job`.
      OSError: a folder is not there.
    """
    ends = {job.mask_suffix, job.made_suffix} - {job.truth_suffix}
    truth = images_by_name(job.truth, job.truth_suffix, ends)
    folders = {"truth": truth}
    for method, source in job.made.items():
        if source.is_file() and job.truth.is_file():
            folders[method] = dict.fromkeys(truth, source)
            continue
        if source.is_file():
            raise ValueError(f"{source} is one image, but {job.truth} is a folder.")
        folders[method] = images_by_name(
            source, job.made_suffix, {job.mask_suffix} - {job.made_suffix}
        )
    if not job.mask.is_file():
        folders["mask"] = images_by_name(job.mask, job.mask_suffix)
    matched = match(folders)
    if matched.missing and not job.skip_missing:
        raise ValueError(
            f"some names are not in every folder: {told_missing(matched.missing)}; add "
            f"these files, or pass --skip-missing to score {len(matched.names)} without "
            "them."
        )
    files = [
        Files(
            name,
            truth[name],
            {method: folders[method][name] for method in job.made},
            folders["mask"][name] if "mask" in folders else job.mask,
        )
        for name in matched.names
    ]
    return files, matched


def told_missing(missing: Mapping[str, Sequence[str]]) -> str:
    """The first of the names that are not in every folder, and where they lack."""
    told = [f"{name!r} (not in {', '.join(f)})" for name, f in missing.items()]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def inspect_all(
    files: Iterable[Files], polarity: str, advance: Callable[[], None]
) -> tuple[list[Item], dict[str, str]]:
    """Reads every file once: the images that can be scored, and why others cannot.

    Raises:
      ValueError: images of one name differ in size, channels or depth.
    """
    items, failed = [], {}
    for one in files:
        try:
            items.append(inspect(one, polarity))
        except (ImageFileError, OSError) as error:
            failed[one.name] = str(error)
        advance()
    return items, failed


def inspect(files: Files, polarity: str) -> Item:
    """Reads the files of one image and checks that they fit.

    Raises:
      ImageFileError: a file that cannot be read, or is too small to be scored.
      ValueError: they differ in size, channels or depth.
      OSError: a file may not be read.
    """
    truth = read_image(files.truth)
    height, width, _ = truth.shape
    if min(height, width) < SIDE:
        raise ImageFileError(
            f"{files.truth}: is {height} x {width}; SSIM needs sides of at least {SIDE}."
        )
    mask = read_hole(files.mask, polarity)
    if mask.shape[:2] != truth.shape[:2]:
        raise ShapeMismatchError(
            f"{files.mask} is {mask.shape[0]} x {mask.shape[1]}, but {files.truth} is "
            f"{height} x {width}; nothing is resized here."
        )
    hole, changed, filled = mask[..., 0] == 1, {}, {}
    for method, path in files.made.items():
        made = read_image(path)
        if made.shape != truth.shape:
            raise ShapeMismatchError(
                f"{path} is {_size(made)}, but {files.truth} is {_size(truth)}; "
                "nothing is resized or converted here."
            )
        if made.dtype != truth.dtype:
            raise DTypeError(
                f"{path} is {made.dtype}, but {files.truth} is {truth.dtype}; nothing "
                "is rescaled here."
            )
        differs = (made != truth).any(axis=-1)
        changed[method] = int((differs & ~hole).sum())
        filled[method] = int((differs & hole).sum())
    return Item(files, truth.shape, str(truth.dtype), int(hole.sum()), changed, filled)


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height} x {width} {'grey' if channels == 1 else 'RGB'}"


def read_hole(path: Path, polarity: str) -> np.ndarray:
    """Reads a mask of either polarity; uint8 [H, W, 1], 1 = hole.

    Raises:
      ImageFileError: as `read_mask`.
    """
    mask = read_mask(path)
    return mask if polarity == "hole" else 1 - mask


def marks(polarity: str) -> str:
    """What white means in a mask file, in words."""
    return f"white marks {'the hole' if polarity == 'hole' else 'what is valid'}"


def load(some: Sequence[Files], job: Job) -> Filled:
    """Reads images of one size, and fills them classically where that is asked for."""
    truth = [read_image(files.truth) for files in some]
    mask = [read_hole(files.mask, job.polarity) for files in some]
    made = {
        method: np.stack([read_image(files.made[method]) for files in some])
        for method in job.made
    }
    if job.baselines:
        hidden = [np.where(m > 0, 0, t) for t, m in zip(truth, mask, strict=True)]
        with ThreadPoolExecutor() as pool:  # OpenCV lets the others go on
            for name in ALONE:
                images = pool.map(
                    lambda image, hole, fill=BASELINES[name]: fill(
                        image, hole, None, None, None
                    ),
                    hidden,
                    mask,
                )
                made[name] = np.stack(list(images))
    return Filled(np.stack(truth), np.stack(mask), made)
