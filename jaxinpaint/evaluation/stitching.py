"""Puts what was found on overlapping tiles together to slides, and counts there.

What a slide is asked is asked once of every pixel, and glomeruli are whole again.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.contours import components


class Canvas:
    """Averages the tiles of one slide where they overlap.

    It holds 4 bytes a class and pixel, and 2 for counts.

    Args:
      height: rows of the slide.
      width: its columns.
      classes: how many.
    """

    def __init__(self, height: int, width: int, classes: int) -> None:
        self.total = np.zeros((height, width, classes), np.float32)
        self.count = np.zeros((height, width), np.uint16)

    def add(self, top: int, left: int, probabilities: np.ndarray) -> None:
        """Adds one tile; what of it lies beyond the slide is cut.

        Args:
          top: its first row on the slide.
          left: its first column.
          probabilities: [S, S, classes] float32.
        """
        place = np.s_[top : top + len(probabilities), left : left + len(probabilities)]
        rows, columns = self.count[place].shape
        self.total[place] += probabilities[:rows, :columns]
        self.count[place] += 1

    def done(self) -> tuple[np.ndarray, np.ndarray]:
        """The slide.

        Returns:
          Mean probabilities float32 [H, W, classes], 0 where no tile was, and covered,
          bool [H, W].
        """
        count = np.maximum(self.count, 1).astype(np.float32)
        return self.total / count[..., None], self.count > 0


class SlideResult(NamedTuple):
    """What was found on one slide.

    Attributes:
      dataset: the test set.
      slide: its id.
      table: [classes, 3] int64: true positives, false positives, false negatives, each
        covered pixel once.
      found: glomeruli that were found, by class.
      true: glomeruli of its label, by class.
      uncovered: pixels that no tile covers.
    """

    dataset: str
    slide: str
    table: np.ndarray
    found: Mapping[str, int]
    true: Mapping[str, int]
    uncovered: int

    def percent(self, of: Mapping[str, int]) -> float | None:
        """Per cent of glomeruli that are sclerosed; None where there is none at all."""
        both = of["normal"] + of["sclerosed"]
        return 100.0 * of["sclerosed"] / both if both else None


def score_slide(
    canvas: Canvas,
    label: np.ndarray,
    dataset: str,
    slide: str,
    classes: Sequence[str],
    threshold: float,
    least: int,
) -> tuple[SlideResult, np.ndarray]:
    """Counts pixels and glomeruli of a slide.

    Args:
      canvas: with all its tiles.
      label: [H, W, classes], truth, above 0 = of the class.
      dataset: the test set.
      slide: its id.
      classes: names, in the order of the channels.
      threshold: a probability above it is of the class.
      least: pixels of the smallest component that counts as a glomerulus.

    Returns:
      The counts, and what was found: bool [H, W, classes], overlaps kept.

    Source: glomeruli specification 6.2.
    """
    mean, covered = canvas.done()
    found = mean > threshold
    truth = label > 0
    table = [
        [
            int((truth[..., c] & found[..., c] & covered).sum()),
            int((~truth[..., c] & found[..., c] & covered).sum()),
            int((truth[..., c] & ~found[..., c] & covered).sum()),
        ]
        for c in range(len(classes))
    ]
    result = SlideResult(
        dataset,
        slide,
        np.array(table, np.int64),
        count_pieces(apart(found, mean), classes, least),
        count_pieces(truth, classes, least),
        int((~covered).sum()),
    )
    return result, found


def apart(found: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Gives a pixel that several classes claim to the most probable one.

    Args:
      found: bool [H, W, classes].
      probabilities: [H, W, classes]; of equals the last class has it, as the labels of
        a slide give a pixel of both to the sclerosed.
    """
    last = found.shape[-1] - 1
    best = last - probabilities[..., ::-1].argmax(axis=-1)
    alone = found.sum(axis=-1, keepdims=True) < 2
    return found & (alone | (best[..., None] == np.arange(last + 1)))


def count_pieces(
    maps: np.ndarray, classes: Sequence[str], least: int
) -> dict[str, int]:
    """Counts the 8-connected components of at least so many pixels, by class."""
    counts = {}
    for number, name in enumerate(classes):
        numbered, _ = components(maps[..., number])
        areas = np.bincount(numbered.reshape(-1))[1:]
        counts[name] = int((areas >= least).sum())
    return counts
