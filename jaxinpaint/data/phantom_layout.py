"""Where the tissue and the glomeruli of a phantom slide lie; nothing is drawn here.

Lengths are micrometres, and pixels at a scale of 1.
"""

import numpy as np

from jaxinpaint.data.phantoms import smooth

CLASSES = ("normal", "sclerosed")  # the channels of every label
BORDERS = (0.06, 0.95)  # of the tissue, parts of the height
RADIUS = {"normal": (55.0, 85.0), "sclerosed": (30.0, 60.0)}
_LAYOUTS, _TRIES = 20, 300  # of the glomeruli of a slide; of one in a layout


def tissue_depth(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> np.ndarray:
    """How far inside the tissue each pixel lies.

    Args:
      rng: of the waves of its borders.
      shape: rows and columns of the slide.
      scale: pixels of a micrometre.

    Returns:
      [H, W] in pixels along a column, negative outside.

    Source: specification of the glomeruli system, 8.5, item 1.
    """
    height, width = shape
    wave = 10 * scale * np.stack([smooth(rng, (width,), (64 * scale,)) for _ in "ab"])
    upper, lower = (part * height + w for part, w in zip(BORDERS, wave, strict=True))
    y = np.arange(height, dtype=float)[:, None]
    return np.minimum(y - upper, lower - y)


def place_glomeruli(
    rng: np.random.Generator,
    shape: tuple[int, int],
    scale: float,
    counts: dict[str, int],
) -> tuple[tuple[str, float, float, float], ...]:
    """Draws radii, then places that keep the glomeruli apart, by rejection.

    Args:
      rng: of both.
      shape: rows and columns of the slide.
      scale: pixels of a micrometre.
      counts: how many of each class.

    Returns:
      (class, centre y, centre x, radius) in pixels, the largest first.

    Raises:
      ValueError: there is no room for all; the message says how many were placed.

    Source: specification of the glomeruli system, 8.5, items 4 to 6.
    """
    wanted = [
        (kind, rng.uniform(*RADIUS[kind]) * scale)
        for kind in CLASSES
        for _ in range(counts[kind])
    ]
    wanted.sort(key=lambda one: -one[1])  # the largest find room first
    height, width = shape
    most: list[tuple[str, float, float, float]] = []
    for _ in range(_LAYOUTS):
        placed: list[tuple[str, float, float, float]] = []
        for kind, radius in wanted:
            room = 1.15 * radius  # outlines are uneven
            top, bottom = (part * height for part in BORDERS)
            low = np.array([top + 10 * scale + room, room])
            high = np.array([bottom - 10 * scale - room, width - 1 - room])
            if (low > high).any():
                break
            for _ in range(_TRIES):
                y, x = rng.uniform(low, high).tolist()
                if all(
                    np.hypot(y - b, x - c) > 1.15 * (radius + d) + 12 * scale
                    for _, b, c, d in placed
                ):
                    placed.append((kind, y, x, radius))
                    break
            else:
                break
        if len(placed) == len(wanted):
            return tuple(placed)
        most = max(most, placed, key=len)
    raise ValueError(
        f"phantom_slide: only {len(most)} of {len(wanted)} glomeruli ({counts}) fit "
        f"into {height} x {width} at scale {scale}; ask for fewer, or for a larger "
        "slide."
    )
