"""Procedural photographs: a floor under a sky or a wall, with shaded things before it.

The demos' and the tests' only pictures. What a hole takes away goes on outside it:
straight edges and poles that cross the picture, circles, spheres, tiles and stripes of
one period. A network can learn to carry these on; a fill that spreads the hole's rim
inwards cannot.

Lengths are parts of the shorter side, so a picture of another size shows the same
scene. Only additions, products, divisions and square roots decide a pixel (never sine,
exponential or a sum in an order of the library's choice), so that one seed gives the
same bytes on every machine.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NOISE = 2.0  # grey levels, standard deviation
THINGS = (4, 8)  # in a picture, both included
PERIOD = (0.06, 0.16)  # of stripes, tiles, bricks and dots


class _Place(NamedTuple):
    """Where the pixels of a picture, or of a part of it, lie.

    Attributes:
      x: [H, W] float64, 0 in the middle of the picture, to the right.
      y: [H, W], likewise downwards.
      pixel: side of a pixel in the same unit.
    """

    x: np.ndarray
    y: np.ndarray
    pixel: float


_Shape = tuple[np.ndarray, np.ndarray]  # depth below the outline, shading; [H, W] each


def photographs(*, count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Pictures of made-up scenes.

    Args:
      count: number of pictures, N; picture k depends on seed and k, not on N.
      height: rows.
      width: columns.
      seed: of everything.

    Returns:
      uint8 [N, H, W, 3].

    Raises:
      ValueError: a length is below 1.
    """
    shape = (count, height, width)
    if min(shape) < 1:
        raise ValueError(
            f"photographs: count, height and width are {shape}; each must be positive."
        )
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    side = min(height, width)
    place = _Place(
        (columns - (width - 1) / 2) / side, (rows - (height - 1) / 2) / side, 1 / side
    )
    pictures = np.empty((*shape, 3), np.uint8)
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        scene = _scene(rng, place)
        light = _direction(rng) * rng.uniform(0, 0.5)
        scene *= (1 + place.x * light[0] + place.y * light[1])[..., None]
        noise = np.random.default_rng([seed, k, 0])
        scene += NOISE * noise.standard_normal((height, width, 1))
        pictures[k] = np.rint(np.clip(scene, 0, 255))
    return pictures


def _scene(rng: np.random.Generator, place: _Place) -> np.ndarray:
    """Float64 [H, W, 3], 0 to 255 and a little beyond."""
    palette = _palette(rng)
    scene = _material(rng, place, palette)
    if rng.random() < 0.6:
        horizon, tilt = rng.uniform(-0.25, 0.3), rng.uniform(-0.08, 0.08)
        below = place.y - horizon - tilt * place.x
        scene = _over(scene, below, _floor(rng, place, below, palette), place.pixel)
    makers = (_disk, _disk, _ring, _box, _box, _bar, _bar, _triangle)
    for _ in range(int(rng.integers(*THINGS, endpoint=True))):
        make: Callable[..., _Shape] = makers[int(rng.integers(len(makers)))]
        depth, shade = make(rng, place)
        surface = _material(rng, place, palette) * shade[..., None]
        if rng.random() < 0.5:
            away = _direction(rng) * 0.03  # a shadow beside it
            shadow = _shift(depth, away, place.pixel)
            dark = 1 - 0.45 * np.clip(shadow / 0.03 + 0.5, 0, 1)
            scene = scene * dark[..., None]
        scene = _over(scene, depth, surface, place.pixel)
    return scene


def _over(
    below: np.ndarray, depth: np.ndarray, above: np.ndarray, pixel: float
) -> np.ndarray:
    """Lays a surface over a scene where its depth is positive, with a soft edge."""
    cover = np.clip(depth / pixel + 0.5, 0, 1)[..., None]
    return below + cover * (above - below)


def _shift(depth: np.ndarray, away: np.ndarray, pixel: float) -> np.ndarray:
    """A shape moved by whole pixels; what enters at the border repeats it."""
    rows, columns = (np.arange(n) for n in depth.shape)
    right, down = (int(np.rint(part / pixel)) for part in away)
    rows = np.clip(rows - down, 0, len(rows) - 1)
    columns = np.clip(columns - right, 0, len(columns) - 1)
    return depth[np.ix_(rows, columns)]


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Six colours [6, 3] that differ in brightness and lean to one side together."""
    grey = np.linspace(50, 225, 6)[rng.permutation(6)]
    own, common = rng.uniform(-55, 55, (6, 3)), rng.uniform(-25, 25, 3)
    return grey[:, None] + own + common


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector (x, y) of any direction."""
    while True:
        way = rng.uniform(-1, 1, 2)
        length = np.sqrt(way[0] * way[0] + way[1] * way[1])
        if 0.1 < length < 1:
            return way / length


def _turned(
    rng: np.random.Generator, place: _Place, upright: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction, which is often the picture's own."""
    way = _direction(rng)
    if rng.random() < upright:
        way = np.array([1.0, 0.0]) if rng.random() < 0.5 else np.array([0.0, 1.0])
    along = place.x * way[0] + place.y * way[1]
    across = place.y * way[0] - place.x * way[1]
    return along, across


def _material(
    rng: np.random.Generator, place: _Place, palette: np.ndarray
) -> np.ndarray:
    """A surface [H, W, 3]: a gradient, cloudy, or with a pattern of one period."""
    first, second = palette[rng.permutation(len(palette))[:2]]
    kind = rng.choice(["plain", "cloud", "stripes", "checks", "bricks", "dots"])
    u, v = _turned(rng, place, 0.4)
    if kind == "plain":
        return _mix(first, second, np.clip(0.5 + u * rng.uniform(0.2, 0.7), 0, 1))
    if kind == "cloud":
        rough = _cloud(rng, place, 0.25) + 0.4 * _cloud(rng, place, 0.08)
        return _mix(first, second, np.clip(0.5 + 0.4 * rough, 0, 1))
    period = rng.uniform(*PERIOD)
    u, v = u / period + rng.random(), v / period + rng.random()
    blur = place.pixel / period
    if kind == "stripes":
        part = _wave(u, blur, rng.uniform(0.3, 0.7))
    elif kind == "checks":
        one, two = _wave(u / 2, blur / 2, 0.5), _wave(v / 2, blur / 2, 0.5)
        part = one + two - 2 * one * two
    elif kind == "bricks":
        row = np.floor(v)
        mortar = 1 - _wave(v, blur, 0.86)
        part = np.maximum(mortar, 1 - _wave(u / 2 + row / 2, blur / 2, 0.92))
    else:
        du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
        radius = rng.uniform(0.2, 0.4)
        part = np.clip((radius - np.sqrt(du * du + dv * dv)) / blur + 0.5, 0, 1)
    return _mix(first, second, part * rng.uniform(0.5, 1))


def _floor(
    rng: np.random.Generator, place: _Place, below: np.ndarray, palette: np.ndarray
) -> np.ndarray:
    """Tiles or boards that run to a horizon; they fade where they are too fine."""
    first, second = palette[rng.permutation(len(palette))[:2]]
    depth = 1 / np.maximum(below, place.pixel)
    tile = rng.uniform(0.25, 0.6)
    u = (place.x - rng.uniform(-0.3, 0.3)) * depth / tile
    v = rng.uniform(0.5, 1) * depth / tile + rng.random()
    near = place.pixel * depth / tile
    part = _wave(u / 2, near, 0.5)
    if rng.random() < 0.6:
        two = _wave(v / 2, near * depth, 0.5)
        part = part + two - 2 * part * two
    fine = np.clip(2 - 3 * near * np.maximum(depth, 1), 0, 1)
    return _mix(first, second, 0.5 + (part - 0.5) * fine * rng.uniform(0.5, 1))


def _mix(first: np.ndarray, second: np.ndarray, part: np.ndarray) -> np.ndarray:
    return first + part[..., None] * (second - first)


def _wave(at: np.ndarray, blur: np.ndarray | float, duty: float) -> np.ndarray:
    """1 over `duty` of each unit and 0 over the rest, with edges `blur` wide."""
    away = abs(at - np.floor(at) - 0.5)  # 0 in the middle of what is 1
    return np.clip((duty / 2 - away) / np.maximum(blur, 1e-6) + 0.5, 0, 1)


def _cloud(rng: np.random.Generator, place: _Place, spacing: float) -> np.ndarray:
    """Smooth noise of about -1 to 1: random knots, smooth steps between them."""
    knots = rng.uniform(-1, 1, (16, 16))
    u, v = place.x / spacing + 64, place.y / spacing + 64
    left, top = np.floor(u), np.floor(v)
    u, v = u - left, v - top
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = left.astype(int) % 16, top.astype(int) % 16
    right, below = (i + 1) % 16, (j + 1) % 16
    upper = knots[j, i] + u * (knots[j, right] - knots[j, i])
    lower = knots[below, i] + u * (knots[below, right] - knots[below, i])
    return upper + v * (lower - upper)


def _middle(rng: np.random.Generator) -> tuple[float, float]:
    return rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)


def _disk(rng: np.random.Generator, place: _Place) -> _Shape:
    """A sphere lit from one side, or a flat disk."""
    (x, y), radius = _middle(rng), rng.uniform(0.08, 0.3)
    dx, dy = (place.x - x) / radius, (place.y - y) / radius
    square = dx * dx + dy * dy
    light = 0.8 * _direction(rng)
    bulge = np.sqrt(np.maximum(1 - square, 0))
    lit = np.maximum(dx * light[0] + dy * light[1] + 0.6 * bulge, 0)
    round_ = rng.random() < 0.7
    shade = 0.35 + 0.8 * lit if round_ else np.ones_like(lit)
    return radius * (1 - np.sqrt(square)), shade


def _ring(rng: np.random.Generator, place: _Place) -> _Shape:
    (x, y), radius = _middle(rng), rng.uniform(0.15, 0.4)
    dx, dy = place.x - x, place.y - y
    width = rng.uniform(0.015, 0.06)
    off = (np.sqrt(dx * dx + dy * dy) - radius) / width
    return width * (1 - abs(off)), 1.1 - 0.4 * off * np.clip(1 - off * off, 0, 1)


def _box(rng: np.random.Generator, place: _Place) -> _Shape:
    """A rectangle whose brightness falls off along one side."""
    x, y = _middle(rng)
    moved = _Place(place.x - x, place.y - y, place.pixel)
    u, v = _turned(rng, moved, 0.4)
    half = rng.uniform(0.06, 0.3, 2)
    depth = np.minimum(half[0] - abs(u), half[1] - abs(v))
    return depth, 1 + rng.uniform(-0.35, 0.35) * np.clip(u / half[0], -1, 1)


def _bar(rng: np.random.Generator, place: _Place) -> _Shape:
    """A pole across the whole picture, round or flat."""
    x, y = _middle(rng)
    moved = _Place(place.x - x, place.y - y, place.pixel)
    _, v = _turned(rng, moved, 0.3)
    half = rng.uniform(0.012, 0.08)
    off = v / half
    round_ = rng.random() < 0.6
    bulge = np.sqrt(np.maximum(1 - off * off, 0))
    shade = 0.4 + 0.6 * bulge - 0.25 * np.clip(off, -1, 1) if round_ else 1 + 0 * off
    return half * (1 - abs(off)), shade


def _triangle(rng: np.random.Generator, place: _Place) -> _Shape:
    """A triangle of any form around a place, or a half plane where it is large."""
    x, y = _middle(rng)
    reach = rng.uniform(0.08, 0.2)
    a, b = _direction(rng)
    half, rest = 0.5, np.sqrt(0.75)  # a third of a turn
    ways = [
        (a, b),
        (-half * a - rest * b, rest * a - half * b),
        (-half * a + rest * b, -rest * a - half * b),
    ]
    dx, dy = place.x - x, place.y - y
    sides = [reach * rng.uniform(0.6, 1.4) - dx * w[0] - dy * w[1] for w in ways]
    depth = np.minimum(np.minimum(sides[0], sides[1]), sides[2])
    return depth, 0.75 + 0.5 * np.clip(sides[0] / (3 * reach), 0, 1)
