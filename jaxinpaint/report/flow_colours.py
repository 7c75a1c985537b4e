"""Flow as colours: the hue is the direction, the strength of the colour the length."""

from collections.abc import Sequence

import numpy as np

# Towards the right, downwards, to the left, upwards. People who do not see red or green
# tell right from left as blue from yellow, and down from up as dark from light.
RIM = ((0, 90, 190), (120, 20, 110), (245, 170, 0), (70, 190, 130))
LIMITS = (0.5, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200)  # pixels at the wheel's rim


def paint_flow(flow: np.ndarray, limit: float) -> np.ndarray:
    """Colours a flow: white where it is zero, full colour from `limit` on.

    Args:
      flow: [H, W, 2] (dx, dy) in pixels, finite; x to the right, y downwards.
      limit: length of full colour, in pixels.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: another shape, or a value that is not finite.
    """
    if flow.ndim != 3 or flow.shape[-1] != 2 or not np.isfinite(flow).all():
        raise ValueError(
            f"paint_flow: flow must be [H, W, 2] and finite, got {list(flow.shape)}."
        )
    dx, dy = np.moveaxis(np.asarray(flow, np.float64), -1, 0)
    turn = np.arctan2(dy, dx) / (2 * np.pi) % 1.0 * len(RIM)  # in quarters, clockwise
    first = np.floor(turn).astype(int) % len(RIM)
    rim, part = np.asarray(RIM, np.float64), (turn - np.floor(turn))[..., None]
    full = (1 - part) * rim[first] + part * rim[(first + 1) % len(RIM)]
    strength = np.minimum(np.hypot(dx, dy) / limit, 1.0)[..., None]
    return np.rint(255 * (1 - strength) + full * strength).astype(np.uint8)


def longest(flow: np.ndarray) -> float:
    """The length of the longest vector of [H, W, 2]."""
    return float(np.hypot(flow[..., 0], flow[..., 1]).max())


def flow_limit(flows: Sequence[np.ndarray]) -> float:
    """The length of full colour that all panels of a page share.

    The least of LIMITS that 99 % of the vectors of every flow stay below.
    """
    top = max(
        (float(np.percentile(np.hypot(f[..., 0], f[..., 1]), 99)) for f in flows),
        default=0.0,
    )
    return next((limit for limit in LIMITS if top <= limit), LIMITS[-1])


def wheel(side: int) -> np.ndarray:
    """The legend: each place has the colour of the flow from the centre to it.

    Args:
      side: of the picture, in pixels; the rim of the wheel touches its edges.

    Returns:
      uint8 [side, side, 3], white outside the wheel.
    """
    reach = np.linspace(-1, 1, side)
    flow = np.stack(np.meshgrid(reach, reach), axis=-1)
    inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1.0
    return np.where(inside[..., None], paint_flow(flow, 1.0), np.uint8(255))
