"""Where new glomeruli may lie on a slide: found on a grid, or given by a person.

A window of S pixels is named by its origin, its first row and column; its middle, where
the centre of a contour lies, is (S - 1) / 2 further. Points are (row, column).
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.tissue import tissue_share

COLUMNS = ("id", "x", "y")
SEEDS = (
    2**32
)  # seeds are below it: each is one 32-bit word of what numpy is seeded with


class Rules(NamedTuple):
    """What a place must keep.

    Attributes:
      size: side of the windows in pixels.
      gap: pixels between the circle of a contour and every glomerulus, at least 1.
      min_tissue: least share of tissue of a window.
    """

    size: int
    gap: float
    min_tissue: float


class Fault(NamedTuple):
    """A rule that a place breaks, with what was measured and what is required."""

    rule: str
    measured: float
    required: float

    def __str__(self) -> str:
        return f"{self.rule} is {self.measured:.4g}, {self.required:.4g} is required"


class Placed(NamedTuple):
    """A contour's place: its number in what was asked for, and the window's origin."""

    number: int
    top: int
    left: int


class Site:
    """A slide, with what is on it and what has been placed."""

    def __init__(
        self,
        name: str,
        occupied: np.ndarray,
        tissue: np.ndarray,
        block: int,
        rules: Rules,
    ) -> None:
        """Takes a slide.

        Args:
          name: of the slide, for messages.
          occupied: bool [H, W], pixels of any glomerulus; copied.
          tissue: bool [h, w], its blocks, from `tissue_map`.
          block: side of these blocks in pixels.
          rules: to be kept.

        Raises:
          ValueError: the slide is smaller than a window, or a rule cannot be.
        """
        height, width = occupied.shape
        if min(height, width) < rules.size:
            raise ValueError(
                f"{name}: is {height} x {width} pixels at working resolution; windows "
                f"of {rules.size} need a larger slide."
            )
        if not rules.gap >= 1 or not 0 <= rules.min_tissue <= 1:
            raise ValueError(
                f"positions: gap is {rules.gap} and min_tissue {rules.min_tissue}; "
                "they must be at least 1 pixel and a share in [0, 1]."
            )
        self.name, self.rules = name, rules
        self.windows: list[tuple[int, int]] = []
        self._occupied, self._tissue, self._block = occupied.copy(), tissue, block

    def fault(self, top: int, left: int, radius: float) -> Fault | None:
        """The first rule that a contour of a radius breaks here, if any.

        Source: glomeruli specification 8.3.
        """
        size = self.rules.size
        for start, side in zip((top, left), self._occupied.shape, strict=True):
            if start < 0:
                return Fault("the window's distance from the slide's edge", start, 0)
            if start + size > side:
                over = side - start - size
                return Fault("the window's distance from the slide's edge", over, 0)
        share = tissue_share(
            self._tissue,
            np.array([top]),
            np.array([left]),
            size=size,
            block=self._block,
        )
        if share[0, 0] < self.rules.min_tissue:
            least = self.rules.min_tissue
            return Fault("the window's share of tissue", float(share[0, 0]), least)
        apart = min(
            (max(abs(top - t), abs(left - c)) for t, c in self.windows), default=size
        )
        if apart < size:
            return Fault("the distance to the next window", apart, size)
        reach = radius + self.rules.gap
        away = self._nearest(top, left, reach)
        if away < reach:
            return Fault("the distance to the next glomerulus", away, reach)
        return None

    def take(self, top: int, left: int, mask: np.ndarray) -> None:
        """Places a contour: its window and its pixels are taken.

        Args:
          top: first row of the window.
          left: first column of it.
          mask: uint8 [S, S].
        """
        size = self.rules.size
        self._occupied[top : top + size, left : left + size] |= mask > 0
        self.windows.append((top, left))

    def grid(self, step: int, rng: np.random.Generator) -> np.ndarray:
        """Origins [N, 2] of all windows on a grid that show enough tissue, shuffled."""
        size = self.rules.size
        tops, lefts = (
            np.arange(0, side - size + 1, step) for side in self._occupied.shape
        )
        share = tissue_share(self._tissue, tops, lefts, size=size, block=self._block)
        order = rng.permutation(share.size)
        order = order[share.reshape(-1)[order] >= self.rules.min_tissue]
        return np.column_stack((tops[order // len(lefts)], lefts[order % len(lefts)]))

    def _nearest(self, top: int, left: int, reach: float) -> float:
        """Distance of the window's middle to the next glomerulus, inf beyond `reach`."""
        middle = np.array([top, left]) + (self.rules.size - 1) / 2
        low = np.maximum(0, np.floor(middle - reach)).astype(int)
        high = np.ceil(middle + reach).astype(int) + 1
        pixels = np.argwhere(self._occupied[low[0] : high[0], low[1] : high[1]])
        if not len(pixels):
            return math.inf
        return float(np.sqrt(((pixels + low - middle) ** 2).sum(-1).min()))


def place_automatically(
    site: Site,
    contours: Sequence[np.ndarray],
    radii: Sequence[float],
    *,
    step: int,
    rng: np.random.Generator,
) -> list[Placed]:
    """Places contours one after the other at the first free place of a shuffled grid.

    A contour that fits nowhere is passed over.

    Args:
      site: the slide; it keeps what is placed.
      contours: uint8 [S, S] each.
      radii: of them about the window's middle, in pixels.
      step: of the grid in pixels.
      rng: shuffles the grid, once.

    Raises:
      ValueError: the step is not positive.

    Source: glomeruli specification 8.3.
    """
    if step < 1:
        raise ValueError(f"positions: grid_step is {step}; it must be 1 or more.")
    places = site.grid(step, rng)
    placed = []
    for number, (mask, radius) in enumerate(zip(contours, radii, strict=True)):
        for top, left in places.tolist():
            if site.fault(top, left, radius) is None:
                site.take(top, left, mask)
                placed.append(Placed(number, top, left))
                apart = np.abs(places - [top, left]).max(-1)
                places = places[apart >= site.rules.size]
                break
    return placed


def place_given(
    site: Site,
    centres: Sequence[tuple[float, float]],
    contours: Sequence[np.ndarray],
    radii: Sequence[float],
    *,
    on_bad: str,
) -> tuple[list[Placed], list[str]]:
    """Places contours where a person wants them.

    A window's middle lies at most half a pixel from its centre.

    Args:
      site: the slide; it keeps what is placed.
      centres: (row, column), one for each contour.
      contours: uint8 [S, S] each.
      radii: of them about the window's middle, in pixels.
      on_bad: "error", or "skip" to leave out a place that breaks a rule.

    Returns:
      What was placed, and a sentence about each place that was left out.

    Raises:
      ValueError: a place breaks a rule; names it, what was measured and required.

    Source: glomeruli specification 8.3.
    """
    if on_bad not in ("error", "skip"):
        raise ValueError(f"positions: on_bad is {on_bad!r}; it is 'error' or 'skip'.")
    placed, left_out = [], []
    all_given = zip(centres, contours, radii, strict=True)
    for number, ((y, x), mask, radius) in enumerate(all_given):
        top, left = origin(y, site.rules.size), origin(x, site.rules.size)
        fault = site.fault(top, left, radius)
        if fault is None:
            site.take(top, left, mask)
            placed.append(Placed(number, top, left))
            continue
        told = f"{site.name}: position {number}, x {x:g}, y {y:g}: {fault}"
        if on_bad == "error":
            raise ValueError(f"{told}; move it, or skip positions that break a rule.")
        left_out.append(told)
    return placed, left_out


def origin(centre: float, size: int) -> int:
    """First row or column of the window about a centre.

    Source: glomeruli specification 5.5, step 3.
    """
    return math.floor(centre - (size - 1) / 2 + 0.5)


def contour_number(
    seed: int, slide: int, placement: int, again: int, count: int
) -> int:
    """Which contour of a library a placement takes.

    Args:
      seed: of the run, below `SEEDS`.
      slide: index of the slide among those of the run.
      placement: index on the slide.
      again: how often the slide has been synthesised before.
      count: of the library.

    Source: glomeruli specification 8.3; a fourth word of 0 changes nothing, so that the
    first round is as specified.
    """
    return int(np.random.default_rng([seed, slide, placement, again]).integers(count))


def read_positions(path: Path) -> Mapping[str, list[tuple[float, float]]]:
    """Reads a person's centres: columns id, x, y, in working-resolution pixels.

    Returns:
      Slide -> its centres (row, column), in the file's order.

    Raises:
      ValueError: a column is missing, a coordinate is no finite number, or no row.
      OSError: the file cannot be read.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path}: has no column {', '.join(missing)}; the first line must "
                f"name {', '.join(COLUMNS)}, it is {reader.fieldnames}."
            )
        for row in reader:
            try:
                y, x = float(row["y"]), float(row["x"])
            except (TypeError, ValueError):
                y = x = math.nan
            if not (row["id"] and math.isfinite(y) and math.isfinite(x)):
                raise ValueError(
                    f"{path}: line {reader.line_num} is {row}; it needs an id and two "
                    "finite numbers."
                )
            found.setdefault(row["id"], []).append((y, x))
    if not found:
        raise ValueError(f"{path}: holds no position.")
    return found
