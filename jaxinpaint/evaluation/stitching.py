"""Puts what was found on overlapping tiles together to slides, and counts there.

What a slide is asked is asked once of every pixel, and glomeruli are whole again.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.contours import components

FIRST = 256  # sides of a canvas before anything is on it


class Canvas:
    """Averages tiles of one slide where they overlap; grows with them.

    It holds 4 bytes a class and pixel, and 2 + classes for counts and labels: about 12
    for two classes.

    Args:
      classes: how many.
    """

    def __init__(self, classes: int) -> None:
        shape = (FIRST, FIRST)
        self.total = np.zeros((*shape, classes), np.float32)
        self.label = np.zeros((*shape, classes), np.uint8)
        self.count = np.zeros(shape, np.uint16)
        self.size = [0, 0]

    def add(
        self,
        top: int,
        left: int,
        probabilities: np.ndarray,
        label: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Adds one tile.

        Args:
          top: its first row on the slide.
          left: its first column.
          probabilities: [S, S, classes] float32.
          label: uint8 [S, S, classes], truth.
          valid: uint8 [S, S, 1]; what is 0 is no part of the slide.
        """
        inside = valid[..., 0] > 0
        for axis, first in enumerate((top, left)):
            length = 1 + int(np.flatnonzero(inside.any(axis=1 - axis)).max(initial=-1))
            self.size[axis] = max(self.size[axis], first + length)
        self._grow()
        height, width = inside.shape
        place = (
            slice(top, min(top + height, self.count.shape[0])),
            slice(left, min(left + width, self.count.shape[1])),
        )
        part = tuple(slice(0, s.stop - s.start) for s in place)
        seen = inside[part]
        self.total[place] += np.where(seen[..., None], probabilities[part], 0)
        self.label[place] |= np.where(seen[..., None], label[part], 0).astype(np.uint8)
        self.count[place] += seen

    def _grow(self) -> None:
        """Doubles the sides that are too short."""
        sides = list(self.count.shape)
        for axis, needed in enumerate(self.size):
            while sides[axis] < needed:
                sides[axis] *= 2
        if tuple(sides) != self.count.shape:
            for name in ("total", "label", "count"):
                old = getattr(self, name)
                new = np.zeros((*sides, *old.shape[2:]), old.dtype)
                new[: old.shape[0], : old.shape[1]] = old
                setattr(self, name, new)

    def done(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The slide as far as there are tiles.

        Returns:
          Mean probabilities float32 [H, W, classes], 0 where no tile was; label uint8
          [H, W, classes]; and covered, bool [H, W].
        """
        height, width = self.size
        frame = np.s_[:height, :width]
        total, count = self.total[frame], self.count[frame]
        mean = total / np.maximum(count, 1)[..., None].astype(np.float32)
        return mean, self.label[frame], count > 0


class SlideResult(NamedTuple):
    """What was found on one slide.

    Attributes:
      dataset: the test set.
      slide: its id.
      table: [classes, 3] int64: true positives, false positives, false negatives, each
        covered pixel once.
      found: glomeruli that were found, by class.
      true: glomeruli of the labels, by class.
      uncovered: pixels that no tile covers, of the frame around all tiles.
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
    dataset: str,
    slide: str,
    classes: Sequence[str],
    threshold: float,
    least: int,
) -> tuple[SlideResult, np.ndarray]:
    """Counts pixels and glomeruli of a slide.

    Args:
      canvas: with all its tiles.
      dataset: the test set.
      slide: its id.
      classes: names, in the order of the channels.
      threshold: a probability above it is of the class.
      least: pixels of the smallest component that counts as a glomerulus.

    Returns:
      The counts, and what was found: bool [H, W, classes], overlaps kept.

    Source: glomeruli specification 6.2.
    """
    mean, label, covered = canvas.done()
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
