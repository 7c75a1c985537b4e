"""Sections computed once from both neighbours of a target, and kept on disk.

One file holds a whole stack of them: an .npy array [Z, H, W, C], zero where nothing was
computed yet, and after it Z bytes, 1 for every section that is whole. A section is
marked after its pixels are on the disk, so whatever interrupts the work, none is half.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from jaxinpaint.data.alignment import check_pair
from jaxinpaint.data.stack import Stack

LINE_EVERY = 30.0  # seconds between plain lines where there is no terminal


class Cache(NamedTuple):
    """The derived sections of one stack.

    Attributes:
      path: of the file.
      function: as that of `open_cache`.
      spacing: how many sections away both neighbours are.
      sections: uint8 or uint16 [Z, H, W, C], memory-mapped, read-only; zero where
        `compute` was not asked for the section.
    """

    path: Path
    function: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    spacing: int
    sections: np.ndarray


def open_cache(stack: Stack, recipe: Any, spacing: int) -> Cache:
    """Opens the derived sections of a stack, beside its decoded sections.

    Args:
      stack: the stack.
      recipe: an object with `name` (of the file), `function` ((previous, following,
        alpha) -> the section between them, from and to uint8 or uint16 [H, W, C]) and
        `digest` (a str that names the function and its options).
      spacing: how many sections away both neighbours are.

    Returns:
      The cache; nothing is computed yet.

    Raises:
      ValueError: the name does not fit into that of a file, or the file is damaged.

    Source: FlowInpaint R5, R6.
    """
    if not re.fullmatch(r"\w+", recipe.name):
        raise ValueError(f"a derived section is called '{recipe.name}'; use letters.")
    digest = hashlib.sha256(recipe.digest.encode()).hexdigest()[:16]
    assert stack.sections.filename is not None
    folder = Path(stack.sections.filename).parent / "derived"
    path = folder / f"{recipe.name}_spacing_{spacing}_{digest}.npy"
    folder.mkdir(exist_ok=True)
    shape, dtype = stack.sections.shape, stack.sections.dtype
    if not path.exists():
        _create(path, shape, dtype)
    try:
        sections = np.load(path, mmap_mode="r", allow_pickle=False)
        size = sections.offset + sections.nbytes + len(sections)
        if (sections.shape, sections.dtype) != (shape, dtype) or (
            path.stat().st_size != size
        ):
            raise ValueError(f"{sections.dtype} {list(sections.shape)}")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete that file.") from error
    return Cache(path, recipe.function, spacing, sections)


def compute(
    cache: Cache, volume: np.ndarray, positions: Iterable[int], largest_shift: int
) -> None:
    """Computes the derived sections that are still missing.

    Of several processes one works at a time, and the next finds its sections done;
    where files cannot be locked, all write the same.

    Args:
      cache: of the stack; its `sections` change.
      volume: [Z, H, W, C], the stack.
      positions: of targets that have both neighbours.
      largest_shift: pixels that the neighbours of a section to be computed may be
        shifted against each other; 0 for any.

    Raises:
      MisalignedStackError: they are shifted further.
      ValueError: the function returns another shape or dtype.
    """
    sections, wanted = cache.sections, sorted(set(positions))
    begin = getattr(sections, "offset")  # noqa: B009 of a memory map alone
    marks = begin + sections.nbytes
    with open(cache.path, "r+b", buffering=0) as file:
        place = file.fileno()
        if all(os.pread(place, 1, marks + z) == b"\1" for z in wanted):
            return
        with contextlib.suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)  # until the file closes
        missing = [z for z in wanted if os.pread(place, 1, marks + z) != b"\1"]
        for z in _shown(missing, cache.path.name.split("_spacing_")[0]):
            ends = (z - cache.spacing, z + cache.spacing)
            if largest_shift:
                check_pair(volume, *ends, largest_shift)
            between = (volume[ends[0]], volume[ends[1]])
            made = np.asarray(cache.function(*between, 0.5))
            if (made.shape, made.dtype) != (sections.shape[1:], sections.dtype):
                raise ValueError(
                    f"{cache.path.name}: section {z} must become {sections.dtype} "
                    f"{list(sections.shape[1:])}, got {made.dtype} {list(made.shape)}."
                )
            # Not through the memory map, which ends the process on a full disk.
            _write(place, np.ascontiguousarray(made).tobytes(), begin + z * made.nbytes)
            os.fsync(place)
            _write(place, b"\1", marks + z)


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Makes a file of zeros, which takes no room on the disk before it is filled."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        array = np.lib.format.open_memmap(part, "w+", dtype, shape)
        size = array.offset + array.nbytes + shape[0]
        del array
        os.truncate(part, size)
        # A link, unlike a renamed file, never takes the place of one that is there.
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write(place: int, data: bytes, offset: int) -> None:
    """Writes all of it; the system may take a part at a time."""
    while data:
        count = os.pwrite(place, data, offset)
        data, offset = data[count:], offset + count


def _shown(positions: list[int], name: str) -> Iterable[int]:
    """Passes positions on under a bar, or with plain lines where it takes long."""
    console = Console(stderr=True, soft_wrap=True)
    last = time.monotonic()
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed}/{task.total} sections"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(name, total=len(positions))
        for count, z in enumerate(positions):
            if not console.is_terminal and time.monotonic() - last > LINE_EVERY:
                line = f"{name}: {count} of {len(positions)} sections"
                console.print(line, highlight=False, markup=False)
                last = time.monotonic()
            yield z
            bar.advance(task)
