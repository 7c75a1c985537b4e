"""Whether two methods differ on the same images: the paired t-test."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxinpaint.core.checks import expect_shape

MARKS = (("*", 0.01), ("#", 0.05))  # each for a p below its bound, the least first
# A deviation below this part of the mean is rounding; scipy warns there.
ROUNDING = 1e-13


class Paired(NamedTuple):
    """The result of a paired test.

    Attributes:
      p: two-sided probability of so large a mean difference by chance; NaN where
        there are fewer than 2 pairs.
      pairs: number of images compared.
      left_out: number of images where a score is infinite or undefined.
    """

    p: float
    pairs: int
    left_out: int


def paired_t_test(first: np.ndarray, second: np.ndarray) -> Paired:
    """Two-sided paired t-test between two methods' scores of the same images.

        t = mean(d) / (sd(d) / sqrt(n)),  d = first - second,  n - 1 degrees of freedom

    An image where either score is infinite or NaN is left out of both and counted.
    Where all differences are equal, there is no deviation to measure them by: p is 1
    where they are 0 and otherwise 0, the limit.

    It asks whether the means differ, not which is better; it takes the images for
    independent, which neighbouring sections are not quite, and nothing is corrected
    for the number of tests.

    Args:
      first: [images] one method's score of each image.
      second: [images] the other's, in the same order.

    Raises:
      ValueError: the two do not have one score for each of the same images.

    Source: CCPGAN specification 5.3.
    """
    (images,) = expect_shape("paired_t_test", "first", first, "N")
    expect_shape("paired_t_test", "second", second, str(images))
    there = np.isfinite(first) & np.isfinite(second)
    one, other = (scores[there].astype(np.float64) for scores in (first, second))
    pairs = int(there.sum())
    return Paired(_probability(one, other), pairs, images - pairs)


def _probability(first: np.ndarray, second: np.ndarray) -> float:
    difference = first - second
    if difference.size < 2:
        return float("nan")
    mean = np.mean(difference)
    if np.max(np.abs(difference - mean)) <= ROUNDING * abs(mean):
        return 0.0 if mean else 1.0
    return float(stats.ttest_rel(first, second).pvalue)


def mark(p: float) -> str:
    """The sign of a probability: "*" below 0.01, "#" below 0.05, otherwise ""."""
    return next((sign for sign, bound in MARKS if p < bound), "")
