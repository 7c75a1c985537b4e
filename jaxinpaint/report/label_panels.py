"""Pictures of one segmented image: as it is, and with classes outlined."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxinpaint.report.panels import outline, png

SIDE = 384  # longest side of a picture, in pixels of the PNG
WIDTH = 2  # of an outline
DASH = 5  # pixels of a dash, and of the gap after it
# Light lines on a dark edge, told apart by colour and by pattern: whole, dashed.
COLOURS = ((0, 214, 255), (255, 221, 0), (255, 255, 255))
EDGE = (20, 20, 20)


class LabelPanel(NamedTuple):
    """One image and what is on it.

    Attributes:
      name: of the image.
      group: the test set.
      caption: why it is shown, and its scores.
      image: uint8 [H, W, 3].
      labels: what is outlined, by its name such as "truth": [H, W, classes] of 0 and 1.
    """

    name: str
    group: str
    caption: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]


def spread(values: Sequence[float], count: int) -> list[int]:
    """Picks images from the worst to the best at equal distances of rank.

    Args:
      values: one score an image; those that are NaN are not picked.
      count: how many.

    Returns:
      Indices, worst first, at most as many as there are.

    Raises:
      ValueError: the count is below 1.
    """
    if count < 1:
        raise ValueError(f"spread: count must be at least 1, got {count}.")
    known = [i for i in range(len(values)) if values[i] == values[i]]
    ranked = sorted(known, key=lambda i: values[i])
    places = np.linspace(0, max(len(ranked) - 1, 0), min(count, len(ranked)))
    return [ranked[round(place)] for place in places.tolist()]


def pictures(panel: LabelPanel) -> dict[str, bytes]:
    """Draws a panel.

    Returns:
      PNG by name: "image", then those of `labels`, each the image with its outlines.

    Raises:
      ValueError: a label is not of the image's size.
    """
    image = fitted(panel.image, Image.Resampling.BOX)
    found = {"image": png(image)}
    for name, label in panel.labels.items():
        if label.shape[:2] != panel.image.shape[:2]:
            raise ValueError(
                f"panel {panel.name!r}: {name} must be {list(panel.image.shape[:2])}, "
                f"got {list(label.shape[:2])}."
            )
        maps = [
            fitted((label[..., c] > 0).astype(np.uint8), Image.Resampling.NEAREST)
            for c in range(label.shape[-1])
        ]
        found[name] = png(outlined(image, np.stack(maps, axis=-1)))
    return found


def outlined(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Draws the outline of every class, class 0 whole and the others dashed.

    The line lies on the outermost pixels inside; a dark edge around it keeps it apart
    from light tissue. It is open where the image ends.

    Args:
      image: uint8 [H, W, 3].
      label: [H, W, classes] of 0 and 1.
    """
    drawn = image.copy()
    y, x = np.indices(image.shape[:2])
    gaps = (x + y) // DASH % 2 == 1
    for number in range(label.shape[-1]):
        inside = label[..., number] > 0
        line = np.zeros_like(inside)
        for _ in range(WIDTH):
            # What touches the outside by a side, and then what touches that.
            line |= outline(~inside | line) & inside
        drawn[line] = COLOURS[number % len(COLOURS)]
        if number:
            drawn[line & gaps] = EDGE
        drawn[outline(inside) & ~label.any(axis=-1)] = EDGE
    return drawn


def fitted(image: np.ndarray, method: Image.Resampling) -> np.ndarray:
    """Fits an image to SIDE: whole multiples when smaller, else as `method` says."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= SIDE:
        factor = SIDE // longest
        size, method = (width * factor, height * factor), Image.Resampling.NEAREST
    else:
        size = (round(width * SIDE / longest), round(height * SIDE / longest))
    return np.array(Image.fromarray(image).resize(size, method))
