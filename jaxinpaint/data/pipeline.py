"""From a config to batches: the one door of the data room."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import cases, glomeruli, photographs, sections, slices

KINDS = {
    "sections": sections.build,
    "photographs": photographs.build,
    "slices": slices.build,
    "glomeruli_crops": glomeruli.build_crops,
    "glomeruli_outlines": glomeruli.build_outlines,
    "glomeruli_tiles": glomeruli.build_tiles,
}


def build(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int,
    process_count: int,
    derived: Mapping[str, Any] = MappingProxyType({}),
) -> cases.RunData:
    """Builds the data that `config.data.kind` names, with batches read ahead.

    Reads `config.data.kind`, `config.data.threads` and what the kind's own `build`
    reads. `train(step)` gives the same batches for every number of threads; close
    the iterator when done.

    Args:
      config: every key must be there.
      batch_spec: shapes of the global batch, by name.
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: what is computed once for each section, by its name in the batch; each
        has `name`, `function` and `digest`, as `derived.open_cache` takes them.

    Returns:
      The data.

    Raises:
      ValueError: another kind, or as the kind's own `build`.
    """
    kind, threads = config.data.kind, config.data.threads
    if kind not in KINDS:
        raise ValueError(f"config.data.kind is '{kind}'; it is one of {list(KINDS)}.")
    data = KINDS[kind](config, batch_spec, process_index, process_count, derived)
    return data._replace(
        train=lambda first: prefetch(data.batch, first, threads, 2 * threads)
    )


def prefetch(
    make_batch: Callable[[int], dict[str, np.ndarray]],
    first_step: int,
    threads: int,
    buffer: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Makes batches ahead in threads and hands them out in the order of the steps.

    The state of the iterator is the step: to go on after step k, start at k + 1.

    Args:
      make_batch: step -> batch, a pure function that threads may share.
      first_step: of the first batch.
      threads: how many work at once; 0 makes each batch when it is asked for.
      buffer: how many batches may be ready or under way.

    Yields:
      The batches of first_step, first_step + 1 and so on, without end. `close()` ends
      the threads; so does dropping the iterator.

    Raises:
      ValueError: negative threads, or threads without a buffer.
      Exception: what `make_batch` raises, at the step it belongs to.
    """
    if threads < 0 or (threads and buffer < 1):
        raise ValueError(
            f"prefetch: threads must be 0 or more with a buffer of 1 or more, got "
            f"{threads} threads and a buffer of {buffer}."
        )
    return _prefetch(make_batch, first_step, threads, buffer)


def _prefetch(
    make_batch: Callable[[int], dict[str, np.ndarray]],
    first_step: int,
    threads: int,
    buffer: int,
) -> Iterator[dict[str, np.ndarray]]:
    import grain  # here, because it imports jax where there is one

    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=buffer if threads else 0
    )
    steps = grain.MapDataset.range(first_step, 2**62)
    batches = iter(steps.map(make_batch).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()
