"""Folders that are made once from other files, and kept; arrays that are kept a while."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

_BUILDING = ".building-"  # begins the name of a folder that is not finished


def default_cache_dir() -> Path:
    """JAXINPAINT_HOME, or else `jaxinpaint` in the user's XDG cache folder."""
    home = os.environ.get("JAXINPAINT_HOME")
    if home:
        return Path(home)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxinpaint"


def keep(home: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder unless it is there; it appears whole or not at all.

    That holds too where two processes make it at once. What a killed process left
    unfinished beside it is removed.

    Args:
      home: the folder.
      fill: writes the content into an empty folder beside it, which is then renamed.

    Raises:
      Exception: what `fill` raises.
    """
    _remove_abandoned(home.parent)
    if home.is_dir():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    work, lock = _begin(home.parent)
    try:
        fill(work)
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


def digest_files(files: Iterable[Path]) -> "hashlib._Hash":
    """SHA-256 of names and bytes."""
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            one = hashlib.file_digest(file, "sha256")
        total.update(path.name.encode() + b"\0" + one.digest())
    return total


def recent(read: Callable[[int], np.ndarray], most: int) -> Callable[[int], np.ndarray]:
    """Keeps in memory what was read last, for all threads.

    Args:
      read: position -> array.
      most: bytes that are kept; the array read last is kept in any case.

    Returns:
      As `read`, of arrays that cannot be written to.
    """
    held: OrderedDict[int, np.ndarray] = OrderedDict()
    lock, total = threading.Lock(), 0

    def held_or_read(at: int) -> np.ndarray:
        nonlocal total
        with lock:
            if at in held:
                held.move_to_end(at)
                return held[at]
        pixels = read(at)  # two threads may read one picture; both get the same
        pixels.flags.writeable = False
        with lock:
            if at not in held:
                held[at], total = pixels, total + pixels.nbytes
            while total > most and len(held) > 1:
                total -= held.popitem(last=False)[1].nbytes
        return pixels

    return held_or_read
