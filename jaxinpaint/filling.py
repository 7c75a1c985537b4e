"""Fills the holes of test cases: the system into files, classical fills beside them.

Stands on the roof. Whatever fills gets a case with its hole blanked, so that no method
can see the truth.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxinpaint.data.images import read_image, write_image
from jaxinpaint.data.sections import Case
from jaxinpaint.metrics.baselines import BASELINES
from jaxinpaint.scoring import Filled

Restore = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def write_restored(
    cases: Sequence[Case],
    names: Iterable[str],
    restore: Restore,
    batch_size: int,
    channels: int,
    folder: Path,
) -> None:
    """Restores cases and writes each result beside its mask (255 = hole).

    The truth under the hole never reaches the system.

    Args:
      cases: at most `batch_size` of them.
      names: of the arrays of a case that `restore` takes.
      restore: a batch to completed images.
      batch_size: rows of that batch; the last case is repeated to fill it.
      channels: of the stack. A grey section that was repeated for a colour model is
        written grey, the mean of the three channels.
      folder: for the images, a folder for each label in it.
    """
    hidden = [blanked(case) for case in cases]
    batch = {name: np.stack([c.array(name) for c in hidden]) for name in names}
    fill = [(0, batch_size - len(cases))] + [(0, 0)] * 3
    batch = {name: np.pad(array, fill, mode="edge") for name, array in batch.items()}
    for case, image in zip(cases, restore(batch), strict=False):
        if channels < image.shape[-1]:
            image = np.rint(image.mean(axis=-1, keepdims=True)).astype(image.dtype)
        place = image_path(folder, case.label, case.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_image(place, image)
        write_image(mask_path(place), case.mask * np.uint8(255))


def read_filled(
    system: str, cases: Sequence[Case], channels: int, folder: Path
) -> Filled:
    """Reads what the system made and puts the classical fills beside it.

    Args:
      system: the name it gets among the methods.
      cases: some, of one size.
      channels: of the stack, in which all are compared.
      folder: that `write_restored` wrote to.
    """
    hidden = [thinned(blanked(case), channels) for case in cases]
    restored = [read_image(image_path(folder, c.label, c.name)) for c in cases]
    made = {system: np.stack(restored)}
    with ThreadPoolExecutor() as pool:  # OpenCV's fills take longest, and release it
        for method, fill in BASELINES.items():
            images = pool.map(
                lambda c, fill=fill: fill(
                    c.image, c.mask, c.neighbor, c.previous, c.following
                ),
                hidden,
            )
            made[method] = np.stack(list(images))
    return Filled(
        np.stack([case.image[..., :channels] for case in cases]),
        np.stack([case.mask for case in cases]),
        made,
    )


def blanked(case: Case) -> Case:
    """The case as a method may see it: 0 in the hole."""
    return case._replace(image=np.where(case.mask > 0, 0, case.image))


def thinned(case: Case, channels: int) -> Case:
    """The case with the first channels alone."""

    def some(image: np.ndarray | None) -> np.ndarray | None:
        return None if image is None else image[..., :channels]

    return case._replace(
        image=case.image[..., :channels],
        neighbor=case.neighbor[..., :channels],
        previous=some(case.previous),
        following=some(case.following),
    )


def image_path(folder: Path, label: str, name: str) -> Path:
    """Of a restored image; a label such as "30%" is the folder "30_percent"."""
    return folder / label.replace("%", "_percent") / f"{name}.png"


def mask_path(image: Path) -> Path:
    """Of the mask beside a restored image."""
    return image.with_name(f"{image.stem}_mask.png")
