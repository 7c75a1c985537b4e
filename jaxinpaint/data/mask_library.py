"""Libraries of contours: one glomerulus's outline a mask, in the middle of a window.

A library comes from the samples of a mask network (`build_library`), whose sizes are
made even, or from maps as they are (`taken_library`). Masks are uint8, 1 = HOLE.
"""

import hashlib
import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from jaxinpaint.data import contours, keeping
from jaxinpaint.data.images import SUFFIXES, read_mask

FORMAT = 1
SMALL = "smaller than min_area"
BORDER = "touches the border"
WIDE = "radius above max_radius"
EMPTY = "nothing left at the new size"


class Library(NamedTuple):
    """Contours, each in the middle of its window.

    Attributes:
      masks: uint8 [N, S, S], 1 = hole, one 8-connected piece without holes each.
      meta: of each mask: `source` (name of a map, or ""), `sample_index` and
        `component` it was cut from, `seed` (None where nothing was drawn), `scale`
        (after / before), and of the result `area` in pixels, `d` (diameter of a disc of
        that area) and `r` (distance of the farthest pixel from the window's middle).
      rejected: how many pieces were left out, by reason.
    """

    masks: np.ndarray
    meta: tuple[Mapping[str, Any], ...]
    rejected: Mapping[str, int]

    def digest(self) -> str:
        """SHA-256 of the masks and of what is known of them."""
        total = hashlib.sha256(json.dumps(self.masks.shape).encode())
        total.update(np.packbits(self.masks).tobytes())
        total.update(json.dumps(self.meta, sort_keys=True).encode())
        return total.hexdigest()


def build_library(
    samples: np.ndarray,
    *,
    size: int,
    min_area: int,
    bins: int,
    range: tuple[float, float],
    max_radius: float,
    threshold: float,
    seed: int,
) -> Library:
    """Cuts contours out of the samples of a network and makes their sizes even.

    A sample is enlarged to `size` (bilinear, half-pixel centres, edges repeated), and
    what is above the threshold is inside. Small pieces are dropped, holes filled, and
    pieces at the border dropped. Each that remains is resampled once: the centre of its
    enclosing circle comes to the middle of the window, its equivalent diameter to a
    target drawn uniformly from the bin whose turn it is.

    Args:
      samples: [N, side, side], luma in [0, 1], or uint8 levels.
      size: of the windows, in pixels, at least the samples' side.
      min_area: of a piece at `size`, in pixels.
      bins: of equal width over `range`.
      range: least and largest equivalent diameter, 2 sqrt(area / pi), in pixels.
      max_radius: of a contour about the window's middle, in pixels.
      threshold: of the luma.
      seed: of the target diameters.

    Returns:
      The library: bins hold equally many contours, or one less in the last ones.

    Raises:
      ValueError: samples of another kind, figures that cannot be, or no contour left.

    Source: glomeruli specification 8.2.
    """
    level = _luma(samples, size)
    low, high = range
    if bins < 1 or not 0 < low < high:
        raise ValueError(
            f"build_library: bins is {bins} and range {range}; give at least one bin "
            "and 0 < least < largest diameter."
        )
    _check_radius("build_library", size, max_radius)
    rng, width = np.random.default_rng(seed), (high - low) / bins
    kept: list[tuple[np.ndarray, dict[str, Any]]] = []
    rejected: Counter[str] = Counter()
    for index, sample in enumerate(level):
        inside = _enlarged(sample, size) > threshold
        for number, piece in enumerate(_pieces(inside, min_area, rejected)):
            # Assumption: a contour that is rejected gives its turn to the next one, so
            # that every bin fills alike.
            target = low + width * (len(kept) % bins + rng.random())
            scale = target / _diameter(int(piece.sum()))
            mask = _centred(piece, scale, size, max_radius, rejected)
            if mask is not None:
                about = _about("", index, number, seed, scale, mask)
                kept.append((mask, about))
    return _library("build_library", kept, rejected, size)


def taken_library(
    maps: Iterable[tuple[str, np.ndarray]],
    *,
    size: int,
    min_area: int,
    max_radius: float,
) -> Library:
    """Cuts contours out of maps as they are: centred, but not scaled.

    Args:
      maps: name and [H, W] of 0 and 1, of any size: a person's masks, or the sclerosed
        channel of training slides.
      size: of the windows, in pixels.
      min_area: of a piece, in pixels.
      max_radius: of a contour about the window's middle, in pixels.

    Returns:
      The library, in the order of the maps.

    Raises:
      ValueError: a map of another kind, figures that cannot be, or no contour left.

    Source: glomeruli specification 8.2, `mask_source`.
    """
    _check_radius("taken_library", size, max_radius)
    kept: list[tuple[np.ndarray, dict[str, Any]]] = []
    rejected: Counter[str] = Counter()
    for index, (name, inside) in enumerate(maps):
        for number, piece in enumerate(_pieces(inside, min_area, rejected)):
            mask = _centred(piece, 1.0, size, max_radius, rejected)
            if mask is not None:
                kept.append((mask, _about(name, index, number, None, 1.0, mask)))
    return _library("taken_library", kept, rejected, size)


def folder_maps(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A person's mask files of a folder, sorted by name, for `taken_library`.

    Raises:
      FileNotFoundError: it holds no image, or is not there.
      ImageFileError: a file that is no mask of 0 and 255 or 0 and 1.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"{folder}: holds no mask ({', '.join(SUFFIXES)}) and no library.json."
        )
    for path in files:
        yield path.name, read_mask(path)[..., 0]


def save_library(library: Library, folder: Path) -> None:
    """Writes `masks.npz` (packed bits) and `library.json`; both or nothing.

    A folder that is there is left as it is.

    Raises:
      OSError: it cannot be written.
    """
    facts = {
        "format": FORMAT,
        "digest": library.digest(),
        "shape": list(library.masks.shape),
        "rejected": dict(library.rejected),
        "contours": list(library.meta),
    }

    def fill(place: Path) -> None:
        packed = io.BytesIO()
        np.savez(packed, masks=np.packbits(library.masks))
        (place / "masks.npz").write_bytes(packed.getvalue())
        (place / "library.json").write_text(json.dumps(facts, indent=1) + "\n")

    keeping.keep(folder, fill)


def load_library(folder: Path) -> Library:
    """Reads what `save_library` wrote.

    Raises:
      FileNotFoundError: there is no library.
      ValueError: it is damaged, or of another version.
    """
    where = folder / "library.json"
    facts = json.loads(where.read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{where}: format is {facts.get('format')!r}, this version reads {FORMAT}; "
            "make the library again."
        )
    shape, path = facts["shape"], folder / "masks.npz"
    packed = io.BytesIO(path.read_bytes())
    try:
        with np.load(packed, allow_pickle=False) as file:
            bits = np.unpackbits(file["masks"], count=math.prod(shape))
        masks = bits.reshape(shape)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); make the library again."
        ) from error
    library = Library(masks, tuple(facts["contours"]), facts["rejected"])
    if library.digest() != facts["digest"]:
        raise ValueError(
            f"{folder}: masks.npz and library.json are not those that were written "
            "together; make the library again."
        )
    return library


def _luma(samples: np.ndarray, size: int) -> np.ndarray:
    """The samples as float, checked."""
    if samples.ndim != 3 or samples.shape[1] != samples.shape[2]:
        raise ValueError(
            "build_library: samples must be [N, side, side], got "
            f"{list(samples.shape)}."
        )
    if samples.shape[1] > size:
        raise ValueError(
            f"build_library: samples of {samples.shape[1]} pixels do not fit windows of "
            f"{size}; give larger windows."
        )
    level = samples / 255 if samples.dtype == np.uint8 else samples
    wrong = level[~((level >= 0) & (level <= 1))]
    if wrong.size:
        raise ValueError(
            f"build_library: samples must lie in [0, 1], {wrong.size} values do not, "
            f"such as {wrong[0]:g}; map a tanh output x to (x + 1) / 2."
        )
    return level


def _check_radius(where: str, size: int, max_radius: float) -> None:
    if not 0 < max_radius < (size - 1) / 2:
        raise ValueError(
            f"{where}: max_radius is {max_radius}; in windows of {size} pixels it must "
            f"be above 0 and below {(size - 1) / 2}."
        )


def _enlarged(sample: np.ndarray, size: int) -> np.ndarray:
    """[size, size], bilinear with half-pixel centres, edges repeated."""
    return ndimage.zoom(
        sample.astype(np.float64),
        size / len(sample),
        order=1,
        mode="nearest",
        grid_mode=True,
    )


def _pieces(
    inside: np.ndarray, min_area: int, rejected: Counter[str]
) -> Iterator[np.ndarray]:
    """Pieces that are large enough, filled, and clear of the border; uint8 [H, W]."""
    labels, count = contours.components(inside)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    large = areas >= min_area
    large[0] = False
    rejected[SMALL] += count - int(large.sum())
    labels, _ = contours.components(contours.fill_holes(large[labels]))
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        ends = zip(place, labels.shape, strict=True)
        if any(part.start == 0 or part.stop == side for part, side in ends):
            rejected[BORDER] += 1
        else:
            yield (labels[place] == number).astype(np.uint8)


def _centred(
    piece: np.ndarray,
    scale: float,
    size: int,
    max_radius: float,
    rejected: Counter[str],
) -> np.ndarray | None:
    """The piece in the middle of its window, or None where it does not fit."""
    cy, cx, _ = contours.enclosing_circle(np.argwhere(piece))
    mask = contours.rescale(piece, scale, (cy, cx), size)
    if not mask.any():
        rejected[EMPTY] += 1
        return None
    # At the border a part of it may have been cut off.
    # Deviation (8.2): measured from the middle of the window, where a new glomerulus is
    # placed by it; never less than the radius of the enclosing circle.
    cut = mask[[0, -1]].any() or mask[:, [0, -1]].any()
    if cut or _reach(mask) > max_radius:
        rejected[WIDE] += 1
        return None
    return mask


def _about(
    source: str,
    index: int,
    number: int,
    seed: int | None,
    scale: float,
    mask: np.ndarray,
) -> dict[str, Any]:
    area = int(mask.sum())
    return {
        "source": source,
        "sample_index": index,
        "component": number,
        "seed": seed,
        "scale": float(scale),
        "area": area,
        "d": _diameter(area),
        "r": _reach(mask),
    }


def _diameter(area: int) -> float:
    return 2 * math.sqrt(area / math.pi)


def _reach(mask: np.ndarray) -> float:
    """Distance of the farthest pixel from the window's middle."""
    away = np.argwhere(mask) - (len(mask) - 1) / 2
    return float(np.sqrt((away**2).sum(-1).max()))


def _library(
    where: str,
    kept: Sequence[tuple[np.ndarray, dict[str, Any]]],
    rejected: Counter[str],
    size: int,
) -> Library:
    counts = {why: n for why, n in rejected.items() if n}
    if not kept:
        told = ", ".join(f"{n} {why}" for why, n in counts.items()) or "no piece found"
        raise ValueError(
            f"{where}: no contour for windows of {size} pixels ({told}); give more "
            "samples, train the mask network longer, or lower min_area."
        )
    masks = np.stack([mask for mask, _ in kept])
    return Library(masks, tuple(about for _, about in kept), counts)
