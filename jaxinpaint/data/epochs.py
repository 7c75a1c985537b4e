"""Batches that go through a set of rows, epoch by epoch."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxinpaint.data.cases import Batch

_VALIDATION = 2  # third word of a seed; an epoch's has two


class Rows:
    """Arrays that are read by position; a second set goes on where the first ends."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        more: Mapping[str, np.ndarray] | None = None,
    ):
        """Takes arrays [N, ...] by name, and more of the same names and shapes."""
        self._arrays, self._more = arrays, more or {}
        self._count = len(next(iter(arrays.values())))

    def take(self, positions: Sequence[int]) -> Batch:
        """Copies rows: [len(positions), ...] of every array."""
        batch = {}
        for name, array in self._arrays.items():
            out = np.empty((len(positions), *array.shape[1:]), array.dtype)
            for row, at in enumerate(positions):
                inside = at < self._count
                out[row] = array[at] if inside else self._more[name][at - self._count]
            batch[name] = out
        return batch


def epoch_batches(
    rows: Rows,
    positions: Sequence[int],
    size: int,
    seed: int,
    process_index: int,
    process_count: int,
) -> Callable[[int], Batch]:
    """Makes step -> the rows of one process in the global batch of that step.

    An epoch is `default_rng([seed, epoch]).permutation` of the positions; rows that do
    not fill a batch at its end are left out of it.

    Args:
      rows: where they are read from.
      positions: those to go through, at least `size`.
      size: rows of the global batch; a multiple of the number of processes.
      seed: of the permutations.
      process_index: which rows are wanted.
      process_count: how many processes share a batch.

    Returns:
      A pure function that threads may share.

    Source: glomeruli specification 8.4.
    """
    everyone, count = np.array(positions), len(positions)
    mine = slice(
        size * process_index // process_count,
        size * (process_index + 1) // process_count,
    )

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        return everyone[np.random.default_rng([seed, epoch]).permutation(count)]

    def batch(step: int) -> Batch:
        epoch, at = divmod(step, count // size)
        return rows.take(order(epoch)[at * size : (at + 1) * size][mine].tolist())

    return batch


def validation_order(positions: Sequence[int], seed: int) -> np.ndarray:
    """Positions in the seeded order in which they are taken to validate with."""
    return np.random.default_rng([seed, 0, _VALIDATION]).permutation(positions)


def fixed_batch(rows: Rows, positions: Sequence[int], count: int, seed: int) -> Batch:
    """One batch of `count` rows; each is there once before any is there twice."""
    return rows.take(np.resize(validation_order(positions, seed), count).tolist())
