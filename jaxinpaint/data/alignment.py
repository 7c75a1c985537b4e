"""Whether the sections of a stack lie on top of each other."""

from typing import Protocol

import numpy as np

_LARGEST = 512  # px; of larger sections the middle is compared
_PULL = 4  # px
_SIGMA = 3.0  # px; blurs away the noise of one section, which its neighbour lacks


class MisalignedStackError(ValueError):
    """Two sections are shifted further than flow between them can follow."""


class Sections(Protocol):
    """A stack: sections [H, W, C] or [H, W] by position, such as `Stack.sections`."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> np.ndarray: ...


def shift_between(previous: np.ndarray, following: np.ndarray) -> tuple[int, int]:
    """Finds by how many whole pixels a section is moved against another.

        following[y + dy, x + dx] matches previous[y, x]

    The highest correlation within 4 px of the highest product of correlation and
    shared area, over all shifts. The pixels that both sections have at a shift are
    correlated after a Gaussian blur (standard deviation 3 px); of sections above 512
    px the middle 512 px take part. Hand in whole sections: in windows of 256 px and
    less, two sections that resemble each other weakly may match best by chance.

    Args:
      previous: [H, W, C] or [H, W] integer or float, any range; channels are averaged.
      following: the same shape.

    Returns:
      (dx, dy); (0, 0) where a section is constant.

    Raises:
      ValueError: the shapes differ, or a side is below 32.

    Source: correlation of masked images by Fourier transforms, Padfield, Masked object
      registration in the Fourier domain, 2012; FlowInpaint section 2.6.
    """
    if previous.shape != following.shape or previous.ndim not in (2, 3):
        raise ValueError(
            f"shift_between: two sections [H, W, C] of one size are compared, got "
            f"{list(previous.shape)} and {list(following.shape)}."
        )
    if min(previous.shape[:2]) < 32:
        raise ValueError(
            f"shift_between: a section is {previous.shape[0]} x {previous.shape[1]}; "
            "at least 32 x 32 pixels are needed."
        )
    first, second = _blurred_middle(previous), _blurred_middle(following)
    # Deviation (section 2.6): the whole section, not a central template. Of 36 aligned
    # windows of 256 px in serial sections a template half as wide called 16 shifted by
    # more than 32 px, the whole 3.
    correlation, share = _correlation(first, second)
    score = correlation * share
    score[0, 0] += 1e-6  # among equals no shift: constant sections correlate nowhere
    rows, columns = score.shape
    dy, dx = np.unravel_index(int(score.argmax()), score.shape)
    # The share falls with the shift and pulls the peak inwards, by a pixel or two.
    near = np.arange(-_PULL, _PULL + 1)
    at_y, at_x = (dy + near) % rows, (dx + near) % columns
    window = correlation[np.ix_(at_y, at_x)]
    window[_PULL, _PULL] += 1e-6
    row, column = np.unravel_index(int(window.argmax()), window.shape)
    down, right = int(at_y[row]), int(at_x[column])
    return (
        right if right < columns // 2 else right - columns,
        down if down < rows // 2 else down - rows,
    )


def check_alignment(sections: Sections, limit: int = 32, *, apart: int = 2) -> None:
    """Checks that flow can follow the shift between any two neighbours of a section.

    Args:
      sections: [Z, H, W, C] or a sequence of such sections in axial order.
      limit: largest shift in pixels along either axis; 32 is what the flow recovers
        at its default options.
      apart: distance in positions of the sections that are compared, 2 for the
        previous and the following section of the one between.

    Raises:
      MisalignedStackError: a larger shift; the message names the first such pair.
      ValueError: sections that cannot be compared.

    Source: FlowInpaint sections 2.6 and 9.4.
    """
    for first in range(len(sections) - apart):
        check_pair(sections, first, first + apart, limit)


def check_pair(sections: Sections, first: int, second: int, limit: int) -> None:
    """Checks that flow can follow the shift between two sections.

    Args:
      sections: as in `check_alignment`.
      first: position of the one.
      second: position of the other.
      limit: largest shift in pixels along either axis.

    Raises:
      MisalignedStackError: a larger shift.
      ValueError: sections that cannot be compared.
    """
    shift = shift_between(sections[first], sections[second])
    if max(map(abs, shift)) > limit:
        raise MisalignedStackError(
            f"sections {first} and {second} are shifted by {shift} px; align the "
            f"stack first (limit {limit}), or set config.data.largest_shift if they "
            "are aligned and look alike by chance."
        )


def _blurred_middle(section: np.ndarray) -> np.ndarray:
    """Grey float64 [h, w] with mean 0, at most 512 px a side."""
    height, width = section.shape[:2]
    top, left = max(height - _LARGEST, 0) // 2, max(width - _LARGEST, 0) // 2
    middle = section[top : top + _LARGEST, left : left + _LARGEST].astype(np.float64)
    if middle.ndim == 3:
        middle = middle.mean(axis=2)
    radius = round(4 * _SIGMA)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SIGMA) ** 2)
    taps /= taps.sum()
    for _ in range(2):
        length = len(middle)
        padded = np.pad(middle, ((radius, radius), (0, 0)), mode="edge")
        total = sum(tap * padded[n : n + length] for n, tap in enumerate(taps))
        middle = np.asarray(total).T
    return middle - middle.mean()


def _correlation(
    first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation over the pixels that both have, and their share, at every shift.

    Returns:
      Two arrays [2 h, 2 w]: correlation in [-1, 1], 0 where a variance is 0; share of
      a section in [0, 1]. Entry [dy, dx] is for the shift (dx, dy), negative ones
      counted from the end.
    """
    size = [2 * n for n in first.shape]
    transform = lambda array: np.fft.rfft2(array, size)
    back = lambda product: np.fft.irfft2(product, size)
    ones, one, two = map(transform, (np.ones_like(first), first, second))
    overlap = np.maximum(np.rint(back(np.conj(ones) * ones)), 1)
    mean_one = back(np.conj(one) * ones) / overlap
    mean_two = back(np.conj(ones) * two) / overlap
    both = back(np.conj(one) * two) / overlap - mean_one * mean_two
    of_one = back(np.conj(transform(first**2)) * ones) / overlap - mean_one**2
    of_two = back(np.conj(ones) * transform(second**2)) / overlap - mean_two**2
    # Rounding of the transforms is far below the variance of anything visible.
    least = 1e-9 * (1 + first.var() + second.var())
    seen = (of_one > least) & (of_two > least)
    norm = np.sqrt(np.where(seen, of_one * of_two, 1))
    return np.where(seen, both / norm, 0), overlap / first.size
