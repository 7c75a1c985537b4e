"""Procedural slides of kidney with normal and sclerosed glomeruli, and their masks.

The demos' and the tests' only slides. A strip of tissue lies on white glass: tubules
with a basement membrane, a lumen and nuclei; normal glomeruli, a tuft of loops in a
white space inside a capsule; sclerosed ones, small, dark and nearly even. Tissue is
drawn as the concentrations of two stains and coloured by optical density, so the same
tissue can be had in PAS and in H&E.

Lengths are micrometres, and pixels at a scale of 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxinpaint.data.phantom_layout import CLASSES, place_glomeruli, tissue_depth
from jaxinpaint.data.phantoms import smooth

PITCH = 46.0  # of the tubules
UNEVEN = {"normal": 0.06, "sclerosed": 0.12}  # of outlines
NOISE = 2.5  # grey levels, standard deviation of each channel
SHADING = 0.07  # thickness of the section, standard deviation
GLASS = 0.015  # concentration where nothing is

# Optical density of each stain in red, green and blue, and what its tissue is times.
_STAINS = {
    "PAS": (((0.644211, 0.716556, 0.266844), 1.0), ((0.175411, 0.972178, 0.154589), 1)),
    "HE": (((0.65, 0.70, 0.29), 1.5), ((0.07, 0.99, 0.11), 0.75)),
}


class PhantomSlide(NamedTuple):
    """A slide and what is on it.

    Attributes:
      image: uint8 [H, W, 3].
      label: uint8 [H, W, 2], 1 in normal and in sclerosed glomeruli.
      instances: int32 [H, W], 1 + the position in `glomeruli`, 0 elsewhere.
      glomeruli: (class, centre y, centre x, radius) in pixels.
      tissue: bool [H, W], where the strip of tissue is.
    """

    image: np.ndarray
    label: np.ndarray
    instances: np.ndarray
    glomeruli: tuple[tuple[str, float, float, float], ...]
    tissue: np.ndarray


class NamedPhantom(NamedTuple):
    """A phantom slide of a set.

    Attributes:
      name: "train_000", "test1_000".
      stain: "PAS" or "HE".
      split: "train", "test1", "test2" and so on.
      slide: the slide.
    """

    name: str
    stain: str
    split: str
    slide: PhantomSlide


class _Tissue(NamedTuple):
    """Concentrations that are drawn into, [H, W] each, and the pixels of 1 um."""

    haematoxylin: np.ndarray
    counter: np.ndarray  # PAS or eosin
    nuclei: np.ndarray  # coverage by them
    scale: float


def phantom_slides(
    *,
    slides: int,
    test_slides: int,
    height: int,
    width: int,
    scale: float,
    stain: str,
    test_stain: str | Sequence[str],
    normal: int,
    sclerosed: int,
    seed: int,
) -> list[NamedPhantom]:
    """Slides to train on, and sets of test slides.

    Args:
      slides: to train on.
      test_slides: in each test set.
      height: rows.
      width: columns.
      scale: as of `phantom_slide`.
      stain: of the training slides.
      test_stain: of the test slides; of several, each is a test set of its own, test1,
        test2 and so on.
      normal: glomeruli on each slide.
      sclerosed: likewise.
      seed: slide k of a set depends on it, on the set and on k alone.

    Returns:
      The slides, those to train on first.

    Raises:
      ValueError: a negative number of slides, or as `phantom_slide`.
    """
    if min(slides, test_slides) < 0:
        raise ValueError(
            f"phantom_slides: slides is {slides} and test_slides {test_slides}; "
            "neither may be negative."
        )
    tests = [test_stain] if isinstance(test_stain, str) else list(test_stain)
    sets = [("train", stain, slides)]
    sets += [(f"test{k}", one, test_slides) for k, one in enumerate(tests, 1)]
    return [
        NamedPhantom(
            f"{split}_{k:03d}",
            dye,
            split,
            phantom_slide(
                height,
                width,
                scale=scale,
                stain=dye,
                normal=normal,
                sclerosed=sclerosed,
                seed=(seed, place, k),
            ),
        )
        for place, (split, dye, count) in enumerate(sets)
        for k in range(count)
    ]


def phantom_slide(
    height: int,
    width: int,
    *,
    scale: float,
    stain: str,
    normal: int,
    sclerosed: int,
    seed: int | Sequence[int],
) -> PhantomSlide:
    """One slide.

    Args:
      height: rows.
      width: columns.
      scale: pixels of a micrometre; 1.0 is the working resolution of the paper.
      stain: "PAS" or "HE". Both show the same tissue.
      normal: glomeruli of this class. All have room inside image and tissue; what an
        uneven outline reaches beyond is cut.
      sclerosed: likewise.
      seed: of everything.

    Returns:
      The slide.

    Raises:
      ValueError: another stain, a size or scale that is not positive, or more
        glomeruli than there is room for; the message says how many were placed.

    Source: specification of the glomeruli system, 8.5.
    """
    if stain not in _STAINS:
        raise ValueError(
            f"phantom_slide: stain is '{stain}'; {list(_STAINS)} are known."
        )
    if min(height, width) < 1 or scale <= 0 or min(normal, sclerosed) < 0:
        raise ValueError(
            f"phantom_slide: {height} x {width} at scale {scale} with {normal} normal "
            f"and {sclerosed} sclerosed glomeruli; sizes and scale must be positive, "
            "counts must not be negative."
        )
    rng = np.random.default_rng(seed)
    shape = (height, width)
    depth = tissue_depth(rng, shape, scale)
    tissue = _Tissue(np.zeros(shape), np.zeros(shape), np.zeros(shape), scale)
    _draw_tubules(rng, tissue)
    counts = {"normal": normal, "sclerosed": sclerosed}
    glomeruli = place_glomeruli(rng, shape, scale, counts)
    instances = np.zeros(shape, np.int32)
    for number, (kind, y, x, radius) in enumerate(glomeruli, 1):
        draw = _draw_normal if kind == "normal" else _draw_sclerosed
        instances[draw(rng, tissue, (y, x, radius)) & (instances == 0)] = number
    inside = depth > 0
    instances[~inside] = 0
    kinds = np.array([-1] + [CLASSES.index(kind) for kind, *_ in glomeruli])[instances]
    edge = np.clip(depth / (0.8 * scale) + 0.5, 0, 1)
    thickness = 1 + SHADING * _fractal(rng, shape, (128, 64), scale)
    haematoxylin = (tissue.haematoxylin + 0.95 * tissue.nuclei) * edge * thickness
    counter = tissue.counter * edge * thickness + GLASS
    return PhantomSlide(
        image=_colour(rng, haematoxylin, counter, stain, scale),
        label=np.stack([kinds == 0, kinds == 1], axis=-1).astype(np.uint8),
        instances=instances,
        glomeruli=glomeruli,
        tissue=inside,
    )


def _fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: Sequence[float],
    scale: float,
) -> np.ndarray:
    """Noise of variance one, each finer octave at half the amplitude; [H, W]."""
    weights = [0.5**k for k in range(len(cells))]
    # Knots nearer than a pixel would cost time and be white noise all the same.
    octaves = [smooth(rng, shape, (max(cell * scale, 1.0),) * 2) for cell in cells]
    total = sum(w * octave for w, octave in zip(weights, octaves, strict=True))
    return total / np.sqrt(sum(w * w for w in weights))


def _draw_tubules(rng: np.random.Generator, tissue: _Tissue) -> None:
    """Fills the whole image with tubules."""
    (height, width), scale = tissue.counter.shape, tissue.scale
    pitch, row = PITCH * scale, 0.87 * PITCH * scale
    first, second = (np.full((height, width), np.inf) for _ in "ab")
    owner = np.zeros((height, width), np.int32)
    reach = 1.6 * pitch  # no pixel has its second nearest centre farther away
    rows, columns = int(height / row) + 5, int(width / pitch) + 5
    start = rng.uniform(-2, -1, 2) * (row, pitch)
    lumens, tints = [], []
    for j in range(rows):
        for i in range(columns):
            jitter = rng.uniform(-9, 9, 2) * scale
            centre = start + (j * row, (i + 0.5 * (j % 2)) * pitch) + jitter
            lumens.append(rng.uniform(3, 11) * scale)
            tints.append(rng.uniform(0.85, 1.2))
            window, distance = _around(centre, reach, (height, width))
            near, far, own = first[window], second[window], owner[window]
            closer = distance < near
            far[...] = np.minimum(far, np.maximum(distance, near))
            near[closer] = distance[closer]
            own[closer] = len(lumens) - 1
            for _ in range(int(rng.integers(4, 8))):
                angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.27, 0.38) * pitch
                place = centre + away * np.array([np.sin(angle), np.cos(angle)])
                _draw_nucleus(tissue, place, 2.6)
    gap = (second - first) / (2.2 * scale)
    tint, lumen = np.array(tints)[owner], np.array(lumens)[owner]
    wall = np.clip((first - lumen) / (0.8 * scale) + 0.5, 0, 1)
    grain = 1 + 0.12 * _fractal(rng, (height, width), (6, 3), scale)
    membrane = 0.55 * np.exp(-gap * gap)
    tissue.counter[...] = 0.28 * tint * wall * grain + membrane
    tissue.haematoxylin[...] = 0.09 * tint * wall
    tissue.nuclei[...] *= wall


def _around(
    centre: np.ndarray, reach: float, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window about a place, cut at the image's edge, and the distances in it."""
    (y, x), (height, width) = centre, shape  # thousands of windows: no numpy for these
    top, left = (
        min(max(math.floor(c - reach), 0), n) for c, n in ((y, height), (x, width))
    )
    bottom = min(max(math.ceil(y + reach) + 1, 0), height)
    right = min(max(math.ceil(x + reach) + 1, 0), width)
    rows, columns = np.arange(top, bottom)[:, None] - y, np.arange(left, right) - x
    window = slice(top, bottom), slice(left, right)
    return window, np.sqrt(rows * rows + columns * columns)


def _draw_nucleus(tissue: _Tissue, place: np.ndarray, radius: float) -> None:
    radius *= tissue.scale
    window, distance = _around(place, radius + 1, tissue.nuclei.shape)
    spot = np.clip(radius - distance + 0.5, 0, 1)
    np.maximum(tissue.nuclei[window], spot, out=tissue.nuclei[window])


def _outline(
    rng: np.random.Generator,
    tissue: _Tissue,
    circle: tuple[float, float, float],
    kind: str,
) -> tuple[tuple[slice, slice], np.ndarray, float]:
    """A window, and in it the distance from the centre, 1 on the uneven outline."""
    y, x, radius = circle
    window, distance = _around(np.array([y, x]), 1.6 * radius, tissue.counter.shape)
    rows, columns = (np.arange(s.start, s.stop) for s in window)
    angle = np.arctan2(rows[:, None] - y, columns[None] - x)
    form = np.ones_like(angle)
    for k in range(2, 7):
        size, phase = rng.normal(0, UNEVEN[kind] / k), rng.uniform(0, 2 * np.pi)
        form += size * np.cos(k * angle + phase)
    return window, distance / (radius * np.clip(form, 0.6, 1.5)), radius


def _draw_normal(
    rng: np.random.Generator, tissue: _Tissue, circle: tuple[float, float, float]
) -> np.ndarray:
    """Draws a normal glomerulus; its pixels, bool [H, W]."""
    window, part, radius = _outline(rng, tissue, circle, "normal")
    scale = tissue.scale
    loops = _fractal(rng, part.shape, (10, 5, 3), scale)
    # Walls of capillaries where the noise crosses 0; the pale blood between them.
    bands = np.exp(-((loops / 0.28) ** 2))
    blood = np.exp(-(((abs(loops) - 1.1) / 0.5) ** 2))
    counter = 0.42 + 0.55 * bands - 0.26 * blood
    ring = np.exp(-(((part - 1) * radius / (1.6 * scale)) ** 2))
    tuft = np.clip((0.87 - part) * radius / (0.8 * scale) + 0.5, 0, 1)
    inside = part <= 1
    over = np.clip((1 - part) * radius / (0.8 * scale) + 0.5, 0, 1)
    _blend(tissue.counter, window, over, counter * tuft)
    _blend(tissue.haematoxylin, window, over, 0.2 * (1 - blood) * tuft)
    tissue.nuclei[window] *= 1 - over
    tissue.counter[window] += 0.7 * ring
    _scatter(rng, tissue, window, part < 0.85, 0.012, 2.3)
    return _whole(tissue, window, inside)


def _draw_sclerosed(
    rng: np.random.Generator, tissue: _Tissue, circle: tuple[float, float, float]
) -> np.ndarray:
    """Draws a sclerosed glomerulus; its pixels, bool [H, W]."""
    window, part, radius = _outline(rng, tissue, circle, "sclerosed")
    # Half the variance one: the specification's noise lies in [-1, 1].
    noise = 0.55 * _fractal(rng, part.shape, (24, 12, 6), tissue.scale)
    counter = np.clip(0.92 + 0.16 * noise + 0.08 * np.sin(2 * noise), 0.45, 1.5)
    over = np.clip((1 - part) * radius / (0.8 * tissue.scale) + 0.5, 0, 1)
    _blend(tissue.counter, window, over, counter)
    _blend(tissue.haematoxylin, window, over, np.full_like(part, 0.06))
    tissue.nuclei[window] *= 1 - over
    _scatter(rng, tissue, window, part < 0.95, 0.0022, 2.3)
    return _whole(tissue, window, part <= 1)


def _blend(
    plane: np.ndarray,
    window: tuple[slice, slice],
    share: np.ndarray,
    other: np.ndarray,
) -> None:
    plane[window] += share * (other - plane[window])


def _scatter(
    rng: np.random.Generator,
    tissue: _Tissue,
    window: tuple[slice, slice],
    where: np.ndarray,
    density: float,
    radius: float,
) -> None:
    """Draws nuclei, `density` of them in a square micrometre."""
    places = np.argwhere(where)
    count = round(density * len(places) / tissue.scale**2)
    corner = np.array([window[0].start, window[1].start])
    for at in rng.integers(len(places), size=count if len(places) else 0).tolist():
        _draw_nucleus(tissue, corner + places[at] + rng.uniform(-0.5, 0.5, 2), radius)


def _whole(
    tissue: _Tissue, window: tuple[slice, slice], inside: np.ndarray
) -> np.ndarray:
    mask = np.zeros(tissue.counter.shape, bool)
    mask[window] = inside
    return mask


def _colour(
    rng: np.random.Generator,
    haematoxylin: np.ndarray,
    counter: np.ndarray,
    stain: str,
    scale: float,
) -> np.ndarray:
    """Concentrations to uint8 [H, W, 3] by optical density."""
    density = np.zeros((*counter.shape, 3))
    for plane, (vector, factor) in zip(
        (haematoxylin, counter), _STAINS[stain], strict=True
    ):
        blurred = ndimage.gaussian_filter(plane, 0.7 * scale, mode="nearest")
        density += factor * blurred[..., None] * np.array(vector)
    light = 255 * np.exp(-density) + NOISE * rng.standard_normal(density.shape)
    return np.rint(np.clip(light, 0, 255)).astype(np.uint8)
