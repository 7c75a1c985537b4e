"""Photographs: a folder of pictures, a set that TFDS prepared, or the phantom."""

import hashlib
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jaxinpaint.data import images, phantom_photographs
from jaxinpaint.data.cases import RunData
from jaxinpaint.data.image_set import ImageSet, run_data
from jaxinpaint.data.keeping import recent
from jaxinpaint.data.photograph_sets import (
    CELEBA_SPLITS,
    find_set,
    open_set,
    split_pictures,
    split_set,
)
from jaxinpaint.data.split import Split
from jaxinpaint.data.stack import default_cache_dir

FITS = ("crop", "shrink")
CELEBA = (218, 178)  # height and width of its aligned pictures
RECENT_BYTES = 256 * 2**20  # of decoded pictures that stay in memory
HASHED_BYTES = 2 * 2**30  # a larger folder's digest is of names and lengths

Read = Callable[[int], np.ndarray]


class _Source(NamedTuple):
    """Pictures before they are fitted.

    Attributes:
      names: one a picture, unique.
      read: position -> uint8 or uint16 [H, W, C].
      split: of the positions.
      digest: of what the pictures are made from.
      size: position -> (height, width), where that is known without decoding.
    """

    names: Sequence[str]
    read: Read
    split: Split
    digest: str
    size: Callable[[int], tuple[int, int]] | None


def build(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = MappingProxyType({}),
) -> RunData:
    """Opens and splits the photographs that a config names.

    Reads what `image_set.run_data` reads and, of `config.data`:
      source: "phantom"; a folder of pictures of any size; "tfds:places365_small",
        "tfds:celeb_a", "tfds:coco/2017" or another name; or a folder that TFDS or
        `jaxinpaint prepare images` prepared.
      fit: "crop", windows of the pictures as they are, or "shrink", the shorter side
        brought to the training size with antialiasing and the middle cut out; smaller
        pictures are enlarged. Of CelebA the middle square is taken first.
      cache_dir: where "shrink" keeps what it makes of a folder; "" for the user's.
      max_pixels: of one picture.
      validation_fraction, test_fraction, limit_train, limit_test, celeba_split: as
        `split_set` and, of a folder and the phantom, `split_pictures`.
      phantom: as `phantom_photographs.photographs`.

    Args:
      config: as above; every key must be there.
      batch_spec: shapes of the global batch, by name: image and mask.
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: of sections; empty, because photographs have no neighbours.

    Returns:
      The data.

    Raises:
      FileNotFoundError: the folder is not there, or the set is not prepared.
      ValueError: a config value that does not fit; too few pictures; a picture that is
        too small, which is named; or as `run_data`.

    Source: RNON specification 5.1.
    """
    data, size = config.data, batch_spec["image"].shape[1]
    if derived:
        raise ValueError(
            f"the system asks for {sorted(derived)}, computed from neighbours; "
            "photographs have none."
        )
    for key, words in {"fit": FITS, "celeba_split": CELEBA_SPLITS}.items():
        if data[key] not in words:
            raise ValueError(
                f"config.data.{key} must be one of {list(words)}, got '{data[key]}'."
            )
    keep, prepared = False, None
    if data.source == "phantom":
        source = _phantom(config)
    elif prepared := find_set(data.source):
        source = _prepared(config, prepared)
    else:
        source, keep = _folder(config), True

    channels, read = int(config.channels), source.read
    digest, common = source.digest, None
    if data.fit == "shrink":
        text = f"{digest} {size} {channels}"
        digest, common = hashlib.sha256(text.encode()).hexdigest(), (size, size)
        read = _fitted(_coloured(read, channels), size)
        if keep:
            home = Path(data.cache_dir or default_cache_dir())
            read = _kept(read, home / "photographs" / digest)
    else:
        read = _coloured(read, channels)
        if source.size:
            common = _check_sizes(config, source, size)
    shape = {"shape": [len(source.names), *common, channels]} if common else {}
    chosen = ImageSet(
        names=source.names,
        read=recent(read, RECENT_BYTES),
        training=source.split.training,
        validation=source.split.validation,
        test=source.split.test,
        digest=digest,
        facts={"fit": data.fit} | shape,
    )
    return run_data(config, batch_spec, chosen, process_index, process_count)


def _heap(config: ConfigDict, count: int) -> Split:
    data = config.data
    try:
        return split_pictures(
            count,
            data.validation_fraction,
            data.test_fraction,
            data.limit_train,
            data.limit_test,
            int(config.seed),
        )
    except ValueError as error:
        raise ValueError(f"{data.source}: {error}") from error


def _phantom(config: ConfigDict) -> _Source:
    settings = config.data.phantom.to_dict()
    pictures = phantom_photographs.photographs(**settings)
    digest = hashlib.sha256(f"{pictures.dtype.str} {pictures.shape}".encode())
    digest.update(pictures.data)
    count, height, width, _ = pictures.shape
    return _Source(
        names=[f"picture_{k:04d}" for k in range(count)],
        read=lambda at: pictures[at],
        split=_heap(config, count),
        digest=digest.hexdigest(),
        size=lambda at: (height, width),
    )


class _Numbered(Sequence[str]):
    """Names of the pictures of a prepared set, "train_0000012", made when asked."""

    def __init__(self, sizes: Mapping[str, int]):
        self._sizes, self._count = dict(sizes), sum(sizes.values())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        for split, count in self._sizes.items():
            if 0 <= at < count:
                return f"{split}_{at:07d}"
            at -= count
        raise IndexError(f"of {self._count} pictures")


def _prepared(config: ConfigDict, path: Path) -> _Source:
    data = config.data
    found = open_set(path, data.max_pixels)
    split = split_set(
        found.name,
        found.sizes,
        celeba_split=data.celeba_split,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        limit_train=data.limit_train,
        limit_test=data.limit_test,
        seed=int(config.seed),
    )
    names, read, shape = _Numbered(found.sizes), found.read, found.shape

    def square(at: int) -> np.ndarray:
        pixels, (height, width) = found.read(at), CELEBA
        if pixels.shape[:2] != CELEBA:
            raise ValueError(
                f"{path}: {names[at]} is {pixels.shape[0]} x {pixels.shape[1]}; the "
                f"aligned pictures of CelebA are {height} x {width}."
            )
        top = (height - width) // 2
        return pixels[top : top + width]  # rows 20 to 197

    if found.name == "celeb_a" and data.fit == "shrink":
        read = square
    size = None if shape is None else lambda at: (shape[0], shape[1])
    return _Source(names, read, split, found.digest, size)


def _folder(config: ConfigDict) -> _Source:
    data = config.data
    files = list_pictures(data.source)

    def size(at: int) -> tuple[int, int]:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(files[at]) as one:
                return one.height, one.width
        except Exception as error:  # decoders raise many types at damaged files
            raise images.ImageFileError(
                f"{files[at]}: cannot be read as an image: {error}"
            ) from error

    return _Source(
        names=picture_names(files),
        read=lambda at: images.read_image(files[at], data.max_pixels),
        split=_heap(config, len(files)),
        digest=_digest(files),
        size=size,
    )


def list_pictures(folder: str | Path) -> tuple[Path, ...]:
    """Lists the pictures of a folder by name; those of folders in it are left out.

    Raises:
      ValueError: it is a file, or holds no picture.
      OSError: it is not there.
    """
    folder = Path(folder)
    folder.stat()
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; photographs come as a folder of them.")
    files = sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if Path(entry.name).suffix.lower() in images.SUFFIXES
        and not entry.name.startswith(".")
    )
    if not files:
        raise ValueError(
            f"{folder}: holds no picture ({', '.join(images.SUFFIXES)}), and is no "
            "folder that TFDS prepared, which would have a dataset_info.json."
        )
    return tuple(files)


def picture_names(files: Sequence[Path]) -> list[str]:
    """Names of pictures: without the ending, where that tells them apart."""
    stems = Counter(path.stem for path in files)
    return [p.stem if stems[p.stem] == 1 else p.name for p in files]


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of names and bytes, or of names and lengths where that takes minutes."""
    total, lengths = hashlib.sha256(), [path.stat().st_size for path in files]
    whole = sum(lengths) <= HASHED_BYTES
    for path, length in zip(files, lengths, strict=True):
        total.update(f"{path.name}\0{length}\0".encode())
        if whole:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _check_sizes(
    config: ConfigDict, source: _Source, size: int
) -> tuple[int, int] | None:
    """Checks that the pictures hold their crops; gives the size that all share."""
    assert source.size is not None
    parts = source.split
    sides = {
        "training crops": (size, (*parts.training, *parts.validation)),
        "config.eval.crop_size": (config.eval.crop_size, parts.test),
    }
    seen = set[tuple[int, int]]()
    for what, (side, positions) in sides.items():
        for at in positions:
            height, width = source.size(at)
            seen.add((height, width))
            if side > min(height, width):
                raise ValueError(
                    f"{config.data.source}: {source.names[at]} is {height} x {width}, "
                    f"but {what} need {side} x {side}; take it out, or set "
                    "config.data.fit to 'shrink', which resizes."
                )
    return seen.pop() if len(seen) == 1 else None


def _coloured(read: Read, channels: int) -> Read:
    """Repeats grey where colour is asked for."""

    def coloured(at: int) -> np.ndarray:
        pixels = read(at)
        if pixels.shape[-1] == 1 and channels == 3:
            return np.repeat(pixels, 3, axis=-1)
        return pixels

    return coloured


def _fitted(read: Read, size: int) -> Read:
    return lambda at: shrink(read(at), size)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Brings the shorter side to a length and cuts out the middle square.

    Args:
      pixels: uint8 or uint16 [H, W, C].
      size: the side.

    Returns:
      [size, size, C], in the same dtype: bilinear, antialiased, rounded.

    Source: RNON specification 5.1, COCO.
    """
    height, width, _ = pixels.shape
    short = min(height, width)
    if short != size:
        rows, columns = (max(round(n * size / short), size) for n in (height, width))
        planes = [
            Image.fromarray(pixels[..., c].astype(np.float32)).resize(
                (columns, rows), Image.Resampling.BILINEAR
            )
            for c in range(pixels.shape[-1])
        ]
        resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        top = np.iinfo(pixels.dtype).max
        pixels = np.rint(np.clip(resized, 0, top)).astype(pixels.dtype)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _kept(read: Read, home: Path) -> Read:
    """Keeps each picture in a file, which appears whole or not at all."""
    home.mkdir(parents=True, exist_ok=True)

    def kept(at: int) -> np.ndarray:
        path = home / f"{at}.npy"
        if path.exists():
            try:
                return np.load(path, allow_pickle=False)
            except (OSError, EOFError, ValueError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); delete that file."
                ) from error
        pixels = read(at)
        part = home / f".{at}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            with open(part, "wb") as file:
                np.save(file, pixels, allow_pickle=False)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return pixels

    return kept
