"""Fills the holes of test cases: the system into files, classical fills beside them.

Whatever fills gets a case with its hole blanked, so that no method can see the truth.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data.cases import Case
from jaxinpaint.data.images import read_image, write_image
from jaxinpaint.evaluation.scoring import Filled
from jaxinpaint.inference.restore import whole_name
from jaxinpaint.metrics.baselines import ALONE, BASELINES

Restore = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def outputs(config: ConfigDict) -> tuple[str, ...]:
    """What a report shows of a system's outputs beside its result.

    Args:
      config: `eval.also` and `eval.whole`.

    Returns:
      Names as `predictor` gives them, which are those of the methods: "reference",
      and "raw whole" for what is not composited.
    """
    return (*config.eval.also, *whole_outputs(config))


def whole_outputs(config: ConfigDict) -> tuple[str, ...]:
    """Those of `outputs` that are scored as predicted, valid pixels included."""
    return tuple(whole_name(name) for name in config.eval.whole)


def write_restored(
    cases: Sequence[Case],
    names: Iterable[str],
    restore: Restore,
    batch_size: int,
    channels: int,
    folder: Path,
    also: Sequence[str] = (),
) -> set[str]:
    """Restores cases and writes each result beside its mask (255 = hole).

    The truth under the hole never reaches the system.

    Args:
      cases: at most `batch_size` of them.
      names: of the arrays of a case that `restore` takes.
      restore: a batch to `completed` images, those of `also`, and whatever else.
      batch_size: rows of that batch; the last case is repeated to fill it.
      channels: of the files. A grey image that was repeated for a colour model is
        written grey, the mean of the three channels.
      folder: for the images, a folder for each label in it.
      also: further images of `restore`, as `outputs` names them, written beside.

    Returns:
      The names of all that `restore` gave.
    """
    made = restore(blanked_batch(cases, names, batch_size))
    for index, case in enumerate(cases):
        place = image_path(folder, case.label, case.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        for name in ("completed", *also):
            image = made[name][index]
            if channels < image.shape[-1]:
                image = np.rint(image.mean(axis=-1, keepdims=True)).astype(image.dtype)
            write_image(place if name == "completed" else beside(place, name), image)
        write_image(mask_path(place), case.mask * np.uint8(255))
    return set(made)


def blanked_batch(
    cases: Sequence[Case], names: Iterable[str], batch_size: int
) -> dict[str, np.ndarray]:
    """Cases as a batch of so many rows, without the truth under the hole.

    The last case is repeated to fill the batch.
    """
    hidden = [blanked(case) for case in cases]
    batch = {name: np.stack([c.array(name) for c in hidden]) for name in names}
    fill = [(0, batch_size - len(cases))] + [(0, 0)] * 3
    return {name: np.pad(array, fill, mode="edge") for name, array in batch.items()}


def read_filled(
    system: str,
    cases: Sequence[Case],
    channels: int,
    folder: Path,
    also: Sequence[str] = (),
) -> Filled:
    """Reads what the system made and puts the classical fills beside it.

    Args:
      system: the name it gets among the methods.
      cases: some, of one size.
      channels: of the files, in which all are compared.
      folder: that `write_restored` wrote to.
      also: as it was given to `write_restored`; methods of their own here.

    Returns:
      The system's result, what else it made, and the classical fills: those that need
      no other section where no case has one beside it.
    """
    hidden = [thinned(blanked(case), channels) for case in cases]
    places = [image_path(folder, case.label, case.name) for case in cases]
    made = {system: np.stack([read_image(place) for place in places])}
    for name in also:
        made[name] = np.stack([read_image(beside(place, name)) for place in places])
    fills = BASELINES if any(map(has_section_beside, cases)) else ALONE
    with ThreadPoolExecutor() as pool:  # OpenCV's fills take longest, and release it
        for method in fills:
            fill = BASELINES[method]
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


def has_section_beside(case: Case) -> bool:
    """Whether a case is a section with a neighbour that a fill can take from."""
    sections = (case.neighbor, case.previous, case.following)
    return any(section is not None for section in sections)


def blanked(case: Case) -> Case:
    """The case as a method may see it: 0 in the hole."""
    return case._replace(image=np.where(case.mask > 0, 0, case.image))


def thinned(case: Case, channels: int) -> Case:
    """The case with the first channels alone."""

    def some(image: np.ndarray | None) -> np.ndarray | None:
        return None if image is None else image[..., :channels]

    return case._replace(
        image=case.image[..., :channels],
        neighbor=some(case.neighbor),
        previous=some(case.previous),
        following=some(case.following),
    )


def image_path(folder: Path, label: str, name: str) -> Path:
    """Of a restored image; a label such as "30%" is the folder "30_percent"."""
    return folder / label.replace("%", "_percent") / f"{name}.png"


def mask_path(image: Path) -> Path:
    """Of the mask beside a restored image."""
    return beside(image, "mask")


def beside(image: Path, name: str) -> Path:
    """Of what belongs to a restored image: "case.png", "case_reference.png".

    What is not composited, such as "raw whole", is "case_raw_whole.png".
    """
    return image.with_name(f"{image.stem}_{name.replace(' ', '_')}.png")
