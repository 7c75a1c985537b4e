"""Finds sections that were lost or broken before anybody could mark them."""

import numpy as np
from scipy.ndimage import gaussian_filter

ZEROS = 0.05  # share of pixels that are exactly 0
SHARE = 0.25  # of the stack's median correlation
SIGMA = 3.0  # pixels
REDUCE = 4
LEAST_SD = 1.0  # grey levels of 8 bits


def lost_sections(volume: np.ndarray) -> tuple[int, ...]:
    """Positions of sections that show no tissue, or none that fits beside them.

    A section is lost if more than 5 % of its pixels are exactly 0, if its standard
    deviation is below one grey level, or if its correlation with both neighbours is
    below a quarter of the median over all pairs of neighbours. Correlations are taken
    after a blur of sigma 3 pixels, 4 times reduced.

    Assumption: the first section is compared with the two after it and the last one
    with the two before it, since each has one neighbour. A section that is lost by
    its own pixels is nobody's neighbour here: the next one takes its place.

    Args:
      volume: uint8 or uint16 [Z, H, W, C].

    Returns:
      The positions, ascending.

    Source: FlowInpaint R41 and section 9.4.
    """
    level = 1.0 if volume.dtype == np.uint8 else 257.0
    pale, small = set(), {}
    for z, section in enumerate(volume):
        zeros = section.size - np.count_nonzero(section)
        reduced = _reduced(section)
        # Means vary less than what they are of, so few sections are looked at twice.
        flat = reduced.std() < LEAST_SD * level > section.std(dtype=np.float64)
        if zeros > ZEROS * section.size or flat:
            pale.add(z)
        else:
            small[z] = reduced
    return tuple(sorted(pale | _strangers(small)))


def _strangers(small: dict[int, np.ndarray]) -> set[int]:
    """Sections that resemble neither neighbour."""
    if len(small) < 3:
        return set()  # of two that differ, nobody knows which is broken
    order = sorted(small)
    pairs = list(zip(order, order[1:], strict=False))
    beside = {pair: _correlation(small, *pair) for pair in pairs}
    bound = SHARE * float(np.median(list(beside.values())))
    if bound <= 0:
        return set()  # no section resembles the next: there is nothing to miss
    beside[order[0], order[2]] = _correlation(small, order[0], order[2])
    beside[order[-3], order[-1]] = _correlation(small, order[-3], order[-1])
    inner = zip(order, order[1:], order[2:], strict=False)
    sides = {z: ((a, z), (z, b)) for a, z, b in inner}
    sides[order[0]] = ((order[0], order[1]), (order[0], order[2]))
    sides[order[-1]] = ((order[-2], order[-1]), (order[-3], order[-1]))
    return {z for z, two in sides.items() if max(beside[p] for p in two) < bound}


def _reduced(section: np.ndarray) -> np.ndarray:
    """Blurred and reduced; the mean of blocks comes first, since both are linear."""
    rows, columns = (n // REDUCE * REDUCE for n in section.shape[:2])
    if min(rows, columns) == 0:
        return gaussian_filter(section.mean(axis=-1, dtype=np.float64), SIGMA)
    strips = section[:rows, :columns].reshape(rows // REDUCE, REDUCE, columns, -1)
    strips = strips.sum(axis=1, dtype=np.uint32)
    blocks = strips.reshape(len(strips), columns // REDUCE, -1).mean(axis=-1)
    return gaussian_filter(blocks / REDUCE, SIGMA / REDUCE)


def _correlation(small: dict[int, np.ndarray], one: int, other: int) -> float:
    """Pearson's; 0 where one of them is flat."""
    a, b = (small[z] - small[z].mean(dtype=np.float64) for z in (one, other))
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else 0.0
