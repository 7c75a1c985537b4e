"""A stack of sections as one memory-mapped array, decoded once."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data import cremi, images
from jaxinpaint.data.builders import sections as builder
from jaxinpaint.data.neighbors import MissingNeighborError

Sections = Iterator[tuple[str, np.ndarray]]

_BUILDING = ".building-"  # begins the name of a stack that is not finished


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


def default_cache_dir() -> Path:
    """JAXINPAINT_HOME, or else `jaxinpaint` in the user's XDG cache folder."""
    home = os.environ.get("JAXINPAINT_HOME")
    if home:
        return Path(home)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxinpaint"


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
        digest = _digest_files(p for p in sorted(found.iterdir()) if p.is_file())
        read = lambda: builder.read_prepared(found, max_pixels)
    elif cremi.is_volume(source):
        label, digest = str(source), _digest_files([Path(source)])
        read = lambda: cremi.read_sections(source, max_pixels)
    else:
        label, files = str(source), images.list_sections(source)
        digest = _digest_files(files)
        read = lambda: images.read_sections(files, max_pixels)
    home = Path(cache_dir or default_cache_dir()) / "sections" / digest.hexdigest()
    _remove_abandoned(home.parent)
    if not home.is_dir():
        _build(home, label, read, prepared, max_pixels)
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
    home: Path,
    label: str,
    read: Callable[[], Sections],
    prepared: Path | None,
    max_pixels: int,
) -> None:
    """Fills a temporary folder beside `home` and renames it."""
    home.parent.mkdir(parents=True, exist_ok=True)
    work, lock = _begin(home.parent)
    try:
        if prepared is None:
            prepared = builder.write_sections(_two_or_more(label, read()), work)
        count, names = len(builder.open_prepared(prepared)), []
        records = builder.expect_alike(builder.read_prepared(prepared, max_pixels))
        array = None
        for z, (name, pixels) in enumerate(_two_or_more(label, records)):
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
        work.chmod(0o755)  # mkdtemp makes it private
        try:
            work.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was first, with the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _begin(parent: Path) -> tuple[Path, int]:
    """Makes a folder to build in; its lock is held until the descriptor closes.

    The system lets go of the lock when the process dies, however it dies.
    """
    while True:
        work = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=parent))
        try:
            lock = os.open(work, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process took it for abandoned before it was locked
        # Where folders cannot be locked, as on NFS, none is ever removed either.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if work.is_dir():
            return work, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders of builders that live no more."""
    for work in parent.glob(f"{_BUILDING}*"):
        try:
            lock = os.open(work, os.O_RDONLY)
        except OSError:
            continue  # finished in the meantime, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
        except OSError:
            pass  # a builder holds it
        finally:
            os.close(lock)


def _two_or_more(label: str, sections: Sections) -> Sections:
    """Passes on a stack of two sections or more; reads two before the first."""
    head = list(itertools.islice(sections, 2))
    if len(head) < 2:
        raise MissingNeighborError(
            f"{label} holds {len(head)} section(s); a section is restored from its "
            "neighbour, so at least 2 are needed."
        )
    yield from head
    yield from sections


def _digest_files(files: Iterable[Path]) -> "hashlib._Hash":
    """SHA-256 of names and bytes."""
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            one = hashlib.file_digest(file, "sha256")
        total.update(path.name.encode() + b"\0" + one.digest())
    return total
