"""Finds the files that `restoring` reads and writes, before anything is read."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.pairs import images_by_name, shown
from jaxinpaint.data.pictures import written_suffix


class Job(NamedTuple):
    """What is to be restored, and how.

    Attributes:
      workdir: of the trained run.
      step: of the checkpoint; the newest good one if None.
      image: a picture, or a folder of them.
      mask: one mask for all, or a folder of masks; None restores blindly.
      sections: what else the system reads, "neighbor" or "previous" and "following" ->
        a picture, or a folder of them.
      output: folder of the results.
      polarity: what white marks in a mask, "hole" or "valid".
      mask_suffix: that the stems of the masks end in, after their picture's.
      threshold: level from which a soft mask counts as white; None refuses soft ones.
      large_holes: whether holes of more than 95 % are taken.
      tile: side of the tiles in pixels; 0 restores every picture whole, None chooses.
      overlap: of tiles, and context around holes, in pixels; None is a quarter.
      max_pixels: height * width above which a file is refused undecoded.
      batch_size: tiles that are restored at once.
      panel: whether a sheet is drawn of each picture.
      skip_existing: whether pictures are left out whose result is there.
      overwrite: whether results that are there are replaced.
      shard: (i, n) restores each n-th picture from the i-th on, 1 <= i <= n.
    """

    workdir: Path
    step: int | None
    image: Path
    mask: Path | None
    sections: Mapping[str, Path]
    output: Path
    polarity: str
    mask_suffix: str
    threshold: int | None
    large_holes: bool
    tile: int | None
    overlap: int | None
    max_pixels: int
    batch_size: int
    panel: bool
    skip_existing: bool
    overwrite: bool
    shard: tuple[int, int]


class Item(NamedTuple):
    """The files of one picture.

    Attributes:
      name: stem of its file.
      image: the picture.
      mask: its mask, if there is one.
      sections: what belongs to it, by name in the batch.
      result: the file to write; its invention mask and panel are named after it.
      problem: why it cannot be restored; "" if it may be.
    """

    name: str
    image: Path
    mask: Path | None
    sections: Mapping[str, Path]
    result: Path
    problem: str

    @property
    def invented(self) -> Path:
        """White where pixels are invented."""
        return self.result.with_name(f"{self.name}_invented.png")

    @property
    def panel(self) -> Path:
        """The sheet."""
        return self.result.parent / "panels" / f"{self.name}.png"


def find(job: Job) -> tuple[list[Item], list[str]]:
    """Finds the files of a job, in the order of their names.

    Returns:
      The pictures of this shard, and sentences about files without a picture.

    Raises:
      ValueError: no picture, two of one name, or results that would replace a file.
      OSError: a folder is not there.
    """
    images = images_by_name(job.image, "", {job.mask_suffix})
    single, remarks = job.image.is_file(), []
    found: dict[str, Mapping[str, Path]] = {}
    given = dict(job.sections) if job.mask is None else {"mask": job.mask}
    for what, source in {**given, **job.sections}.items():
        if source.is_file():
            if what != "mask" and not single:
                raise ValueError(
                    f"--{what} is one image, but --image is a folder; give a folder "
                    "of images of the same names."
                )
            found[what] = dict.fromkeys(images, source)
            continue
        found[what] = images_by_name(source, job.mask_suffix if what == "mask" else "")
        spare = sorted(set(found[what]) - set(images))
        if spare and not single:
            remarks.append(f"{source}: {shown(spare, 3)} belong to no image")
    items = []
    for name, image in images.items():
        own = {what: files[name] for what, files in found.items() if name in files}
        lacking = [
            str(given.get(w, job.sections.get(w))) for w in found if w not in own
        ]
        problem = f"{lacking[0]} holds no {name!r}." if lacking else ""
        suffix = ".png"
        try:
            suffix = written_suffix(image)
        except (ImageFileError, OSError) as error:
            problem = str(error)
        mask = own.pop("mask", None)
        result = job.output / f"{name}{suffix}"
        items.append(Item(name, image, mask, own, result, problem))
    _check_targets(items)
    index, count = job.shard
    items = items[index - 1 :: count]
    _check_results(job, items)
    return items, remarks


def _check_targets(items: Sequence[Item]) -> None:
    """Refuses results that would replace a file that is read, or one another."""
    given = {os.path.realpath(f) for one in items for f in _read_by(one)}
    taken: dict[Path, str] = {}
    for one in items:
        for target in (one.result, one.invented):
            if os.path.realpath(target) in given:
                raise ValueError(
                    f"{target} is read from; name another --output than its folder."
                )
            if target in taken:
                raise ValueError(
                    f"{target} would be written for {taken[target]!r} and {one.name!r};"
                    " rename one of them."
                )
            taken[target] = one.name


def _check_results(job: Job, items: Iterable[Item]) -> None:
    """Refuses to replace results unless that is asked for."""
    there = [one.result for one in items if one.result.exists()]
    if there and not (job.skip_existing or job.overwrite):
        more = f", and {len(there) - 1} more," if len(there) > 1 else ""
        raise ValueError(
            f"{there[0]}{more} is there already; add --skip-existing to keep what is "
            "there, or --overwrite to replace it."
        )


def _read_by(item: Item) -> Iterator[Path]:
    yield item.image
    yield from item.sections.values()
    if item.mask is not None:
        yield item.mask


def done(item: Item) -> bool:
    """Whether a result is there; the picture is written last."""
    return item.result.exists() and item.invented.exists()
