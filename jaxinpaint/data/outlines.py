"""Outlines that a person drew around glomeruli, as QuPath exports them (GeoJSON)."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

# Name of a QuPath class in lower case -> channel of the label.
NAMES = MappingProxyType(
    {
        **dict.fromkeys(("normal", "glomerulus", "ng"), 0),
        **dict.fromkeys(("sclerosed", "sclerotic", "gs", "sg"), 1),
    }
)
_SHAPES = ("Polygon", "MultiPolygon")

Rings = list[np.ndarray]


def read_outlines(
    path: str | Path, names: Mapping[str, int] = NAMES
) -> list[tuple[int, Rings]]:
    """Reads the polygons of a file.

    Args:
      path: a GeoJSON FeatureCollection, or a bare list of features, of Polygon and
        MultiPolygon; each names its class in `properties.classification.name`.
      names: class name in lower case -> channel.

    Returns:
      Channel and rings of each polygon; a ring is float64 [N, 2] of (x, y) in pixels of
      the file that was drawn on, from its top left corner.

    Raises:
      ValueError: no GeoJSON of this kind, another shape, a class that `names` lacks (all
        such names are listed), or coordinates that are no polygon; with the file.
      OSError: the file is not there.

    Source: glomeruli specification 5.3.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as GeoJSON: {error}") from error
    features = found.get("features") if isinstance(found, dict) else found
    if not isinstance(features, list):
        raise ValueError(
            f"{path}: neither a FeatureCollection nor a list of features; export "
            "annotations as GeoJSON."
        )
    classes = [_class_of(feature) for feature in features]
    unknown = sorted({name for name in classes if name.lower() not in names})
    if unknown:
        raise ValueError(
            f"{path}: unknown classes {unknown}; the names known are {sorted(names)}. "
            "Rename them in QuPath, or leave these annotations out."
        )
    return [
        (names[name.lower()], rings)
        for number, (name, feature) in enumerate(zip(classes, features, strict=True))
        for rings in _polygons(f"{path}: feature {number}", feature)
    ]


def _class_of(feature: Any) -> str:
    """The class's name; "" where there is none."""
    place = feature
    for key in ("properties", "classification", "name"):
        place = place.get(key) if isinstance(place, dict) else None
    return str(place or "")


def _polygons(where: str, feature: Any) -> Iterator[Rings]:
    shape = feature.get("geometry") or {}
    kind, coordinates = shape.get("type"), shape.get("coordinates") or []
    if kind not in _SHAPES:
        raise ValueError(f"{where} is a {kind}; outlines are {' or '.join(_SHAPES)}.")
    try:
        for polygon in [coordinates] if kind == "Polygon" else coordinates:
            rings = [np.array(ring, np.float64)[:, :2] for ring in polygon]
            if not rings or any(
                len(r) < 3 or r.shape[1] < 2 or not np.isfinite(r).all() for r in rings
            ):
                raise ValueError("a ring needs three finite corners")
            yield rings
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{where} is no polygon: {error}.") from error


def outline_label(
    path: str | Path,
    height: int,
    width: int,
    factor: float,
    names: Mapping[str, int] = NAMES,
) -> np.ndarray:
    """Draws the outlines of a file.

    A pixel belongs to a polygon when its centre lies inside, by the even-odd rule over
    the polygon's rings; a centre on the outline counts on the left and upper sides.

    Args:
      path: as of `read_outlines`.
      height: rows of the label.
      width: columns of the label.
      factor: pixels of the file that was drawn on for one of the label.
      names: as of `read_outlines`.

    Returns:
      uint8 [H, W, 2] of 0 and 1; both may be 1 where outlines overlap.

    Raises:
      ValueError: as `read_outlines`.
      OSError: the file is not there.

    Source: glomeruli specification 5.3.
    """
    label = np.zeros((height, width, 2), np.uint8)
    for channel, rings in read_outlines(path, names):
        draw_polygon(label[..., channel], [ring / factor for ring in rings])
    return label


def draw_polygon(mask: np.ndarray, rings: Rings) -> None:
    """Sets the pixels of a polygon to 1, in place.

    Args:
      mask: uint8 [H, W].
      rings: float64 [N, 2] each, (x, y) in its pixels; pixel (0, 0) has its centre at
        (0.5, 0.5). A ring closes itself.
    """
    height, width = mask.shape
    corners = np.concatenate(rings)
    low, high = corners.min(axis=0), corners.max(axis=0)
    left, top = (max(math.floor(v), 0) for v in low)
    right, bottom = (
        min(math.ceil(v), n) for v, n in zip(high, (width, height), strict=True)
    )
    if left >= right or top >= bottom:
        return
    # Each edge turns over all pixels of a row to the right of where it crosses it.
    turns = np.zeros((bottom - top, right - left + 1), np.int64)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            first, last = sorted((math.ceil(y0 - 0.5), math.ceil(y1 - 0.5)))
            rows = np.arange(max(first, top), min(last, bottom))
            crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.ceil(crossing - 0.5).astype(np.int64) - left
            np.add.at(turns, (rows - top, np.clip(columns, 0, right - left)), 1)
    inside = np.cumsum(turns, axis=1)[:, :-1] % 2 == 1
    mask[top:bottom, left:right][inside] = 1
