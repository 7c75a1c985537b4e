"""Restores the bad sections of a volume one round after the other, and keeps each."""

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinpaint import systems
from jaxinpaint.core.checks import InpaintInputError, NonFiniteInputError
from jaxinpaint.core.levels import HALF
from jaxinpaint.data.alignment import shift_between
from jaxinpaint.data.bad_sections import Repair
from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.keeping import recent
from jaxinpaint.data.neighbors import psnr
from jaxinpaint.data.patches import Patch, cut_patch, load_patch, save_patch
from jaxinpaint.data.pictures import write_whole
from jaxinpaint.data.volume_files import BLOCK, Volume
from jaxinpaint.evaluation.restoring_inputs import tiling
from jaxinpaint.evaluation.runs import Trained
from jaxinpaint.evaluation.volume_inputs import SIDES, Holes, Job
from jaxinpaint.evaluation.volume_nifti import NiftiVolume
from jaxinpaint.inference.nifti import as_stored, grey_top
from jaxinpaint.inference.tiles import Restore, Tile, cover, cut, restore_pictures

FAILURES = (ImageFileError, InpaintInputError, OSError)
LEAST_SIDE = 32  # pixels, of sections whose shift is estimated


class Store:
    """The restored sections on disk, which outlive a process that is killed.

    Attributes:
      folder: that holds them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, z: int, suffix: str) -> Path:
        return self.folder / f"section_{z:06d}{suffix}"

    def entry(self, z: int) -> dict[str, Any] | None:
        """What is told of a restored section; None if it is not done."""
        try:
            return dict(json.loads(self._path(z, ".json").read_text()))
        except FileNotFoundError:
            return None

    def patch(self, z: int) -> Patch:
        """What was invented in a restored section."""
        return load_patch(self._path(z, ".npz"))

    def put(self, z: int, patch: Patch, entry: Mapping[str, Any]) -> None:
        """Keeps a section; it is done once its entry is there."""
        save_patch(self._path(z, ".npz"), patch)
        text = json.dumps(entry, allow_nan=False)
        write_whole(self._path(z, ".json"), text.encode())


class Scale(NamedTuple):
    """How grey values of a volume become what the networks read, and back.

    Attributes:
      top: value that becomes 1 where 0 becomes -1; None where levels are read as they
        are.
      multiple: sections are padded about their centre to multiples of it, with -1; 1
        where the predictor pads.
    """

    top: float | None
    multiple: int


class Loaded(NamedTuple):
    """A section that can be restored.

    Attributes:
      repair: which.
      given: [H, W, C], as the volume holds it.
      hole: [H, W] bool, what may be invented.
      arrays: what the system reads, each [h, w, channels].
      others: the same with one neighbour alone, for each of two; [] if there are not.
      tiles: that paint the hole.
      sides: the sections on either side that were read, by name.
      guide: which of them guides, where the system reads one; None otherwise.
      notes: sentences about what looks wrong.
    """

    repair: Repair
    given: np.ndarray
    hole: np.ndarray
    arrays: Mapping[str, np.ndarray]
    others: list[Mapping[str, np.ndarray]]
    tiles: list[Tile]
    sides: Mapping[str, np.ndarray]
    guide: str | None
    notes: list[str]


class Restorer:
    """Restores sections of one volume.

    Attributes:
      failed: why sections were not restored, by position.
    """

    def __init__(
        self,
        job: Job,
        trained: Trained,
        restore: Restore,
        volume: Volume,
        holes: Holes,
        needs: Sequence[str],
        store: Store,
    ) -> None:
        self.job, self.trained, self.restore = job, trained, restore
        self.volume, self.holes, self.needs, self.store = volume, holes, needs, store
        self.failed: dict[int, str] = {}
        self.derived = systems.derived(trained.config)
        self.scale = _scale(trained, volume, holes)
        self.known: Callable[[int], np.ndarray] = recent(self._known, BLOCK)

    def _known(self, z: int) -> np.ndarray:
        """A section that is sound, or has been restored."""
        section = self.volume.section(z)
        if z in self.holes.voxels:
            self.store.patch(z).paste(section)
        return section

    def restore_some(self, repairs: Sequence[Repair]) -> None:
        """Restores sections of one round and keeps them; enters those that fail."""
        loaded = []
        for repair in repairs:
            try:
                loaded.append(self._load(repair))
            except FAILURES as error:
                self.failed[repair.section] = " ".join(str(error).split())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # notes tell them already
                made = self._predict(loaded)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            why = "the device has not enough memory; give a smaller --tile"
            self.failed |= {one.repair.section: why for one in loaded}
            return
        for one, (pixels, apart) in zip(loaded, made, strict=True):
            stored = self._stored(pixels, one.given)
            patch = cut_patch(one.hole, stored, apart)
            self.store.put(one.repair.section, patch, self._entry(one, stored, apart))

    def _load(self, repair: Repair) -> Loaded:
        """Reads a section and its neighbours, and checks that it can be restored."""
        z, job = repair.section, self.job
        places = {"previous": repair.previous, "following": repair.following}
        lost = [p for p in places.values() if p in self.failed]
        if lost:
            raise InpaintInputError(
                f"its neighbour, section {lost[0]}, was not restored"
            )
        given, hole = self.volume.section(z), self.holes.hole(z)
        whole = z in self.holes.whole
        blind = whole and self.holes.blind
        sides = {name: self.known(p) for name, p in places.items() if p is not None}
        notes: list[str] = []
        if self.scale.top is None:
            arrays = {"image": given}
        else:
            arrays = {"image": self.grey(given, hole)}
        if not blind:
            arrays["mask"] = hole[..., None].astype(np.uint8)
        others: list[Mapping[str, np.ndarray]] = []
        guide = None
        if list(self.needs) == ["neighbor"]:
            guide = self._nearer(repair, given, hole, sides)
            arrays["neighbor"] = sides[guide]
            if len(sides) == 2:
                others = [{**arrays, "neighbor": sides[name]} for name in SIDES]
        elif self.needs:
            arrays |= sides
            for name, one in self.derived.items():  # of the whole section, not a tile
                ends = sides["previous"], sides["following"]
                arrays[name] = one.function(*ends, repair.alpha)
            others = [
                {**arrays, **dict.fromkeys((*SIDES, *self.derived), side)}
                for side in sides.values()
            ]
            notes += self._shifted(sides)
        shape = arrays["image"].shape
        tiles = cover(
            self._padded(hole[..., None], 0)[..., 0],
            *tiling(job, self.trained, shape),
            blind=whole,  # nothing is to be seen around, however large the tile
        )
        arrays = {
            n: self._padded(a, -1 if n == "image" else 0) for n, a in arrays.items()
        }
        self._validate(z, arrays, tiles)
        apart = others if job.disagreement and not blind else []
        return Loaded(repair, given, hole, arrays, apart, tiles, sides, guide, notes)

    def _validate(
        self, z: int, arrays: Mapping[str, np.ndarray], tiles: Sequence[Tile]
    ) -> None:
        name = self.volume.label(z)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for tile in tiles:
                part = cut(arrays, tile)
                systems.validate_inputs(self.trained.config.system, name, part)

    def grey(self, given: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Grey values of a NIfTI section as float32 in [-1, 1]."""
        assert isinstance(self.volume, NiftiVolume) and self.scale.top is not None
        file = self.volume.file
        values = given.astype(np.float64) * file.slope + file.inter
        wrong = ~np.isfinite(values[..., 0])
        if (wrong & ~hole).any():
            raise NonFiniteInputError(
                f"{int((wrong & ~hole).sum())} voxels outside the hole are NaN or "
                "infinite; replace them, by 0 where they are background"
            )
        share = np.where(wrong[..., None], 0.0, values) / self.scale.top
        return (2.0 * np.clip(share, 0.0, 1.0) - 1.0).astype(np.float32)

    def _padded(self, array: np.ndarray, value: float) -> np.ndarray:
        pad = _pads(array.shape, self.scale.multiple)
        if not np.any(pad):
            return array
        return np.pad(array, (*pad, (0, 0)), constant_values=value)

    def _stored(self, pixels: np.ndarray, given: np.ndarray) -> np.ndarray:
        """What the network made, [H, W, C] as the volume stores it."""
        if self.scale.top is None:
            return pixels
        assert isinstance(self.volume, NiftiVolume)
        (top, _), (left, _) = _pads(given.shape, self.scale.multiple)
        own = pixels[top : top + given.shape[0], left : left + given.shape[1]]
        grey = (own.astype(np.float64) + 1.0) / 2.0 * self.scale.top
        return as_stored(grey, self.volume.file).astype(self.volume.dtype)

    def _nearer(
        self,
        repair: Repair,
        given: np.ndarray,
        hole: np.ndarray,
        sides: Mapping[str, np.ndarray],
    ) -> str:
        """The neighbour that guides: the nearer, or else the one that fits better."""
        if len(sides) == 1:
            return next(iter(sides))
        assert repair.previous is not None and repair.following is not None
        before = repair.section - repair.previous
        after = repair.following - repair.section
        if before != after or hole.all():
            return "previous" if before <= after else "following"
        valid = ~hole[..., None]
        scores = {name: psnr(given, side, valid) for name, side in sides.items()}
        return max(SIDES, key=lambda name: scores[name])

    def _shifted(self, sides: Mapping[str, np.ndarray]) -> list[str]:
        """A sentence where the neighbours lie further apart than flow can follow."""
        limit = int(self.trained.config.data.largest_shift)
        shift = _shift(sides)
        if not limit or shift is None or max(map(abs, shift)) <= limit:
            return []
        return [
            f"its neighbours look shifted by {shift} px, more than {limit}: align the "
            "stack first"
        ]

    def _predict(
        self, loaded: Sequence[Loaded]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """The completed sections, and how far the neighbours disagree, [H, W]."""
        run = lambda pictures, tiles: restore_pictures(
            self.restore, pictures, tiles, self.job.batch_size
        )
        made = run([one.arrays for one in loaded], [one.tiles for one in loaded])
        pairs = [one for one in loaded if one.others]
        apart: dict[int, np.ndarray] = {}
        if pairs:
            ends = [
                run([one.others[n] for one in pairs], [one.tiles for one in pairs])
                for n in range(2)
            ]
            for one, first, second in zip(pairs, *ends, strict=True):
                away = np.abs(first.astype(np.int64) - second).max(axis=-1)
                apart[one.repair.section] = away.astype(one.given.dtype)
        return [
            (pixels, apart.get(one.repair.section))
            for one, pixels in zip(loaded, made, strict=True)
        ]

    def _entry(
        self, one: Loaded, stored: np.ndarray, apart: np.ndarray | None
    ) -> dict[str, Any]:
        """What is told of a restored section."""
        repair, hole = one.repair, one.hole
        used = [p for p in (repair.previous, repair.following) if p is not None]
        far = max((abs(p - repair.section) for p in used), default=0)
        notes = list(one.notes)
        guide = None
        if one.guide is not None:
            guide = getattr(repair, one.guide)
            far = abs(guide - repair.section)
        uncertain = repair.round > 1 or far > 1
        if uncertain:
            notes.append(
                f"less certain: neighbours up to {far} section{'s' if far > 1 else ''} "
                f"away, round {repair.round}"
            )
        scores: dict[str, float | None] = {}
        if self.scale.top is None and str(stored.dtype) in HALF:
            where = hole[..., None]
            for name, side in one.sides.items():
                scores[f"psnr_to_{name}"] = _number(psnr(stored, side, where))
            if len(one.sides) == 2:
                both = psnr(one.sides["previous"], one.sides["following"], where)
                scores["psnr_of_neighbors"] = _number(both)
        if apart is not None:
            scores["disagreement_mean"] = float(apart[hole].mean())
            scores["disagreement_max"] = float(apart[hole].max())
        return {
            "state": "restored",
            "round": repair.round,
            "previous": repair.previous,
            "following": repair.following,
            **({} if guide is None else {"guided_by": guide}),
            "less_certain": uncertain,
            "whole": repair.section in self.holes.whole,
            "blind": "mask" not in one.arrays,
            "hole_voxels": int(np.count_nonzero(hole)),
            "hole_ratio": float(hole.mean()),
            "tiles": len(one.tiles),
            "neighbor_shift": _shift(one.sides),
            "scores": scores,
            "notes": notes,
        }


def _scale(trained: Trained, volume: Volume, holes: Holes) -> Scale:
    """The scale of the training: levels, or a percentile of the valid voxels.

    Raises:
      ValueError: no positive voxel is valid.
    """
    config = trained.config
    if config.data.kind != "slices":
        return Scale(None, 1)
    assert isinstance(volume, NiftiVolume)
    parts = []
    for z in range(volume.shape[0]):
        hole: Any = holes.hole(z) if z in holes.voxels else None
        if z in holes.whole and holes.blind:
            hole = None  # it is read as it is
        values = volume.section(z)[..., 0].astype(np.float64)
        values = values * volume.file.slope + volume.file.inter
        parts.append(values.ravel() if hole is None else values[~hole])
    valid = np.concatenate(parts)
    top = grey_top(volume.path, valid[np.isfinite(valid)], config.data.percentile)
    return Scale(top, config.eval.size_multiple)


def _pads(shape: Sequence[int], multiple: int) -> list[tuple[int, int]]:
    """Rows and columns to be added about the centre."""
    spare = [-size % multiple for size in shape[:2]]
    return [(more // 2, more - more // 2) for more in spare]


def _shift(sides: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    """How far the two neighbours are shifted (dx, dy); None if there are not two."""
    if len(sides) < 2 or min(next(iter(sides.values())).shape[:2]) < LEAST_SIDE:
        return None
    with contextlib.suppress(ValueError):
        return shift_between(sides["previous"], sides["following"])
    return None


def _number(value: float) -> float | None:
    """JSON knows no infinity; None of equal sections."""
    return round(value, 4) if math.isfinite(value) else None
