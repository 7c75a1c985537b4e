"""Procedural serial sections of nervous tissue, as an electron microscope shows them.

The demos' and the tests' only data. A volume of cells, membranes, mitochondria and
vesicles is cut into sections; each section is then bent, stained and photographed on
its own. The stack stands for a registered one, as the papers' are: what is left of the
bending moves a neighbour by about 2 pixels, and its stain is uneven, so that a guide
has to be aligned and matched in brightness first.

Lengths are pixels of about 5 nm, whatever the size of the image; one section is one
unit of z. Only additions, products, divisions and square roots decide a pixel, never
sine, exponential or a sum in an order of the library's choice, so that one seed gives
the same bytes on every machine.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CELL = 31.0  # mean distance of neighbouring cells
MARGIN = 48  # cells are laid out this far beyond the image

# What registration left of the bending: standard deviations, in pixels, along x and y.
SLOW = 3.0  # smooth in the plane and along z
OWN = 0.8  # smooth in the plane, each section for itself
DRIFT = 1.5  # of whole sections, smooth along z

# The stain: grey = 135 + gain (structure - 135) + offset + shading, grey in 0-255.
GAIN = (0.75, 1.2)  # uniform, one a section
OFFSET = 24.0  # uniform in -24 to 24, one a section
SHADING = 9.0  # standard deviation, smooth in the plane, each section for itself


class Truth(NamedTuple):
    """What the sections of `tissue` show, before staining and noise.

    Attributes:
      cells: [Z, H, W] int32, which cell a pixel belongs to; the same number in every
        section.
      membrane: [Z, H, W] float64 in [0, 1], 1 in the middle of a cell's outline.
      displacement: [Z, H, W, 2] float64 (dx, dy) in pixels: section z at pixel p
        shows the tissue at p + displacement[z, p].
    """

    cells: np.ndarray
    membrane: np.ndarray
    displacement: np.ndarray


class _Cells(NamedTuple):
    """K cells in Z sections; a cell is what is nearest to its centre less its size."""

    x: np.ndarray  # [Z, K]
    y: np.ndarray
    size: np.ndarray
    grey: np.ndarray  # [K]


def tissue(*, sections: int, height: int, width: int, seed: int) -> np.ndarray:
    """Photographs of consecutive sections.

    Args:
      sections: number of sections, Z.
      height: rows.
      width: columns.
      seed: of everything; another size with the same seed is another tissue.

    Returns:
      uint8 [Z, H, W, 1].

    Raises:
      ValueError: a length is below 1.
    """
    truth, structure = _cut(sections, height, width, seed)
    rng = np.random.default_rng([seed, 9])
    gain = rng.uniform(*GAIN, sections)
    offset = rng.uniform(-OFFSET, OFFSET, sections)
    photographs = np.empty((sections, height, width, 1), np.uint8)
    shading = SHADING * smooth(rng, (sections, height, width), (1, 90, 90))
    for z in range(sections):
        noise = rng.standard_normal((height, width)) * 9
        grey = 135 + gain[z] * (structure[z] - 135) + offset[z] + shading[z] + noise
        photographs[z, ..., 0] = np.rint(np.clip(grey, 0, 255))
    return photographs


def tissue_truth(*, sections: int, height: int, width: int, seed: int) -> Truth:
    """The cells, membranes and bending behind `tissue` of the same arguments."""
    return _cut(sections, height, width, seed)[0]


def _cut(sections: int, height: int, width: int, seed: int) -> tuple[Truth, np.ndarray]:
    """Cuts the volume into bent sections; their grey values come with them."""
    shape = (sections, height, width)
    if min(shape) < 1:
        raise ValueError(
            f"tissue: sections, height and width are {shape}; each must be positive."
        )
    rng = np.random.default_rng([seed, 0])
    bend = np.stack([_bend(rng, shape), _bend(rng, shape)], axis=-1)
    walls = [_lattice(rng, shape, spacing=26, every=4) for _ in range(2)]
    stain = _lattice(rng, shape, spacing=18, every=3)
    coarse = _lattice(rng, shape, spacing=11, every=3)
    fine = _lattice(rng, shape, spacing=4, every=2)
    cells = _lay_out(rng, shape)
    mitochondria = _mitochondria(rng, cells)
    vesicles = _vesicles(rng, cells)
    labels = np.empty(shape, np.int32)
    membranes = np.empty(shape)
    structure = np.empty(shape)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    for z in range(sections):
        x, y = columns + bend[z, ..., 0], rows + bend[z, ..., 1]
        sway = [5 * _read(wall, z, x, y) for wall in walls]
        label, gap = _nearest(cells, z, x + sway[0], y + sway[1])
        dense = _read(stain, z, x, y)
        far = (gap / (4.2 + 1.2 * np.clip(dense, -1, 2))) ** 2
        membrane = 1 / (1 + far * far)
        rough, grain = _read(coarse, z, x, y), _read(fine, z, x, y)
        grey = cells.grey[label] + 8 * rough + 13 * grain
        section = _Section(grey, x, y, label, gap, rough, grain)
        locate = _locator(x, y)
        for organelle in vesicles[z]:
            _draw_vesicle(section, locate, *organelle)
        for organelle in mitochondria[z]:
            _draw_mitochondrion(section, locate, *organelle)
        structure[z] = grey + membrane * (58 - 12 * dense - grey)
        labels[z], membranes[z] = label, membrane
    return Truth(labels, membranes, bend), structure


def _bend(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """One axis of the sections' bending: slow along z, and a little of their own."""
    slow = SLOW * smooth(rng, shape, (3, 110, 110))
    own = OWN * smooth(rng, shape, (0, 60, 60))
    drift = DRIFT * smooth(rng, (shape[0], 1, 1), (3, 0, 0))
    return slow + own + drift


def _lay_out(rng: np.random.Generator, shape: tuple[int, int, int]) -> _Cells:
    """Cells on a jittered grid; they wander, grow, vanish and come up along z."""
    sections, height, width = shape
    rows = np.arange(-MARGIN, height + MARGIN, CELL)
    columns = np.arange(-MARGIN, width + MARGIN, CELL)
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    count = x.size
    x = x + rng.uniform(-0.55, 0.55, count) * CELL
    y = y + rng.uniform(-0.55, 0.55, count) * CELL
    size = rng.uniform(-7, 7, count) + 12 * (rng.random(count) < 0.12)
    moves = [smooth(rng, (sections, count), (6, 0)) for _ in range(3)]
    return _Cells(
        x=x + 3 * moves[0],
        y=y + 3 * moves[1],
        size=size + 3.5 * moves[2],
        grey=160 + rng.uniform(-20, 20, count),
    )


def _nearest(
    cells: _Cells, z: int, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cell of every pixel, and how much further the next cell is (pixels)."""
    first = np.full(x.shape, 1e9)
    second = np.full(x.shape, 1e9)
    label = np.zeros(x.shape, np.int32)
    locate = _locator(x, y)
    for k in range(cells.grey.size):
        size = cells.size[z, k]
        at = locate(cells.x[z, k], cells.y[z, k], 2 * CELL + max(size, 0))
        dx, dy = x[at] - cells.x[z, k], y[at] - cells.y[z, k]
        distance = np.sqrt(dx * dx + dy * dy) - size
        label[at][distance < first[at]] = k
        second[at] = np.minimum(second[at], np.maximum(first[at], distance))
        first[at] = np.minimum(first[at], distance)
    return label, second - first


_Locate = Callable[[float, float, float], tuple[slice, slice]]


def _locator(x: np.ndarray, y: np.ndarray) -> _Locate:
    """Finds the window that holds all pixels within a reach of a place (x, y)."""
    columns, rows = (x.min(axis=0), x.max(axis=0)), (y.min(axis=1), y.max(axis=1))

    def span(ends: tuple[np.ndarray, np.ndarray], at: float, reach: float) -> slice:
        met = np.flatnonzero((ends[0] < at + reach) & (ends[1] > at - reach))
        return slice(met[0], met[-1] + 1) if met.size else slice(0, 0)

    return lambda at_x, at_y, reach: (
        span(rows, at_y, reach),
        span(columns, at_x, reach),
    )


class _Section(NamedTuple):
    """One section, or a window of it, while it is drawn; each [H, W]."""

    grey: np.ndarray
    x: np.ndarray  # place in the tissue
    y: np.ndarray
    label: np.ndarray
    gap: np.ndarray
    rough: np.ndarray
    grain: np.ndarray


def _mitochondria(rng: np.random.Generator, cells: _Cells) -> list[list[tuple]]:
    """What each section cuts: (cell, x, y, radius, aspect, long axis) of ellipses."""
    sections, count = cells.x.shape
    cut: list[list[tuple]] = [[] for _ in range(sections)]
    for cell in rng.permutation(np.repeat(np.arange(count), 1 + sections // 12)):
        off_x, off_y = rng.uniform(-9, 9, 2)
        middle, reach = rng.uniform(-3, sections + 3), rng.uniform(4, 10)
        radius, aspect = rng.uniform(6, 10), rng.uniform(1, 1.9)
        way = rng.uniform(-1, 1, 2)
        way = way / np.sqrt(way[0] * way[0] + way[1] * way[1])
        for z in range(sections):
            part = (z - middle) / reach
            rest = 1 - part * part
            if rest > 0.1:
                x, y = cells.x[z, cell] + off_x, cells.y[z, cell] + off_y
                cut[z].append((cell, x, y, radius * np.sqrt(rest), aspect, way))
    return cut


def _draw_mitochondrion(
    section: _Section,
    locate: _Locate,
    cell: int,
    x: float,
    y: float,
    radius: float,
    aspect: float,
    way: np.ndarray,
) -> None:
    """A dark matrix with lighter folds, inside an outline, inside its own cell."""
    at = locate(x, y, radius * aspect + 4)
    near = _Section(*(plane[at] for plane in section))
    dx, dy = near.x - x, near.y - y
    long = dx * way[0] + dy * way[1]
    wide = dy * way[0] - dx * way[1]
    from_middle = np.sqrt((long / aspect) ** 2 + wide**2) + 1.2 * near.rough
    depth = np.minimum(radius - from_middle, near.gap / 2 - 5)  # below the outline
    inside = np.clip(depth + 0.5, 0, 1) * (near.label == cell)
    folds = abs((long + 1.5 * near.rough) / 5 % 1 - 0.5)  # a triangle wave, 0 to 0.5
    matrix = 92 + 60 * folds + 6 * near.grain
    outline = np.clip(2.5 - depth, 0, 1)
    target = matrix + outline * (60 - matrix)
    near.grey[...] += inside * (target - near.grey)


def _vesicles(rng: np.random.Generator, cells: _Cells) -> list[list[tuple]]:
    """What each section cuts: (cell, x, y, radius) of circles, in clusters."""
    sections, count = cells.x.shape
    cut: list[list[tuple]] = [[] for _ in range(sections)]
    for _ in range(round(count * sections / 30)):
        cell = int(rng.integers(count))
        cluster = rng.uniform(-9, 9, 2)
        middle = rng.uniform(0, sections)
        for _ in range(rng.integers(8, 24)):
            off = cluster + rng.uniform(-9, 9, 2)
            z = int(np.floor(middle + rng.uniform(-2, 2)))
            radius = rng.uniform(2.8, 3.8)
            for at in (z, z + 1):
                if 0 <= at < sections:
                    x, y = cells.x[at, cell] + off[0], cells.y[at, cell] + off[1]
                    cut[at].append((cell, x, y, radius))
    return cut


def _draw_vesicle(
    section: _Section, locate: _Locate, cell: int, x: float, y: float, radius: float
) -> None:
    """A dark ring one pixel and a half wide, lighter inside."""
    at = locate(x, y, radius + 2)
    near = _Section(*(plane[at] for plane in section))
    dx, dy = near.x - x, near.y - y
    depth = radius - np.sqrt(dx * dx + dy * dy)
    own = (near.label == cell) * np.clip(near.gap / 2 - 3, 0, 1)
    inside = np.clip(depth + 0.5, 0, 1) * own
    ring = np.clip(2 - depth, 0, 1)
    near.grey[...] += inside * (165 - 75 * ring - near.grey)


def smooth(
    rng: np.random.Generator, shape: tuple[int, ...], spacings: tuple[float, ...]
) -> np.ndarray:
    """Smooth noise of variance one: uniform knots under a cubic B-spline.

    Args:
      rng: source of the knots.
      shape: shape of the result.
      spacings: distance of the knots along each axis; 0 for no relation along it.
    """
    knots = [
        n if not s else int((n - 1) / s) + 4
        for n, s in zip(shape, spacings, strict=True)
    ]
    values = rng.uniform(-1, 1, knots) * np.sqrt(3.0)
    for axis, spacing in enumerate(spacings):
        if not spacing:
            continue
        at = np.arange(shape[axis]) / spacing
        left = np.floor(at).astype(int)
        t = (at - left).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        u = 1 - t
        # Their mean sum of squares is 151 / 315.
        weights = (
            u * u * u / 6,
            (4 - 6 * t * t + 3 * t * t * t) / 6,
            (4 - 6 * u * u + 3 * u * u * u) / 6,
            t * t * t / 6,
        )
        total = weights[0] * values.take(left, axis)
        for i in (1, 2, 3):
            total += weights[i] * values.take(left + i, axis)
        values = total / np.sqrt(151 / 315)
    return values


class _Lattice(NamedTuple):
    """Noise to be read anywhere in the tissue: [Z, rows, columns], repeating."""

    values: np.ndarray
    spacing: float


def _lattice(
    rng: np.random.Generator, shape: tuple[int, int, int], *, spacing: float, every: int
) -> _Lattice:
    sections, height, width = shape
    rows, columns = (int((n + 2 * MARGIN) / spacing) + 1 for n in (height, width))
    values = smooth(rng, (sections, rows, columns), (every, 0, 0))
    return _Lattice(values, spacing)


def _read(lattice: _Lattice, z: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise of section z at places of the tissue, smooth between four knots."""
    plane = lattice.values[z]
    rows, columns = plane.shape
    u, v = x / lattice.spacing, y / lattice.spacing
    left, top = np.floor(u), np.floor(v)
    u, v = u - left, v - top
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = left.astype(int) % columns, top.astype(int) % rows
    right, below = (i + 1) % columns, (j + 1) % rows
    upper = plane[j, i] + u * (plane[j, right] - plane[j, i])
    lower = plane[below, i] + u * (plane[below, right] - plane[below, i])
    return upper + v * (lower - upper)
