"""A stack of sections as one memory-mapped array, decoded once."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data import cremi, images
from jaxinpaint.data.builders import sections as builder
from jaxinpaint.data.keeping import default_cache_dir, digest_files, keep
from jaxinpaint.data.neighbors import MissingNeighborError

Sections = Iterator[tuple[str, np.ndarray]]


class Stack(NamedTuple):
    """Serial sections in axial order.

    Attributes:
      sections: uint8 or uint16 [Z, H, W, C], C 1 or 3, memory-mapped, read-only.
      names: one a section, unique.
      digest: SHA-256 of what the stack was made from, in hex.
    """

    sections: np.memmap
    names: tuple[str, ...]
    digest: str


def open_stack(
    source: str | Path | np.ndarray, cache_dir: str | Path, max_pixels: int
) -> Stack:
    """Opens a stack, from the cache if the same files were opened before.

    The first time the source becomes a TFDS data set, and its records become one
    array; both lie under `cache_dir/sections/<digest>`, which appears whole or not
    at all, also when two processes build it at once. What a killed process left
    unfinished there is removed.

    Args:
      source: a folder of numbered images, a TIFF of several pages, an HDF5 file of
        CREMI's layout, a folder that TFDS prepared, or an array uint8 or uint16 [Z, H, W, C].
      cache_dir: where decoded stacks are kept; "" for `default_cache_dir`.
      max_pixels: height * width above which a section is refused undecoded.

    Returns:
      The stack.

    Raises:
      MissingNeighborError: fewer than two sections.
      ValueError: sections that differ in size, channels or bits, unreadable files,
        or a damaged cache; the message names the files.
      ImportError: the source is HDF5 and h5py is not installed.
      OSError: the source is not there.
    """
    prepared = None
    read: Callable[[], Sections]
    if isinstance(source, np.ndarray):
        label, array = "the array", source
        if array.ndim != 4:
            raise ValueError(f"a stack is [Z, H, W, C], got {list(array.shape)}.")
        digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
        read = lambda: ((f"section_{z:04d}", one) for z, one in enumerate(array))
    elif found := builder.find_prepared(source):
        label, prepared = str(source), found
        digest = digest_files(p for p in sorted(found.iterdir()) if p.is_file())
        read = lambda: builder.read_prepared(found, max_pixels)
    elif cremi.is_volume(source):
        label, digest = str(source), digest_files([Path(source)])
        read = lambda: cremi.read_sections(source, max_pixels)
    else:
        label, files = str(source), images.list_sections(source)
        digest = digest_files(files)
        read = lambda: images.read_sections(files, max_pixels)
    home = Path(cache_dir or default_cache_dir()) / "sections" / digest.hexdigest()
    keep(home, partial(_build, label, read, prepared, max_pixels))
    try:
        sections = np.load(home / "sections.npy", mmap_mode="r", allow_pickle=False)
        names = tuple(json.loads((home / "names.json").read_text()))
        if len(sections) != len(names):
            raise ValueError(f"{len(sections)} sections, {len(names)} names")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{home} is damaged ({error}); delete that folder.") from error
    _, height, width, _ = sections.shape
    images.expect_pixels(label, height, width, max_pixels)
    return Stack(sections, names, digest.hexdigest())


def _build(
    label: str,
    read: Callable[[], Sections],
    prepared: Path | None,
    max_pixels: int,
    work: Path,
) -> None:
    """Fills a folder with what a stack is opened from."""
    if prepared is None:
        prepared = builder.write_sections(two_or_more(label, read()), work)
    count, names = len(builder.open_prepared(prepared)), []
    records = builder.expect_alike(builder.read_prepared(prepared, max_pixels))
    array = None
    for z, (name, pixels) in enumerate(two_or_more(label, records)):
        if array is None:
            array = np.lib.format.open_memmap(
                work / "sections.npy", "w+", pixels.dtype, (count, *pixels.shape)
            )
        array[z] = pixels
        names.append(name)
    assert array is not None
    array.flush()
    if len(set(names)) != len(names):
        raise ValueError(f"{label}: two sections have one name.")
    (work / "names.json").write_text(json.dumps(names))


def two_or_more(label: str, sections: Sections) -> Sections:
    """Passes on a stack of two sections or more; reads two before the first."""
    head = list(itertools.islice(sections, 2))
    if len(head) < 2:
        raise MissingNeighborError(
            f"{label} holds {len(head)} section(s); a section is restored from its "
            "neighbour, so at least 2 are needed."
        )
    yield from head
    yield from sections
