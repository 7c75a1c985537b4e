"""Arrays gathered one by one: in memory while they are few, in files when they are not."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.keeping import keep

LIMIT = 256 * 2**20  # bytes that stay in memory

# Arrays by name, or None for something that was left out, and plain facts of it.
Item = tuple[Mapping[str, np.ndarray] | None, dict[str, Any]]


class Gathered(NamedTuple):
    """What was gathered.

    Attributes:
      arrays: by name, [N, ...] each, not to be written to; empty where N is 0.
      meta: facts of each.
      left_out: facts of what was left out; `reason` among them.
    """

    arrays: dict[str, np.ndarray]
    meta: list[dict[str, Any]]
    left_out: list[dict[str, Any]]


def gather(
    home: Path, items: Callable[[], Iterator[Item]], limit: int = LIMIT
) -> Gathered:
    """Gathers arrays of equal shapes.

    More than `limit` bytes of them go to .npy files below `home`, which appears whole or
    not at all, and are read from there, without being made again, the next time.

    Args:
      home: a folder named after a digest of all that the items depend on.
      items: makes the items; run again if another process is at it, too.
      limit: bytes.

    Returns:
      The arrays, in the order of the items; from files they are memory maps.

    Raises:
      ValueError: what lies in `home` is damaged, or as `items`.
    """
    if home.is_dir():
        return _open(home)
    source, held, size = items(), [], 0
    for item in source:
        held.append(item)
        size += sum(array.nbytes for array in (item[0] or {}).values())
        if size > limit:
            keep(home, partial(_write, itertools.chain(held, source)))
            return _open(home)
    kept = [item for item in held if item[0] is not None]
    names = list(kept[0][0] or {}) if kept else []
    return Gathered(
        arrays={
            n: np.stack([arrays[n] for arrays, _ in kept if arrays]) for n in names
        },
        meta=[facts for _, facts in kept],
        left_out=[facts for arrays, facts in held if arrays is None],
    )


def _write(items: Iterator[Item], work: Path) -> None:
    files: dict[str, Any] = {}
    counts = {"meta": 0, "left_out": 0}
    with (
        open(work / "meta.jsonl", "w") as meta,
        open(work / "left_out.jsonl", "w") as out,
    ):
        try:
            for arrays, facts in items:
                (out if arrays is None else meta).write(json.dumps(facts) + "\n")
                counts["left_out" if arrays is None else "meta"] += 1
                for name, array in (arrays or {}).items():
                    if name not in files:
                        files[name] = open(work / f"{name}.npy", "wb"), array
                        _begin(files[name][0], array, 0)
                    file, first = files[name]
                    assert (array.shape, array.dtype) == (first.shape, first.dtype)
                    file.write(np.ascontiguousarray(array).data)
            for file, first in files.values():
                file.seek(0)
                _begin(file, first, counts["meta"])
        finally:
            for file, _ in files.values():
                file.close()


def _begin(file: Any, one: np.ndarray, count: int) -> None:
    """Writes the header; numpy leaves room in it for the count to grow."""
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(one.dtype),
            "fortran_order": False,
            "shape": (count, *one.shape),
        },
    )


def _open(home: Path) -> Gathered:
    try:
        meta, left_out = (
            [json.loads(line) for line in (home / name).read_text().splitlines()]
            for name in ("meta.jsonl", "left_out.jsonl")
        )
        arrays = {
            # A plain array over the memory map slices faster.
            path.stem: np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            for path in sorted(home.glob("*.npy"))
        }
        lengths = {len(array) for array in arrays.values()}
        if lengths != {len(meta)}:
            raise ValueError(f"{len(meta)} facts of {sorted(lengths)} arrays")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{home} is damaged ({error}); delete that folder.") from error
    return Gathered(arrays, meta, left_out)
